//! The two networks of the pose pipeline, on candle tensors and our kernels: a detector of people ([`Yolox`]) and a
//! whole-body keypoint network ([`WholeBodyNet`]). Each is loaded from every packaging that is in circulation: OpenMMLab's
//! `.pth`, the same tensors as safetensors, and the ONNX exports, whose weights are found by the flow of data.
//!
//! Pictures are channels-last, `[B, H, W, 3]`.

mod cspnext;
mod dwpose;
mod gpu;
mod graph;
mod layers;
mod onnx;
mod pair;
mod rtmcc;
mod run;
mod source;
mod yolox;

pub use dwpose::{BINS_PER_PIXEL, DwPoseConfig, WholeBodyNet, dwpose_manifest};
pub use pair::Networks;
pub use run::On;
pub use yolox::{MAX_INPUT_SIDE, STRIDES, Yolox, YoloxConfig, detector_side, yolox_manifest};
