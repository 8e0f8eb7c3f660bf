//! DWPose, the whole-body keypoint network: RTMPose's CSPNeXt and RTMCC head, distilled.
//!
//! Source: the released `dw-ll_ucoco_384` in both of its packagings; paper: *Effective Whole-body Pose Estimation with
//! Two-stages Distillation* (Yang et al. 2023). Names are mmpose's.
//!
//! Letters: B pictures, K = 133 keypoints, H×W = 384×288 pixels.

use std::path::Path;

use candle_core::{Device, Result, Tensor};
use serde::{Deserialize, Serialize};
use weights::{Checkpoint, Manifest, RandomWeights, Weights};

use super::cspnext::{EPS, backbone};
use super::graph::{Builder, Conv, Graph, Kernel};
use super::layers::Stored;
use super::onnx;
use super::rtmcc::{Dims, Head};
use super::run::{Network, On, Tap, gpu_activation_bytes};
use super::source::{self, Detect, File, count_blocks};
use crate::sizes::Size;

const NETWORK: &str = "a DWPose network";
/// Bins of SimCC to a pixel.
pub const BINS_PER_PIXEL: usize = 2;

/// Sizes of a DWPose network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DwPoseConfig {
    /// Channels after the stem; each stage doubles them.
    pub width: usize,
    /// Blocks of the four stages.
    pub blocks: [usize; 4],
    /// Keypoints of a person.
    pub keypoints: usize,
    /// Height and width of a picture in pixels, multiples of 32.
    pub input_size: [usize; 2],
    /// Width of a keypoint's token.
    pub hidden: usize,
    /// Width of the gate and of the values.
    pub expanded: usize,
    /// Width of queries and keys.
    pub attention: usize,
    /// Side of the last convolution's kernel, odd: 7 in everything released.
    pub kernel: usize,
}

impl DwPoseConfig {
    /// The large one at 384×288 (`dw-ll_ucoco_384`): 33.6 million parameters.
    pub fn dwpose_l() -> Self {
        Self {
            width: 64,
            blocks: [3, 6, 6, 3],
            keypoints: 133,
            input_size: [384, 288],
            hidden: 256,
            expanded: 512,
            attention: 128,
            kernel: 7,
        }
    }

    /// A few thousand parameters, for tests.
    pub fn tiny() -> Self {
        Self {
            width: 4,
            blocks: [1, 1, 1, 1],
            keypoints: 5,
            input_size: [64, 32],
            hidden: 8,
            expanded: 16,
            attention: 4,
            kernel: 7,
        }
    }

    /// Reads the sizes off a checkpoint: `shape` gives the shape of a tensor by mmpose's name.
    ///
    /// # Errors
    /// A tensor that tells a size is missing, or the size is beyond reason.
    pub fn detect<'a>(shape: impl Fn(&str) -> Option<&'a [usize]>) -> Result<Self> {
        let detect = Detect::new("DWPose network", &shape);
        let blocks = [1, 2, 3, 4].map(|stage| {
            let layer = if stage == 4 { 2 } else { 1 };
            count_blocks(&shape, &format!("backbone.stage{stage}.{layer}.blocks"))
        });
        let side = |name| Ok::<_, candle_core::Error>(detect.first(name)? / BINS_PER_PIXEL);
        let config = Self {
            width: detect.first("backbone.stem.2.conv.weight")?,
            blocks,
            keypoints: detect.first("head.final_layer.weight")?,
            input_size: [side("head.cls_y.weight")?, side("head.cls_x.weight")?],
            hidden: detect.first("head.gau.o.weight")?,
            expanded: detect.dims("head.gau.o.weight")?.last().copied().unwrap_or(0),
            attention: detect.dims("head.gau.gamma")?.last().copied().unwrap_or(0),
            kernel: detect.dims("head.final_layer.weight")?.last().copied().unwrap_or(0),
        };
        config.check()?;
        Ok(config)
    }

    pub(super) fn check(&self) -> Result<()> {
        let Self { width, blocks, keypoints, input_size: [height, width_px], hidden, expanded, attention, kernel } =
            self;
        let sizes = [
            (*width, 512),
            (*keypoints, 10_000),
            (*height, 4096),
            (*width_px, 4096),
            (*hidden, 8192),
            (*expanded, 8192),
            (*attention, 8192),
            (*kernel, 31),
        ];
        let blocks_fit = blocks.iter().all(|n| (1..=64).contains(n));
        let sizes_fit = sizes.iter().all(|(n, most)| (1..=*most).contains(n));
        if !blocks_fit || !sizes_fit || width % 2 != 0 || kernel % 2 == 0 || height % 32 != 0 || width_px % 32 != 0 {
            candle_core::bail!("no DWPose network has these sizes: {self:?}");
        }
        Ok(())
    }

    /// Most bytes that one [`WholeBodyNet::forward`] takes in a GPU's memory for so many pictures together, weights apart.
    pub fn gpu_activation_bytes(&self, pictures: usize) -> u64 {
        let [height, width] = self.input_size;
        gpu_activation_bytes(&self.graph(), [pictures, height, width])
    }

    /// The convolutions; the one output is a map a keypoint.
    pub(super) fn graph(&self) -> Graph {
        let mut net = Builder::new(EPS);
        let x = backbone(&mut net, self.width, self.blocks);
        let maps = net.plain_conv("head.final_layer", Kernel::new(self.keypoints, self.kernel), x);
        net.finish(vec![maps])
    }

    pub(super) fn head(&self) -> Dims {
        let [height, width] = self.input_size;
        Dims {
            features: (height / 32) * (width / 32),
            hidden: self.hidden,
            expanded: self.expanded,
            attention: self.attention,
            columns: BINS_PER_PIXEL * width,
            rows: BINS_PER_PIXEL * height,
        }
    }
}

