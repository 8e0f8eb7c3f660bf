//! `softmax(scale·q·kᵀ)·v` with scores of 8 bits (SageAttention 2, Zhang et al. 2024): queries with a step for each row, keys less their mean with
//! one for each 64, values in e4m3 with one for each channel, or in bf16 on GPUs without e4m3.

use super::attention::{NAME, View};
use super::{Heads, address_of, blocks, int};
use crate::cuda::code::{Launch, Params};
use crate::cuda::error::{Capability, CudaError, Result};
use crate::cuda::tensor_map::{TensorMap, Tiles};
use crate::cuda::{Gpu, GpuDtype, GpuTensor};

/// Channels of a head.
pub const INT8_HEAD: usize = 128;
/// Rows are counted in these.
const ROWS: usize = 128;
/// Keys that share a step.
const KEYS: usize = 64;
/// Parts of the keys that are summed apart.
const CHUNKS: usize = 32;

/// In what products of weights and values in e4m3 are summed over 64 keys, before that is added in f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ValueSums {
    /// As tensor cores have it: some 22 bits.
    #[default]
    F32,
    /// Twice as fast on GeForce cards (SageAttention 2++). Of no effect on Hopper, and where values are in bf16.
    F16,
}

impl ValueSums {
    /// The faster for a GPU of this name.
    pub fn of(name: &str) -> Self {
        if name.contains("GeForce") { Self::F16 } else { Self::F32 }
    }

