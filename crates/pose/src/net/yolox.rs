//! YOLOX, the person detector: a CSPDarknet, a path-aggregating pyramid and a decoupled head on three levels.
//!
//! Source: mmdet's `yolox_l_8x8_300e_coco` and Megvii's YOLOX, which are the same network; paper: *YOLOX: Exceeding YOLO
//! Series in 2021* (Ge et al. 2021). Names are mmdet's.
//!
//! Letters: B pictures, H×W pixels, N = HW/64 + HW/256 + HW/1024 places.

use std::path::Path;

use candle_core::{Device, Result, Tensor};
use serde::{Deserialize, Serialize};
use weights::{Checkpoint, Manifest, RandomWeights};

use super::graph::{Builder, Conv, Graph, Kernel, Piece, Value};
use super::layers::{Block, CspLayer, Stored, stages};
use super::onnx;
use super::run::{Network, On, Tap, gpu_activation_bytes};
use super::source::{self, Detect, File, count_blocks};
use crate::sizes::Size;

const NETWORK: &str = "a YOLOX detector";
/// Added to the variance in every batch norm.
const EPS: f64 = 1e-3;
/// Pixels of a place of each level.
pub const STRIDES: [usize; 3] = [8, 16, 32];

/// Largest side in pixels of the pictures that a detector may take: a frame in flight needs 2 GiB then.
pub const MAX_INPUT_SIDE: usize = 2048;

/// Sizes of a YOLOX.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct YoloxConfig {
    /// Channels after the stem; each stage doubles them.
    pub width: usize,
    /// Blocks of the four stages of the backbone.
    pub blocks: [usize; 4],
    /// Blocks of each layer of the pyramid.
    pub neck_blocks: usize,
    /// Classes of things; the first is the person.
    pub classes: usize,
    /// Size of the pictures that it was trained on, in pixels. Any multiples of 32 can be given.
    pub input_size: [usize; 2],
}

impl YoloxConfig {
    /// The large one: 54.2 million parameters.
    pub fn yolox_l() -> Self {
        Self { width: 64, blocks: [3, 9, 9, 3], neck_blocks: 3, classes: 80, input_size: [640, 640] }
    }

    /// A few thousand parameters, for tests.
    pub fn tiny() -> Self {
        Self { width: 4, blocks: [1, 1, 1, 1], neck_blocks: 1, classes: 3, input_size: [64, 64] }
    }

