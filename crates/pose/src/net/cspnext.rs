//! CSPNeXt, the backbone of RTMPose: a CSPDarknet with larger kernels, depthwise, and weighed channels.
//!
//! Source: mmdet's `CSPNeXt` (P5), as in mmpose's `rtmpose-l_8xb64-270e_coco-ubody-wholebody-384x288`; paper: *RTMDet: An
//! Empirical Study of Designing Real-Time Object Detectors* (Lyu et al. 2022).

use super::graph::{Builder, Kernel, Value};
use super::layers::{Block, stages};

/// Added to the variance in every batch norm.
pub(super) const EPS: f64 = 1e-5;

/// The features of the picture at 1/32 of its size, `16·width` channels.
pub(super) fn backbone(net: &mut Builder, width: usize, blocks: [usize; 4]) -> Value {
    let half = width / 2;
    let x = net.picture();
    let x = net.norm_conv("backbone.stem.0", Kernel::down(half), &[x.into()]);
    let x = net.norm_conv("backbone.stem.1", Kernel::new(half, 3), &[x.into()]);
    let x = net.norm_conv("backbone.stem.2", Kernel::new(width, 3), &[x.into()]);
    let [.., last] = stages(net, x, blocks, Block::CspNext);
    last
}
