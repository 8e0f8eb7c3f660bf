//! What layers are computed with: one spelling of the network serves the host and a GPU.
//!
//! On the host frames are `[B, C, T, H, W]` f32, on a GPU `[T, H, W, C]` bf16 of one video, with sums in f32 and what leaves the network
//! in f32 too.

mod gpu;
mod host;

use std::fmt;

use candle_core::{Result, Tensor};
use kernels::conv3d::Geometry;
use kernels::cuda::Download;
use weights::Weights;

pub(crate) use gpu::OnGpu;
pub(crate) use host::Host;

/// What becomes of what a convolution computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Another layer takes it.
    Inner,
    /// Twice as many frames of half of the channels: see [`Backend::pairs`].
    Pairs,
    /// It is the network's result.
    Last,
}

/// What a convolution sees.
#[derive(Debug)]
pub(crate) struct Input<'a, F> {
    /// The frames that follow those of `history`.
    pub x: &'a F,
    /// Frames before them one by one, oldest first.
    pub history: &'a [F],
    /// Added to the result.
    pub residual: Option<&'a F>,
}

/// A result of the network, which may still be computed.
pub(crate) enum Fetched {
    /// `[B, C, T, H, W]` f32.
    Here(Tensor),
    /// The same, on its way.
    Coming(Download),
}

impl Fetched {
    /// Waits for it.
    pub fn finish(self) -> Result<Tensor> {
        match self {
            Self::Here(tensor) => Ok(tensor),
            Self::Coming(download) => Ok(download.finish()?),
        }
    }
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Here(_)) { "result" } else { "result on its way" })
    }
}

/// See the module.
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    /// Whether what is computed is there when the call returns.
    const AT_ONCE: bool;

    /// Frames of a video. Clones are the same numbers.
    type Frames: Clone + fmt::Debug + Send + Sync;
    type Filter: fmt::Debug + Send + Sync;
    type Norm: fmt::Debug + Send + Sync;

    /// `weight` `[O, I, kT, k, k]`, or `[O, I, k, k]` for one frame, and `bias` `[O]`.
    fn filter(&self, shape: &[usize], output: Output, w: &Weights) -> Result<Self::Filter>;
    /// `gamma` `[C, 1, ..]` of an RMS norm over channels, with or without SiLU behind it.
    fn norm(&self, shape: &[usize], silu: bool, w: &Weights) -> Result<Self::Norm>;

    /// A frame of the host, `[B, C, 1, H, W]` f32, in memory of its own.
    fn bring(&self, frame: Tensor) -> Result<Self::Frames>;
    /// The other way, of what a filter for the network's result has computed.
    fn fetch(&self, x: Self::Frames) -> Result<Fetched>;

    /// How many frames there are.
    fn count(&self, x: &Self::Frames) -> Result<usize>;
    /// Frame `t` alone, without a copy.
    fn frame(&self, x: &Self::Frames, t: usize) -> Result<Self::Frames>;
    /// The same in memory of its own, so that it does not keep the frames beside it alive.
    fn alone(&self, x: Self::Frames) -> Result<Self::Frames>;
    /// The frames from `t` on.
    fn after(&self, x: &Self::Frames, t: usize) -> Result<Self::Frames>;
    /// Frame by frame, what a filter for [pairs](Output::Pairs) has computed: of each frame the first half of its channels, then the second.
    fn pairs(&self, x: Self::Frames) -> Result<Vec<Self::Frames>>;
    /// Whether no number is infinite or none.
    fn is_finite(&self, x: &Self::Frames) -> Result<bool>;

    fn convolve(&self, filter: &Self::Filter, geometry: Geometry, input: Input<Self::Frames>) -> Result<Self::Frames>;
    fn normalise(&self, x: &Self::Frames, norm: &Self::Norm) -> Result<Self::Frames>;
    /// One head among the pixels of a frame: queries, keys and values lie behind each other in the channels of `qkv`.
    fn attend(&self, qkv: Self::Frames) -> Result<Self::Frames>;
}
