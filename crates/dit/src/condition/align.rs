//! Frame-wise attention alignment (`condition_embedding_align`): every spatial position of the noisy latents attends
//! over the frames of the pose features at the same position.

use candle_core::{Result, Tensor};
use kernels::Compute;
use kernels::attention::AttentionShape;
use weights::Weights;

use crate::backend::{Backend, Host};

/// Hidden channels and heads are fixed by the architecture.
const HIDDEN: usize = 128;
const HEADS: usize = 8;

pub(crate) struct Align<B: Backend> {
    proj_p: B::Linear,
    proj_r: B::Linear,
    proj_back: B::Linear,
    in_proj: [B::Linear; 3],
    out_proj: B::Linear,
    ffn: [B::Linear; 2],
    norm1: B::LayerNorm,
    norm2: B::LayerNorm,
}

impl<B: Backend> Align<B> {
    pub fn new(backend: &B, channels: usize, w: &Weights) -> Result<Self> {
        let conv = |input: usize, out: usize, name: &str| -> Result<B::Linear> {
            let w = w.pp(name);
            let weight = w.tensor((out, input, 1, 1), "weight")?.reshape((out, input))?;
            backend.linear_of(weight.into(), w.tensor(out, "bias")?)
        };
        // Gain and bias are stored as `[1, C, 1, 1]`.
        let norm = |name: &str| -> Result<B::LayerNorm> {
            let vector = |part| w.pp(name).tensor((1, HIDDEN, 1, 1), part)?.reshape(HIDDEN);
            backend.layer_norm_of(vector("weight")?, vector("bias")?, 1e-5)
        };
        let attn = w.pp("cross_attn");
        let (packed, packed_bias) =
            (attn.tensor((3 * HIDDEN, HIDDEN), "in_proj_weight")?, attn.tensor(3 * HIDDEN, "in_proj_bias")?);
        let part = |i: usize| -> Result<B::Linear> {
            let rows = |t: &Tensor| t.narrow(0, i * HIDDEN, HIDDEN);
            backend.linear_of(rows(&packed)?.into(), rows(&packed_bias)?)
        };
        let out = attn.pp("out_proj");
        let out_proj =
            backend.linear_of(out.tensor((HIDDEN, HIDDEN), "weight")?.into(), out.tensor(HIDDEN, "bias")?)?;
        Ok(Self {
            proj_p: conv(channels, HIDDEN, "proj_p")?,
            proj_r: conv(channels, HIDDEN, "proj_r")?,
            proj_back: conv(HIDDEN, channels, "proj_p_back")?,
            in_proj: [part(0)?, part(1)?, part(2)?],
            out_proj,
            ffn: [conv(HIDDEN, HIDDEN, "ffn_pose.0")?, conv(HIDDEN, HIDDEN, "ffn_pose.2")?],
            norm1: norm("norm1")?,
            norm2: norm("norm2")?,
        })
    }

    /// `pose` and `latents` `[C, F, h, w]` → `[C, F, h, w]`.
    pub fn forward(&self, backend: &B, pose: &B::Latents, latents: &B::Latents) -> Result<B::Latents> {
        let shape = backend.shape_of(pose)?;
        let [q, k, v] = &self.in_proj;
        let r = backend.product(&backend.pixels(latents)?, &self.proj_r)?;
        let q = backend.product(&backend.input(r)?, q)?;
        let p = backend.product(&backend.pixels(pose)?, &self.proj_p)?;
        let p = backend.input(p)?;
        let (k, v) = (backend.product(&p, k)?, backend.product(&p, v)?);
        drop(p);
        let o = backend.attention_over_frames([q, k, v], HEADS)?;
        let o = backend.product_stream(&backend.input(o)?, &self.out_proj)?;
        let o = backend.norm(o, &self.norm1)?;
        let [first, second] = &self.ffn;
        let hidden = backend.product_silu(&backend.input(o.clone())?, first)?;
        let hidden = backend.input(hidden)?;
        let sum = backend.product_added(&hidden, second, &o)?;
        drop((hidden, o));
        let back = backend.product_stream(&backend.normalised(&sum, &self.norm2)?, &self.proj_back)?;
        drop(sum);
        backend.to_latents(back, shape)
    }
}

impl Align<Host> {
    /// Bytes that [`forward`](Self::forward) takes at its peak, its result among them, for `channels` channels.
    pub fn peak_bytes(channels: usize, [f, h, w]: [usize; 3]) -> u64 {
        let (positions, pixels) = (h * w, f * h * w);
        let hidden = 4 * (HIDDEN * pixels) as u64;
        let shape = AttentionShape {
            heads: HEADS * positions,
            queries: f,
            keys: f,
            width: HIDDEN / HEADS,
            compute: Compute::F32,
        };
        // Queries; what is projected, keys, values in both orders. Then queries, keys, values and the product, which comes in
        // two orders. Then the three tensors of a residual.
        let sequence = 4 * (channels * pixels) as u64;
        (5 * hidden).max(sequence + 3 * hidden).max(3 * hidden + shape.peak_bytes().max(2 * hidden))
    }

    /// As [`peak_bytes`](Self::peak_bytes), on a GPU: the hidden layer in bf16, the result and what it is added to in f32.
    pub fn gpu_peak_bytes(channels: usize, pixels: usize) -> u64 {
        5 * 2 * (HIDDEN * pixels) as u64 + 8 * (channels * pixels) as u64
    }
}
