//! Conditions of waves, for every kind of network.

use candle_core::{Device, Tensor};
use dit::{Config, Inputs, PoseInputs, VaceInputs};

/// Numbers of a shape; `phase` tells tensors apart.
pub fn waves(shape: &[usize], phase: f32) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> =
        (0..count).map(|i| (i as f32 * 0.37 + phase).sin() + 0.3 * (i as f32 * 0.011 * phase).cos()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Everything that `config` can be conditioned with for latents `[_, f, h, w]` and so many words; `phase` makes branches differ.
pub fn inputs(config: &Config, [f, h, w]: [usize; 3], words: usize, phase: f32) -> Inputs {
    Inputs {
        text_embeds: Some(waves(&[words, config.text_dim], phase)),
        ref_image_embeds: config.has_image_context().then(|| waves(&[1, 257, config.clip_dim], phase + 1.0)),
        image_latents: config.has_image_context().then(|| waves(&[20, f, h, w], phase + 2.0)),
        pose: config.is_steadydancer().then(|| PoseInputs {
            pose_latents: waves(&[16, f, h, w], phase + 3.0),
            ref_latents: waves(&[36, 1, h, w], phase + 4.0),
            pose_ref_latents: waves(&[16, 1, h, w], phase + 5.0),
            pose_image_embeds: waves(&[1, 257, config.clip_dim], phase + 6.0),
        }),
        vace: config.vace.is_some().then(|| VaceInputs { context: waves(&[96, f, h, w], phase + 7.0), scale: 0.8 }),
    }
}
