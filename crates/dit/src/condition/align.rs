//! Frame-wise attention alignment (`condition_embedding_align`): every spatial position of the noisy latents attends
//! over the frames of the pose features at the same position.

use candle_core::{Result, Tensor};
use kernels::Compute;
use kernels::attention::AttentionShape;
use kernels::residual::add_in_place;
use nn::{LayerNorm, Linear, attention};
use weights::Weights;

/// Hidden channels and heads are fixed by the architecture.
const HIDDEN: usize = 128;
const HEADS: usize = 8;

pub(crate) struct Align {
    proj_p: Linear,
    proj_r: Linear,
    proj_back: Linear,
    in_proj: [Linear; 3],
    out_proj: Linear,
    ffn: [Linear; 2],
    norm1: LayerNorm,
    norm2: LayerNorm,
}

impl Align {
    pub fn new(channels: usize, w: &Weights) -> Result<Self> {
        let conv = |input: usize, out: usize, name: &str| -> Result<Linear> {
            let w = w.pp(name);
            let weight = w.tensor((out, input, 1, 1), "weight")?.reshape((out, input))?;
            Ok(Linear::from_tensors(weight, Some(w.tensor(out, "bias")?)))
        };
        let attn = w.pp("cross_attn");
        let (packed, packed_bias) =
            (attn.tensor((3 * HIDDEN, HIDDEN), "in_proj_weight")?, attn.tensor(3 * HIDDEN, "in_proj_bias")?);
        let part = |i: usize| -> Result<Linear> {
            let rows = |t: &Tensor| t.narrow(0, i * HIDDEN, HIDDEN);
            Ok(Linear::from_tensors(rows(&packed)?, Some(rows(&packed_bias)?)))
        };
        let out = attn.pp("out_proj");
        Ok(Self {
            proj_p: conv(channels, HIDDEN, "proj_p")?,
            proj_r: conv(channels, HIDDEN, "proj_r")?,
            proj_back: conv(HIDDEN, channels, "proj_p_back")?,
            in_proj: [part(0)?, part(1)?, part(2)?],
            out_proj: Linear::from_tensors(out.tensor((HIDDEN, HIDDEN), "weight")?, Some(out.tensor(HIDDEN, "bias")?)),
            ffn: [conv(HIDDEN, HIDDEN, "ffn_pose.0")?, conv(HIDDEN, HIDDEN, "ffn_pose.2")?],
            norm1: channel_norm(&w.pp("norm1"))?,
            norm2: channel_norm(&w.pp("norm2"))?,
        })
    }

    /// `pose` and `latents` `[F, C, h, w]` → `[F, C, h, w]`.
    pub fn forward(&self, pose: &Tensor, latents: &Tensor) -> Result<Tensor> {
        let (f, c, h, w) = pose.dims4()?;
        // [F, C, h, w] → [h·w, F, C]: positions are the batch, frames the sequence.
        let sequence = |x: &Tensor| x.reshape((f, c, h * w))?.permute((2, 0, 1))?.contiguous();
        let heads = |linear: &Linear, x: &Tensor| nn::split_heads(&linear.forward(x)?, HEADS);
        let [q, k, v] = &self.in_proj;
        let q = heads(q, &self.proj_r.forward(&sequence(latents)?)?)?;
        let p = self.proj_p.forward(&sequence(pose)?)?;
        // As attention takes them without a copy.
        let k = heads(k, &p)?.contiguous()?;
        let v = heads(v, &p)?.contiguous()?;
        drop(p);
        let scale = ((HIDDEN / HEADS) as f64).sqrt().recip();
        let o = nn::merge_heads(&attention(&q, &k, &v, scale)?)?;
        drop((q, k, v));
        // Braces end a tensor's life as soon as the next is made of it.
        let o = self.out_proj.forward(&{ o })?;
        let o = self.norm1.forward(&{ o })?;
        let [first, second] = &self.ffn;
        let hidden = first.forward(&o)?;
        let hidden = { hidden }.silu()?;
        let o = self.norm2.forward(&add_in_place(&o, second.forward(&{ hidden })?)?)?;
        self.proj_back.forward(&{ o })?.permute((1, 2, 0))?.reshape((f, c, h, w))
    }

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
}

/// LayerNorm over the channels of each pixel; gain and bias are stored as `[1, C, 1, 1]`.
fn channel_norm(w: &Weights) -> Result<LayerNorm> {
    LayerNorm::from_tensors(
        w.tensor((1, HIDDEN, 1, 1), "weight")?.reshape(HIDDEN)?,
        w.tensor((1, HIDDEN, 1, 1), "bias")?.reshape(HIDDEN)?,
        1e-5,
    )
}
