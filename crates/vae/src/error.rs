/// What can be wrong with a configuration, a checkpoint's shapes or a video.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VaeError {
    /// The number of frames does not fill latent frames.
    #[error("the video has {found} frames; expected {stride}·n+1, nearest {nearest}; drop or repeat frames")]
    FrameCount {
        /// Frames given.
        found: usize,
        /// Pixel frames of a latent frame.
        stride: usize,
        /// The nearest number that is allowed.
        nearest: usize,
    },
    /// Height or width is not a multiple of the spatial stride.
    #[error(
        "the video is {width}×{height}; width and height must be multiples of {stride}, nearest {nearest_width}×{nearest_height}; resize or crop it"
    )]
    Size {
        /// Height given, in pixels.
        height: usize,
        /// Width given, in pixels.
        width: usize,
        /// Pixels of a latent pixel.
        stride: usize,
        /// Nearest allowed height.
        nearest_height: usize,
        /// Nearest allowed width.
        nearest_width: usize,
    },
    /// Tiles cannot be cut like this.
    #[error(
        "VAE tiles of {size} pixels with an overlap of {overlap}; both must be multiples of {stride} and the overlap at most half of the size, say 256 with 64"
    )]
    Tile {
        /// Side asked for, in pixels.
        size: usize,
        /// Overlap asked for, in pixels.
        overlap: usize,
        /// Pixels of a latent pixel.
        stride: usize,
    },
    /// A tensor of the wrong shape was handed in.
    #[error("{what} has shape {found:?}; expected [B, {channels}, frames, height, width]")]
    Shape {
        /// What the tensor is.
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// Channels expected.
        channels: usize,
    },
    /// A chunk differs from the ones before it.
    #[error("{what} has shape {found:?} after chunks of {expected:?}; all chunks of a stream are alike but for frames")]
    ChunkChanged {
        /// What the tensor is.
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape of the first chunk.
        expected: Vec<usize>,
    },
    /// The configuration contradicts itself.
    #[error("VAE configuration: {field} has {found} entries; expected {expected}")]
    Config {
        /// The field.
        field: &'static str,
        /// Entries it has.
        found: usize,
        /// Entries it needs.
        expected: usize,
    },
    /// A dimension of the configuration is zero or otherwise impossible.
    #[error("VAE configuration: {field} is {found}; expected {expected}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A GPU cannot compute with these sizes.
    #[error(
        "the GPU's VAE kernels are for layers of 8, 16, … 1024 channels, at most {attention} where attention is; this VAE has {found}; compute it on the CPU (--cpu-vae)"
    )]
    Gpu {
        /// Channels that do not fit.
        found: usize,
        /// The most channels of the middle.
        attention: usize,
    },
    /// A GPU takes one video at a time.
    #[error("{found} videos at once; the VAE on a GPU takes one after the other")]
    Batch {
        /// Videos given.
        found: usize,
    },
    /// The network gave infinities or NaN.
    #[error("{what} {number} of the VAE is not finite{}", layer.as_ref().map(|l| format!(", from {l} on")).unwrap_or_default())]
    NotFinite {
        /// What a result is called.
        what: &'static str,
        /// Which, from 1.
        number: usize,
        /// The first layer whose remembered frames are not finite.
        layer: Option<String>,
    },
    /// The tensors are not those of a Wan 2.1 VAE.
    #[error("not a Wan 2.1 VAE: {problem}; give Wan2.1_VAE.pth or the vae folder of a diffusers release")]
    NotAVae {
        /// What does not fit.
        problem: String,
    },
}

impl VaeError {
    /// [`NotFinite`](Self::NotFinite) inside of an error of tensor code.
    pub fn inside(error: &candle_core::Error) -> Option<&Self> {
        match error {
            candle_core::Error::WrappedContext { wrapped, .. } => wrapped.downcast_ref(),
            candle_core::Error::WithBacktrace { inner, .. } | candle_core::Error::Context { inner, .. } => {
                Self::inside(inner)
            }
            _ => None,
        }
    }
}

impl From<VaeError> for candle_core::Error {
    fn from(error: VaeError) -> Self {
        match error {
            VaeError::NotFinite { .. } => Self::WrappedContext { wrapped: Box::new(error), context: "VAE".into() },
            other => Self::wrap(other),
        }
    }
}