    /// What the largest value of a channel becomes: f16 ends at 65504, and weights at 448.
    fn largest(self) -> f32 {
        match self {
            Self::F32 => 448.0,
            Self::F16 => 2.25,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SumsParams {
    k: View,
    v: View,
    partial: u64,
    keys: i32,
    chunks: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MeansParams {
    partial: u64,
    k_mean: u64,
    v_step: u64,
    keys: i32,
    chunks: i32,
    v_largest: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct QueriesParams {
    q: View,
    q8: u64,
    q_step: u64,
    queries: i32,
    padded_queries: i32,
    scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct KeysParams {
    k: View,
    k_mean: u64,
    k8: u64,
    k_step: u64,
    keys: i32,
    padded_keys: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ValuesParams {
    v: View,
    v_step: u64,
    v8: u64,
    keys: i32,
    padded_keys: i32,
}

/// Which blocks of keys are seen: all, without a list.
#[repr(C)]
#[derive(Clone, Copy)]
struct BlockList {
    list: u64,
    count: u64,
    stride: i32,
}

const ALL: BlockList = BlockList { list: 0, count: 0, stride: 0 };

#[repr(C)]
#[derive(Clone, Copy)]
struct AttentionInt8Params {
    q8: u64,
    q_step: u64,
    k8: u64,
    k_step: u64,
    v8: u64,
    v_step: u64,
    v: View,
    out: u64,
    out_batch: i64,
    out_row: i64,
    out_head: i64,
    blocks: BlockList,
    queries: i32,
    keys: i32,
    padded_queries: i32,
    padded_keys: i32,
}

/// For Hopper.
#[repr(C)]
#[derive(Clone, Copy)]
struct AttentionInt8Sm90Params {
    q8: TensorMap,
    k8: TensorMap,
    v8: TensorMap,
    q_step: u64,
    k_step: u64,
    v_step: u64,
    out: u64,
    out_batch: i64,
    out_row: i64,
    out_head: i64,
    blocks: BlockList,
    queries: i32,
    keys: i32,
    padded_queries: i32,
    padded_keys: i32,
}

// SAFETY: as in attention_8bit_quantise.cu.
unsafe impl Params for SumsParams {}
// SAFETY: as there.
unsafe impl Params for MeansParams {}
// SAFETY: as there.
unsafe impl Params for QueriesParams {}
// SAFETY: as there.
unsafe impl Params for KeysParams {}
// SAFETY: as there.
unsafe impl Params for ValuesParams {}
// SAFETY: as in attention_8bit.cuh.
unsafe impl Params for AttentionInt8Params {}
// SAFETY: as in attention_8bit_sm90.cu.
unsafe impl Params for AttentionInt8Sm90Params {}

/// Keys and values that queries attend to with 8-bit scores. Rows are filled up with zeros to a multiple of 128, Lk'.
#[derive(Debug, Clone)]
pub struct Int8Keys {
    batch: usize,
    heads: usize,
    keys: usize,
    /// `[B, H, Lk', 128]` int8.
    k8: GpuTensor,
    /// `[B, H, Lk'/64]` f32.
    k_step: GpuTensor,
    values: Values,
}

#[derive(Debug, Clone)]
enum Values {
    /// `[B, H, 128, Lk']` e4m3, and `[B, H, 128]` f32.
    E4m3 { v8: GpuTensor, v_step: GpuTensor, sums: ValueSums },
    /// As they are, from this channel on: they have to be kept.
    Bf16 { tensor: GpuTensor, first: usize },
}

/// Whether values are of 8 bits too on this GPU.
fn has_e4m3(gpu: &Gpu) -> bool {
    gpu.level() >= Capability(8, 9)
}

impl Int8Keys {
    /// `k` and `v` `[B, Lk, H, 128]`, Lk at least 1.
    ///
    /// # Errors
    /// Shapes that do not fit, or there is no room.
    pub fn new(gpu: &Gpu, k: Heads, v: Heads, sums: ValueSums) -> Result<Self> {
        let value_sums = if gpu.is_hopper() { ValueSums::F32 } else { sums };
        let Heads { batch, rows: keys, heads, dim, .. } = k;
        if (v.batch, v.rows, v.heads, v.dim) != (batch, keys, heads, dim) || keys == 0 || dim != INT8_HEAD {
            return CudaError::arguments(NAME, format!("in 8 bits: k {k:?}, v {v:?}; heads of {INT8_HEAD} are needed"));
        }
        let (padded, chunks, all) = (keys.next_multiple_of(ROWS), CHUNKS.min(keys), batch * heads);
        let float = |shape: &[usize]| GpuTensor::empty(gpu, shape, GpuDtype::F32);
        let partial = float(&[all, chunks, 2, dim])?;
        let (k_mean, v_step) = (float(&[all, dim])?, float(&[all, dim])?);
        let grid = |of_head: usize| Ok([blocks(NAME, of_head)?, blocks(NAME, heads)?, blocks(NAME, batch)?]);
        let launch = |kernel, grid, threads| Launch { kernel, grid, block: [threads, 1, 1], shared_bytes: 0 };

        let (count, padded_keys) = (int(NAME, keys)?, int(NAME, padded)?);
        let of_chunks = int(NAME, chunks)?;
        let sums = SumsParams { k: k.view(), v: v.view(), partial: partial.address(), keys: count, chunks: of_chunks };
        let means = MeansParams {
            partial: partial.address(),
            k_mean: k_mean.address(),
            v_step: v_step.address(),
            keys: count,
            chunks: of_chunks,
            v_largest: value_sums.largest(),
        };
        let k8 = GpuTensor::empty(gpu, &[batch, heads, padded, dim], GpuDtype::I8)?;
        let k_step = float(&[batch, heads, padded / KEYS])?;
        let of_keys = KeysParams {
            k: k.view(),
            k_mean: k_mean.address(),
            k8: k8.address(),
            k_step: k_step.address(),
            keys: count,
            padded_keys,
        };
        // SAFETY: views are within their tensors, the others as large as attention_8bit.cuh says, and all are alive now.
        unsafe {
            gpu.launch(&launch("sd_attention_8bit_sums", grid(chunks)?, 256), &sums)?;
            let each = [blocks(NAME, heads)?, blocks(NAME, batch)?, 1];
            gpu.launch(&launch("sd_attention_8bit_means", each, 128), &means)?;
            gpu.launch(&launch("sd_attention_8bit_keys", grid(padded / KEYS)?, 256), &of_keys)?;
        }
        let values = if has_e4m3(gpu) {
            let v8 = GpuTensor::empty(gpu, &[batch, heads, dim, padded], GpuDtype::U8)?;
            let params =
                ValuesParams { v: v.view(), v_step: v_step.address(), v8: v8.address(), keys: count, padded_keys };
            // SAFETY: as above.
            unsafe { gpu.launch(&launch("sd_attention_8bit_values", grid(padded / ROWS)?, 256), &params) }?;
            Values::E4m3 { v8, v_step, sums: value_sums }
        } else {
            Values::Bf16 { tensor: v.tensor.clone(), first: v.first }
        };
        Ok(Self { batch, heads, keys, k8, k_step, values })
    }

    /// Bytes of them in a GPU's memory for so many heads and keys, whatever the GPU.
    pub fn bytes(heads: usize, keys: usize) -> u64 {
        let padded = keys.next_multiple_of(ROWS);
        // Values in bf16 at most.
        (heads * (INT8_HEAD * (padded + 2 * padded) + 4 * padded / KEYS)) as u64
    }

    /// Bytes that making them takes beside.
    pub fn making_bytes(heads: usize, keys: usize) -> u64 {
        (4 * INT8_HEAD * heads * (2 * CHUNKS.min(keys) + 2)) as u64
    }
}

/// Bytes that [`attention_int8`] takes beside its result.
pub fn attention_int8_bytes(heads: usize, queries: usize) -> u64 {
    (heads * queries.next_multiple_of(ROWS) * (INT8_HEAD + 4)) as u64
}

/// As [`attention`](super::attention) without a bias, with the precision of 8 bits: `q` `[B, Lq, H, 128]` bf16 → the same shape and kind.
/// A row of the result depends on the row of `q` and on the keys only.
///
/// # Errors
/// Shapes that do not fit, or there is no room.
pub fn attention_int8(gpu: &Gpu, q: Heads, keys: &Int8Keys, scale: f32) -> Result<GpuTensor> {
    let Heads { batch, rows: queries, heads, dim, .. } = q;
    if (batch, heads, dim) != (keys.batch, keys.heads, INT8_HEAD) {
        return CudaError::arguments(NAME, format!("in 8 bits: q {q:?}, keys {keys:?}"));
    }
    if !(scale > 0.0 && scale.is_finite()) {
        return CudaError::arguments(NAME, format!("scale {scale}; a positive number is needed"));
    }
    let out = GpuTensor::empty(gpu, &[batch, queries, heads, dim], GpuDtype::Bf16)?;
    if out.elements() == 0 {
        return Ok(out);
    }
    let padded = queries.next_multiple_of(ROWS);
    let q8 = GpuTensor::empty(gpu, &[batch, heads, padded, dim], GpuDtype::I8)?;
    let q_step = GpuTensor::empty(gpu, &[batch, heads, padded], GpuDtype::F32)?;
    let grid = |of_head: usize| Ok([blocks(NAME, of_head)?, blocks(NAME, heads)?, blocks(NAME, batch)?]);
    let rounding = QueriesParams {
        q: q.view(),
        q8: q8.address(),
        q_step: q_step.address(),
        queries: int(NAME, queries)?,
        padded_queries: int(NAME, padded)?,
        scale,
    };
    let launch =
        Launch { kernel: "sd_attention_8bit_queries", grid: grid(padded / 64)?, block: [256, 1, 1], shared_bytes: 0 };
    // SAFETY: the view is within its tensor, the others as large as attention_8bit.cuh says, and all are alive now.
    unsafe { gpu.launch(&launch, &rounding) }?;

    let padded_keys = keys.keys.next_multiple_of(ROWS);
    let launch = |kernel, threads, shared_bytes| -> Result<Launch> {
        Ok(Launch { kernel, grid: grid(padded / ROWS)?, block: [threads, 1, 1], shared_bytes })
    };
    let (v8, v_step, v) = match &keys.values {
        Values::E4m3 { v8, v_step, .. } => (Some(v8), Some(v_step), View::NONE),
        Values::Bf16 { tensor, first } => (None, None, Heads::part(tensor, *first, heads, dim)?.view()),
    };
    let params = AttentionInt8Params {
        q8: q8.address(),
        q_step: q_step.address(),
        k8: keys.k8.address(),
        k_step: keys.k_step.address(),
        v8: address_of(v8),
        v_step: address_of(v_step),
        v,
        out: out.address(),
        out_batch: (queries * heads * dim) as i64,
        out_row: (heads * dim) as i64,
        out_head: dim as i64,
        blocks: ALL,
        queries: int(NAME, queries)?,
        keys: int(NAME, keys.keys)?,
        padded_queries: int(NAME, padded)?,
        padded_keys: int(NAME, padded_keys)?,
    };
    match v8 {
        Some(v8) if gpu.is_hopper() => {
            let map = |tensor: &GpuTensor, width: usize| {
                gpu.tensor_map(&Tiles {
                    address: tensor.address(),
                    dtype: GpuDtype::U8,
                    dims: &[width, tensor.bytes() / width],
                    strides: &[width],
                    tile: &[128, 128],
                })
            };
            let params = AttentionInt8Sm90Params {
                q8: map(&q8, dim)?,
                k8: map(&keys.k8, dim)?,
                v8: map(v8, padded_keys)?,
                q_step: params.q_step,
                k_step: params.k_step,
                v_step: params.v_step,
                out: params.out,
                out_batch: params.out_batch,
                out_row: params.out_row,
                out_head: params.out_head,
                blocks: ALL,
                queries: params.queries,
                keys: params.keys,
                padded_queries: params.padded_queries,
                padded_keys: params.padded_keys,
            };
            // SAFETY: the maps are of the tensors, sizes are theirs, and all are alive now.
            unsafe { gpu.launch(&launch("sd_attention_8bit_sm90", 384, 147_592)?, &params) }?;
        }
        _ => {
            let launch = match keys.values {
                Values::E4m3 { sums: ValueSums::F32, .. } => launch("sd_attention_8bit_e4m3", 256, 40_960)?,
                Values::E4m3 { sums: ValueSums::F16, .. } => launch("sd_attention_8bit_e4m3_f16", 256, 40_960)?,
                Values::Bf16 { .. } => launch("sd_attention_8bit_bf16", 128, 65_536)?,
            };
            // SAFETY: as above.
            unsafe { gpu.launch(&launch, &params) }?;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::ValueSums;

    #[test]
    fn geforce_cards_are_known_by_their_names() {
        assert_eq!(ValueSums::of("NVIDIA GeForce RTX 4090"), ValueSums::F16);
        assert_eq!(ValueSums::of("NVIDIA L40S"), ValueSums::F32);
    }
}
