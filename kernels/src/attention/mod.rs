//! Softmax attention without a mask.
//!
//! On the host scores never lie in memory: tiles of queries go through tiles of keys with a running softmax (Milakov and
//! Gimelshein 2018; FlashAttention, Dao et al. 2022), always in the same order. A query's result does not depend on the
//! queries beside it nor on the number of threads, to the bit.

mod factors;
mod host;
pub mod materialised;
mod pack;
pub mod reference;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

use candle_core::{D, DType, Device, Result, Tensor};

use crate::Compute;
use crate::norm::softmax_rows;

/// What is added to scaled scores.
#[derive(Debug, Clone, Copy, Default)]
pub enum Bias<'a> {
    /// Nothing.
    #[default]
    None,
    /// A number for every head, query and key: `[H, Lq, Lk]` f32.
    Scores(&'a Tensor),
    /// A number for every key: `[Lk]` f32. ln n makes one key count as n alike; −∞ masks it.
    Keys(&'a Tensor),
    /// A number for every head and distance: `[H, Lq + Lk − 1]` f32, of which query `i` and key `j` get number `j − i + Lq − 1`.
    /// Relative position biases are so.
    Offsets(&'a Tensor),
}

impl Bias<'_> {
    /// Whether it fits so many heads, queries and keys; its shape if it does not.
    fn misfit(&self, [heads, queries, keys]: [usize; 3]) -> Option<&[usize]> {
        let (bias, fits) = match self {
            Self::None => return None,
            Self::Scores(bias) => (bias, bias.dims() == [heads, queries, keys]),
            Self::Keys(bias) => (bias, bias.dims() == [keys]),
            Self::Offsets(bias) => (bias, bias.dims() == [heads, (queries + keys).saturating_sub(1)]),
        };
        (!fits).then(|| bias.dims())
    }

    /// As numbers for each score of the queries `rows`, or what broadcasts to them; slow, for where no kernel takes it as it is.
    fn scores(&self, rows: std::ops::Range<usize>, [queries, keys]: [usize; 2]) -> Result<Option<Tensor>> {
        match self {
            Self::None => Ok(None),
            Self::Scores(bias) => bias.narrow(1, rows.start, rows.len()).map(Some),
            Self::Keys(bias) => Ok(Some((*bias).clone())),
            Self::Offsets(bias) => {
                let window = |i: usize| bias.narrow(1, queries - 1 - i, keys);
                Tensor::stack(&rows.map(window).collect::<Result<Vec<_>>>()?, 1).map(Some)
            }
        }
    }
}

/// How attention is computed.
///
/// With [`Compute::Bf16`] queries, keys, values and weights are rounded to bf16, and all sums are f32: results are off by
/// less than 1 % of their root mean square. With [`Compute::Int8`] queries and keys are int8, each row with a scale of its
/// own and keys without their mean over all tokens (Zhang et al. 2024, SageAttention), weights and values bf16: less than
/// 2 % for normal values, and a key that is not finite spoils all queries of its head. Where the machine lacks the
/// instructions, and on other devices, all is f32.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Scores are multiplied with it.
    pub scale: f64,
    /// And this is added.
    pub bias: Bias<'a>,
    /// The numbers that are multiplied.
    pub compute: Compute,
}

impl<'a> Attention<'a> {
    /// In f32 and without a bias.
    pub fn new(scale: f64) -> Self {
        Self { scale, bias: Bias::None, compute: Compute::F32 }
    }

    /// With a bias.
    pub fn bias(self, bias: Bias<'a>) -> Self {
        Self { bias, ..self }
    }

    /// In other numbers.
    pub fn compute(self, compute: Compute) -> Self {
        Self { compute, ..self }
    }

    /// `softmax(scale·q·kᵀ + bias)·v` for `q` `[B, H, Lq, D]`, `k` `[B, H, Lk, D]` and `v` `[B, H, Lk, E]`, all f32 →
    /// `[B, H, Lq, E]`, on the host a view of `[B, Lq, H, E]`. Strides may be any: views of `[B, L, H, D]` are taken as they
    /// are.
    ///
    /// # Errors
    /// Shapes that do not fit, or there is not enough memory.
    pub fn apply(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (batch, heads, queries, width) = q.dims4()?;
        let (_, _, keys, channels) = v.dims4()?;
        if k.dims() != [batch, heads, keys, width] || v.dims() != [batch, heads, keys, channels] {
            candle_core::bail!("attention: q {:?}, k {:?}, v {:?} do not fit", q.dims(), k.dims(), v.dims());
        }
        if let Some(bias) = self.bias.misfit([heads, queries, keys]) {
            candle_core::bail!("attention: bias {bias:?} for {heads} heads, {queries} × {keys}");
        }
        if host::takes([q, k, v]) {
            host::attend(host::kind_of(self.compute), q, k, v, self)
        } else {
            materialised::attend(q, k, v, self)
        }
    }
}

/// `softmax(scale·q·kᵀ)·v` in f32, see [`Attention::apply`].
///
/// # Errors
/// Shapes that do not fit, or there is not enough memory.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    Attention::new(scale).apply(q, k, v)
}

/// As [`attention`], with `bias` `[H, Lq, Lk]` added to the scaled scores.
///
/// # Errors
/// As there.
pub fn attention_with_bias(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, bias: Option<&Tensor>) -> Result<Tensor> {
    Attention::new(scale).bias(bias.map_or(Bias::None, Bias::Scores)).apply(q, k, v)
}

/// Sizes of one call of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Heads of all members of the batch, B·H.
    pub heads: usize,
    /// Lq.
    pub queries: usize,
    /// Lk.
    pub keys: usize,
    /// Channels of a head.
    pub width: usize,
    /// The numbers that are multiplied.
    pub compute: Compute,
}

impl AttentionShape {
    /// Most bytes that the call takes on the host beside its arguments, the result among them, with the threads of the
    /// present pool.
    pub fn peak_bytes(&self) -> u64 {
        let Self { heads, queries, keys, width, compute } = *self;
        let plan = host::Plan::new(host::kind_of(compute), heads, [queries, keys], [width; 2]);
        4 * (heads * queries * width) as u64 + plan.workspace_bytes() as u64
    }
}

/// Softmax over the last dimension, f32.
///
/// # Errors
/// Fails only where the device does.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if matches!(x.device(), Device::Cpu) && x.dtype() == DType::F32 {
        return softmax_rows(x);
    }
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}