/// What [`WholeBodyNet`] needs of a checkpoint, under mmpose's names.
///
/// # Errors
/// The config is not valid.
pub fn dwpose_manifest(config: &DwPoseConfig) -> Result<Manifest> {
    config.check()?;
    Manifest::record(|weights| {
        config.graph().convs().try_for_each(|conv| Stored::named(conv, weights).map(drop))?;
        Head::new(config.head(), &weights.pp("head"))
    })
}

/// The keypoint network. Its head, a hundredth of the arithmetic, is computed on the host.
#[derive(Debug, Clone)]
pub struct WholeBodyNet {
    config: DwPoseConfig,
    network: Network,
    head: Head,
}

impl WholeBodyNet {
    /// From mmpose's `.pth`, the same tensors as safetensors, or an ONNX export with the outputs `simcc_x` and `simcc_y`
    /// (`dw-ll_ucoco_384.onnx`).
    ///
    /// # Errors
    /// [`PoseError`](crate::PoseError) for files that are missing or damaged, and for other networks.
    pub fn load(path: impl AsRef<Path>, on: On) -> crate::Result<Self> {
        Self::from_file(&File::open(NETWORK, path.as_ref())?, on)
    }

    /// From a safetensors file in memory, which errors call `label`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_static(label: &str, bytes: &'static [u8], on: On) -> crate::Result<Self> {
        Self::from_file(&File::embedded(NETWORK, label, bytes)?, on)
    }

    fn from_file(file: &File, on: On) -> crate::Result<Self> {
        let built = match file {
            File::Onnx(model) => Self::from_onnx(model, on),
            File::Checkpoint(checkpoint) => Self::from_checkpoint(checkpoint, on),
        };
        built.map_err(|e| file.error(NETWORK, e))
    }

    fn from_onnx(model: &weights::onnx::Model, on: On) -> Result<Self> {
        let found = onnx::dwpose(model)?;
        let head = found.head_weights(&model.weights, &Device::Cpu)?;
        Self::new(found.config, &head, on, |conv| found.convs.load(conv, &model.weights, &Device::Cpu))
    }

    fn from_checkpoint(checkpoint: &Checkpoint, on: On) -> Result<Self> {
        let config = DwPoseConfig::detect(|name| checkpoint.shape(name))?;
        let weights = source::checked(checkpoint, &dwpose_manifest(&config)?, NETWORK, &Device::Cpu)?;
        Self::new(config, &weights, on, |conv| Stored::named(conv, &weights)?.fold())
    }

    /// With random weights, for tests and benches.
    ///
    /// # Errors
    /// The config is not valid.
    pub fn random(config: DwPoseConfig, seed: u64, on: On) -> Result<Self> {
        let weights = source::random(RandomWeights::new(seed));
        Self::new(config, &weights, on, |conv| Stored::named(conv, &weights)?.fold())
    }

    fn new(
        config: DwPoseConfig,
        weights: &Weights,
        on: On,
        weigh: impl FnMut(&Conv) -> Result<(Tensor, Tensor)>,
    ) -> Result<Self> {
        config.check()?;
        let network = Network::new(config.graph(), on, weigh)?;
        let head = Head::new(config.head(), &weights.pp("head"))?;
        Ok(Self { config, network, head })
    }

    /// The sizes.
    pub fn config(&self) -> &DwPoseConfig {
        &self.config
    }

    /// Size of the pictures that it takes.
    pub fn input_size(&self) -> Size {
        let [height, width] = self.config.input_size;
        Size::new(width as u32, height as u32)
    }

    /// `pictures` `[B, H, W, 3]` f32, less the channels' means and divided by their deviations → `simcc_x` `[B, K, 2·W]`,
    /// `simcc_y` `[B, K, 2·H]` f32: how much speaks for each half pixel.
    ///
    /// # Errors
    /// Pictures of another shape.
    pub fn forward(&self, pictures: &Tensor) -> Result<(Tensor, Tensor)> {
        self.run(pictures, None)
    }

    /// As [`forward`](Self::forward); the result of each convolution, `[B, h, w, C]` after its activation, is shown to `tap`
    /// under mmpose's name of it, and an error from `tap` stops the work and is returned.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and whatever `tap` returns.
    pub fn forward_with(
        &self,
        pictures: &Tensor,
        tap: &mut dyn FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<(Tensor, Tensor)> {
        self.run(pictures, Some(tap))
    }

    fn run(&self, pictures: &Tensor, tap: Option<Tap>) -> Result<(Tensor, Tensor)> {
        let [height, width] = self.config.input_size;
        match pictures.dims() {
            [b, h, w, 3] if *b > 0 && *h == height && *w == width => {}
            other => candle_core::bail!("DWPose: pictures are {other:?}; expected [B, {height}, {width}, 3]"),
        }
        match self.network.forward(pictures, tap)?.as_slice() {
            [maps] => self.head.forward(maps),
            other => candle_core::bail!("DWPose: {} outputs", other.len()),
        }
    }
}