    /// Reads the sizes off a checkpoint: `shape` gives the shape of a tensor by mmdet's name.
    ///
    /// # Errors
    /// A tensor that tells a size is missing, or the size is beyond reason.
    pub fn detect<'a>(shape: impl Fn(&str) -> Option<&'a [usize]>) -> Result<Self> {
        let detect = Detect::new("YOLOX", &shape);
        let blocks = [1, 2, 3, 4].map(|stage| {
            let layer = if stage == 4 { 2 } else { 1 };
            count_blocks(&shape, &format!("backbone.stage{stage}.{layer}.blocks"))
        });
        let config = Self {
            width: detect.first("backbone.stem.conv.conv.weight")?,
            blocks,
            neck_blocks: count_blocks(&shape, "neck.top_down_blocks.0.blocks"),
            classes: detect.first("bbox_head.multi_level_conv_cls.0.weight")?,
            ..Self::yolox_l()
        };
        config.check()?;
        Ok(config)
    }

    /// As [`detect`](Self::detect); the size of pictures, which no tensor tells, is 640×640 unless the file's metadata say
    /// otherwise under `input_size`, such as `256x256` (height, width).
    ///
    /// # Errors
    /// As [`detect`](Self::detect), and a size that cannot be.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let mut config = Self::detect(|name| checkpoint.shape(name))?;
        if let Some(text) = checkpoint.metadata().get("input_size") {
            let sides = text.split_once('x').and_then(|(h, w)| Some([h.parse().ok()?, w.parse().ok()?]));
            let Some(sides) = sides else {
                candle_core::bail!("its metadata give the input size {text:?}; expected say 256x256");
            };
            config.input_size = sides;
            config.check()?;
        }
        Ok(config)
    }

    pub(super) fn check(&self) -> Result<()> {
        let Self { width, blocks, neck_blocks, classes, input_size } = self;
        let [height, width_px] = input_size;
        if input_size.iter().any(|side| !(32..=MAX_INPUT_SIDE).contains(side) || side % 32 != 0) {
            candle_core::bail!(
                "its input size is {height}x{width_px}; expected multiples of 32 up to {MAX_INPUT_SIDE}, such as 640x640"
            );
        }
        let sizes = [(*width, 512), (*neck_blocks, 64), (*classes, 10_000)];
        let blocks_fit = blocks.iter().all(|n| (1..=64).contains(n));
        let sizes_fit = sizes.iter().all(|(n, most)| (1..=*most).contains(n));
        if !blocks_fit || !sizes_fit {
            candle_core::bail!("no YOLOX has these sizes: {self:?}");
        }
        Ok(())
    }

    /// Most bytes that one [`Yolox::forward`] takes in a GPU's memory for so many pictures together of the input size, weights apart.
    pub fn gpu_activation_bytes(&self, pictures: usize) -> u64 {
        let [height, width] = self.input_size;
        gpu_activation_bytes(&self.graph(), [pictures, height, width])
    }

    /// The network; its outputs are box, object and class of each level in turn.
    pub(super) fn graph(&self) -> Graph {
        let mut net = Builder::new(EPS);
        let x = net.focus(net.picture());
        let x = net.norm_conv("backbone.stem.conv", Kernel::new(self.width, 3), &[x.into()]);
        let [_, c3, c4, c5] = stages(&mut net, x, self.blocks, Block::Darknet);
        let levels = self.neck(&mut net, [c3, c4, c5]);
        let outputs = levels.into_iter().enumerate().flat_map(|(level, x)| self.head(&mut net, level, x)).collect();
        net.finish(outputs)
    }

    /// Source: PANet (Liu et al. 2018) as in mmdet's `YOLOXPAFPN`.
    fn neck(&self, net: &mut Builder, [c3, c4, c5]: [Value; 3]) -> [Value; 3] {
        let [narrow, middle, wide] = [4, 8, 16].map(|n| n * self.width);
        let csp = |net: &mut Builder, name: &str, out_channels, pieces: [Piece; 2]| {
            let layer = CspLayer { out_channels, blocks: self.neck_blocks, residual: false, block: Block::Darknet };
            layer.build(net, &format!("neck.{name}"), &pieces)
        };
        let doubled = |value| Piece { value, doubled: true };
        let p5 = net.norm_conv("neck.reduce_layers.0", Kernel::new(middle, 1), &[c5.into()]);
        let x = csp(net, "top_down_blocks.0", middle, [doubled(p5), c4.into()]);
        let p4 = net.norm_conv("neck.reduce_layers.1", Kernel::new(narrow, 1), &[x.into()]);
        let n3 = csp(net, "top_down_blocks.1", narrow, [doubled(p4), c3.into()]);
        let x = net.norm_conv("neck.downsamples.0", Kernel::down(narrow), &[n3.into()]);
        let n4 = csp(net, "bottom_up_blocks.0", middle, [x.into(), p4.into()]);
        let x = net.norm_conv("neck.downsamples.1", Kernel::down(middle), &[n4.into()]);
        let n5 = csp(net, "bottom_up_blocks.1", wide, [x.into(), p5.into()]);
        let mut level = 0;
        [n3, n4, n5].map(|x| {
            let name = format!("neck.out_convs.{level}");
            level += 1;
            net.norm_conv(name, Kernel::new(narrow, 1), &[x.into()])
        })
    }

    fn head(&self, net: &mut Builder, level: usize, x: Value) -> [Value; 3] {
        let name = |part: &str| format!("bbox_head.multi_level_{part}.{level}");
        let two = |net: &mut Builder, part: &str| {
            let first = net.same_width_conv(format!("{}.0", name(part)), 3, x, None);
            net.same_width_conv(format!("{}.1", name(part)), 3, first, None)
        };
        let boxes = two(net, "reg_convs");
        let reg = net.plain_conv(name("conv_reg"), Kernel::new(4, 1), boxes);
        let obj = net.plain_conv(name("conv_obj"), Kernel::new(1, 1), boxes);
        let classes = two(net, "cls_convs");
        [reg, obj, net.plain_conv(name("conv_cls"), Kernel::new(self.classes, 1), classes)]
    }
}

/// Larger side of the pictures that the detector in a file takes; see [`Yolox::load`]. Reads headers only.
///
/// # Errors
/// As [`Yolox::load`], of what headers show.
pub fn detector_side(path: &Path) -> crate::Result<usize> {
    let file = File::open(NETWORK, path)?;
    Yolox::side_in(&file).map_err(|e| file.error(NETWORK, e))
}

/// What [`Yolox`] needs of a checkpoint, under mmdet's names.
///
/// # Errors
/// The config is not valid.
pub fn yolox_manifest(config: &YoloxConfig) -> Result<Manifest> {
    config.check()?;
    Manifest::record(|weights| config.graph().convs().try_for_each(|conv| Stored::named(conv, weights).map(drop)))
}

/// The detector.
#[derive(Debug, Clone)]
pub struct Yolox {
    config: YoloxConfig,
    network: Network,
}

impl Yolox {
    /// From mmdet's `.pth`, the same tensors as safetensors, or an ONNX export whose output is `[1, N, 5 + classes]` before
    /// boxes are decoded, as Megvii's exporter writes it (`yolox_l.onnx`).
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

    /// The side of the pictures that the detector in a file takes, as far as headers tell; memory grows with its square.
    ///
    /// # Errors
    /// As [`load`](Self::load), of what headers show.
    fn side_in(file: &File) -> Result<usize> {
        match file {
            File::Onnx(model) => onnx::yolox_input(model),
            File::Checkpoint(checkpoint) => YoloxConfig::of(checkpoint).map(|config| config.input_size),
        }
        .map(|[height, width]| height.max(width))
    }

    fn from_file(file: &File, on: On) -> crate::Result<Self> {
        let built = match file {
            File::Onnx(model) => onnx::yolox(model).and_then(|(config, found)| {
                Self::new(config, on, |conv| found.load(conv, &model.weights, &Device::Cpu))
            }),
            File::Checkpoint(checkpoint) => Self::from_checkpoint(checkpoint, on),
        };
        built.map_err(|e| file.error(NETWORK, e))
    }

    fn from_checkpoint(checkpoint: &Checkpoint, on: On) -> Result<Self> {
        let config = YoloxConfig::of(checkpoint)?;
        let weights = source::checked(checkpoint, &yolox_manifest(&config)?, NETWORK, &Device::Cpu)?;
        Self::new(config, on, |conv| Stored::named(conv, &weights)?.fold())
    }

    /// With random weights, for tests and benches.
    ///
    /// # Errors
    /// The config is not valid.
    pub fn random(config: YoloxConfig, seed: u64, on: On) -> Result<Self> {
        let weights = source::random(RandomWeights::new(seed));
        Self::new(config, on, |conv| Stored::named(conv, &weights)?.fold())
    }

    fn new(config: YoloxConfig, on: On, weigh: impl FnMut(&Conv) -> Result<(Tensor, Tensor)>) -> Result<Self> {
        config.check()?;
        let network = Network::new(config.graph(), on, weigh)?;
        Ok(Self { config, network })
    }

    /// The sizes.
    pub fn config(&self) -> &YoloxConfig {
        &self.config
    }

    /// Size of the pictures that it was trained on.
    pub fn input_size(&self) -> Size {
        let [height, width] = self.config.input_size;
        Size::new(width as u32, height as u32)
    }

    /// `pictures` `[B, H, W, 3]` f32 in 0..255, H and W multiples of 32 → `[B, N, 5 + classes]` f32 as the network gives
    /// it: dx, dy, dw, dh, logit of there being something, logits of the classes; places of [`STRIDES`] 8, 16 and 32 in
    /// turn, each level row by row.
    ///
    /// # Errors
    /// Pictures of another shape.
    pub fn forward(&self, pictures: &Tensor) -> Result<Tensor> {
        self.run(pictures, None)
    }

    /// As [`forward`](Self::forward); the result of each convolution, `[B, h, w, C]` after its activation, is shown to `tap`
    /// under mmdet's name of it, and an error from `tap` stops the work and is returned.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and whatever `tap` returns.
    pub fn forward_with(&self, pictures: &Tensor, tap: &mut dyn FnMut(&str, &Tensor) -> Result<()>) -> Result<Tensor> {
        self.run(pictures, Some(tap))
    }

    fn run(&self, pictures: &Tensor, tap: Option<Tap>) -> Result<Tensor> {
        match pictures.dims() {
            [b, h, w, 3] if *b > 0 && *h > 0 && *w > 0 && h % 32 == 0 && w % 32 == 0 => {}
            other => {
                candle_core::bail!("YOLOX: pictures are {other:?}; expected [B, H, W, 3], H and W multiples of 32")
            }
        }
        let outputs = self.network.forward(pictures, tap)?;
        let levels = outputs.chunks(3).map(|level| Tensor::cat(level, 3)?.flatten(1, 2));
        Tensor::cat(&levels.collect::<Result<Vec<_>>>()?, 1)
    }
}
