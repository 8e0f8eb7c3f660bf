//! `softmax(scale·q·kᵀ + bias)·v`.

use super::{blocks, check_aligned, check_dtype, int};
use crate::cuda::code::{Launch, Params};
use crate::cuda::error::{CudaError, Result};
use crate::cuda::tensor_map::{TensorMap, Tiles};
use crate::cuda::{Gpu, GpuDtype, GpuTensor};

pub(super) const NAME: &str = "attention";

/// Channels of heads in a bf16 tensor.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a> {
    pub(super) tensor: &'a GpuTensor,
    pub(super) batch: usize,
    pub(super) rows: usize,
    /// Of a row in the tensor.
    width: usize,
    pub(super) first: usize,
    pub(super) heads: usize,
    pub(super) dim: usize,
}

impl<'a> Heads<'a> {
    /// Of a tensor `[B, L, H, D]`.
    ///
    /// # Errors
    /// It has other dimensions.
    pub fn of(tensor: &'a GpuTensor) -> Result<Self> {
        match tensor.shape() {
            &[_, _, heads, dim] => Self::part(tensor, 0, heads, dim),
            _ => CudaError::arguments(NAME, format!("{tensor:?} where [B, L, H, D] is needed")),
        }
    }

    /// Channels `first..first + heads·dim` of a tensor `[B, L, ..]`: one of several projections that lie behind each other.
    ///
    /// # Errors
    /// There are not so many, or they do not begin at a multiple of 8.
    pub fn part(tensor: &'a GpuTensor, first: usize, heads: usize, dim: usize) -> Result<Self> {
        check_dtype(NAME, tensor, &[GpuDtype::Bf16])?;
        let &[batch, rows, ref rest @ ..] = tensor.shape() else {
            return CudaError::arguments(NAME, format!("{tensor:?} where [B, L, ..] is needed"));
        };
        let width: usize = rest.iter().product();
        let end = heads.checked_mul(dim).and_then(|n| n.checked_add(first));
        if end.is_none_or(|end| end > width) || [first, dim, width].iter().any(|n| !n.is_multiple_of(8)) || dim == 0 {
            let problem = format!("{heads} heads of {dim} from channel {first} on of {tensor:?}; all multiples of 8");
            return CudaError::arguments(NAME, problem);
        }
        if !tensor.address().is_multiple_of(16) {
            return CudaError::arguments(NAME, format!("{tensor:?} begins at no multiple of 16 bytes"));
        }
        Ok(Self { tensor, batch, rows, width, first, heads, dim })
    }

    /// For the copy engine: tiles of 128 rows and 64 channels of a head.
    fn map(&self, gpu: &Gpu) -> Result<TensorMap> {
        let row = 2 * self.width;
        gpu.tensor_map(&Tiles {
            address: self.tensor.address() + 2 * self.first as u64,
            dtype: GpuDtype::Bf16,
            dims: &[self.dim, self.rows, self.heads, self.batch],
            strides: &[row, 2 * self.dim, row * self.rows],
            tile: &[64, 128, 1, 1],
        })
    }

    pub(super) fn view(&self) -> View {
        View {
            data: self.tensor.address() + 2 * self.first as u64,
            batch: (self.rows * self.width) as i64,
            row: self.width as i64,
            head: self.dim as i64,
        }
    }
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    data: u64,
    batch: i64,
    row: i64,
    head: i64,
}

impl View {
    /// Of nothing.
    pub const NONE: Self = Self { data: 0, batch: 0, row: 0, head: 0 };
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AttentionParams {
    q: View,
    k: View,
    v: View,
    out: u64,
    out_batch: i64,
    out_row: i64,
    out_head: i64,
    bias: u64,
    bias_head: i64,
    bias_query: i32,
    queries: i32,
    keys: i32,
    dim: i32,
    scale: f32,
}

// SAFETY: as in attention.cu.
unsafe impl Params for AttentionParams {}

/// For Hopper, heads of at most 128 channels; a bias is that of keys.
#[repr(C)]
#[derive(Clone, Copy)]
struct AttentionSm90Params {
    q: TensorMap,
    k: TensorMap,
    v: TensorMap,
    out: u64,
    out_batch: i64,
    out_row: i64,
    out_head: i64,
    bias: u64,
    queries: i32,
    keys: i32,
    dim: i32,
    scale: f32,
}

// SAFETY: as in attention_sm90.cu.
unsafe impl Params for AttentionSm90Params {}

/// A compiled shape: the most channels of a head, queries of a block, threads, shared bytes.
struct Shape(&'static str, usize, usize, u32, u32);

const SHAPES: [Shape; 3] = [
    Shape("sd_attention_d64", 64, 128, 128, 40_960),
    Shape("sd_attention_d128", 128, 128, 128, 81_920),
    Shape("sd_attention_d384", 384, 64, 128, 98_304),
];
const WITH_BIAS: [Shape; 2] =
    [Shape("sd_attention_d64_bias", 64, 128, 256, 40_960), Shape("sd_attention_d128_bias", 128, 128, 256, 81_920)];

/// `q` `[B, Lq, H, D]`, `k` and `v` `[B, Lk, H, D]`, all bf16 → `[B, Lq, H, D]` bf16. `bias` f32 of shape `[H, Lq, Lk]`, the
/// first two of which may be 1, is added to the scaled scores. `scale` is positive, `Lk` at least 1, and `D` a multiple of 8,
/// at most 384, or 128 with a bias.
///
/// # Errors
/// Shapes that do not fit, or there is no room.
pub fn attention(gpu: &Gpu, [q, k, v]: [Heads; 3], scale: f32, bias: Option<&GpuTensor>) -> Result<GpuTensor> {
    let (heads, queries, keys) = (q.heads, q.rows, k.rows);
    let Some(bias) = bias else { return attend(gpu, [q, k, v], scale, None) };
    check_dtype(NAME, bias, &[GpuDtype::F32])?;
    let &[h, l, n] = bias.shape() else {
        return CudaError::arguments(NAME, format!("bias {bias:?} where [H, Lq, Lk] is needed"));
    };
    if (h != heads && h != 1) || (l != queries && l != 1) || n != keys {
        return CudaError::arguments(NAME, format!("bias {bias:?} for {heads} heads of {queries} by {keys}"));
    }
    // The kernel counts a head's scores in 32 bits.
    int(NAME, l * n)?;
    let bias = Added {
        address: bias.address(),
        head: if h == 1 { 0 } else { (l * n) as i64 },
        query: if l == 1 { 0 } else { int(NAME, n)? },
        of_keys: (h, l) == (1, 1),
    };
    attend(gpu, [q, k, v], scale, Some(bias))
}

/// As [`attention`] with a bias by distance: `offsets` `[H, Lq + Lk − 1]` f32, of which query `i` and key `j` get number
/// `j − i + Lq − 1`.
///
/// # Errors
/// As there.
pub fn attention_with_offsets(gpu: &Gpu, [q, k, v]: [Heads; 3], scale: f32, offsets: &GpuTensor) -> Result<GpuTensor> {
    check_dtype(NAME, offsets, &[GpuDtype::F32])?;
    let (heads, distances) = (q.heads, (q.rows + k.rows).saturating_sub(1));
    if offsets.shape() != [heads, distances] {
        return CudaError::arguments(NAME, format!("offsets {offsets:?} for {heads} heads and {distances} distances"));
    }
    // The place of distance 0: a query further on begins one number before.
    let address = offsets.address() + 4 * q.rows.saturating_sub(1) as u64;
    attend(gpu, [q, k, v], scale, Some(Added { address, head: distances as i64, query: -1, of_keys: false }))
}

/// What is added to scores: its address for the first query and key, and how far it is to the next head and query, in numbers.
struct Added {
    address: u64,
    head: i64,
    query: i32,
    /// The same for all heads and queries.
    of_keys: bool,
}

fn attend(gpu: &Gpu, [q, k, v]: [Heads; 3], scale: f32, bias: Option<Added>) -> Result<GpuTensor> {
    let Heads { batch, rows: queries, heads, dim, .. } = q;
    let keys = k.rows;
    if [k, v].iter().any(|x| (x.batch, x.rows, x.heads, x.dim) != (batch, keys, heads, dim)) || keys == 0 {
        return CudaError::arguments(NAME, format!("q {q:?}, k {k:?}, v {v:?}"));
    }
    if !(scale > 0.0 && scale.is_finite()) {
        return CudaError::arguments(NAME, format!("scale {scale}; a positive number is needed"));
    }
    let shapes: &[Shape] = if bias.is_some() { &WITH_BIAS } else { &SHAPES };
    let Some(Shape(kernel, _, queries_of_block, threads, shared_bytes)) = shapes.iter().find(|s| s.1 >= dim) else {
        let most = shapes.last().map_or(0, |s| s.1);
        return CudaError::arguments(NAME, format!("heads of {dim} channels; at most {most} are possible"));
    };
    let out = GpuTensor::empty(gpu, &[batch, queries, heads, dim], GpuDtype::Bf16)?;
    if out.elements() == 0 {
        return Ok(out);
    }
    let of_keys = bias.as_ref().is_none_or(|b| b.of_keys);
    let address = bias.as_ref().map_or(0, |b| b.address);
    if gpu.is_hopper() && dim <= 128 && of_keys {
        let params = AttentionSm90Params {
            q: q.map(gpu)?,
            k: k.map(gpu)?,
            v: v.map(gpu)?,
            out: out.address(),
            out_batch: (queries * heads * dim) as i64,
            out_row: (heads * dim) as i64,
            out_head: dim as i64,
            bias: address,
            queries: int(NAME, queries)?,
            keys: int(NAME, keys)?,
            dim: int(NAME, dim)?,
            scale,
        };
        let launch = Launch {
            kernel: if bias.is_some() { "sd_attention_sm90_bias" } else { "sd_attention_sm90" },
            grid: [blocks(NAME, queries.div_ceil(128))?, blocks(NAME, heads)?, blocks(NAME, batch)?],
            block: [384, 1, 1],
            shared_bytes: 163_912,
        };
        // SAFETY: the maps are of the tensors, the result is as large as it is said, and all are alive now.
        unsafe { gpu.launch(&launch, &params) }?;
        return Ok(out);
    }
    let params = AttentionParams {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        out: out.address(),
        out_batch: (queries * heads * dim) as i64,
        out_row: (heads * dim) as i64,
        out_head: dim as i64,
        bias: address,
        bias_head: bias.as_ref().map_or(0, |b| b.head),
        bias_query: bias.as_ref().map_or(0, |b| b.query),
        queries: int(NAME, queries)?,
        keys: int(NAME, keys)?,
        dim: int(NAME, dim)?,
        scale,
    };
    let launch = Launch {
        kernel,
        grid: [blocks(NAME, queries.div_ceil(*queries_of_block))?, blocks(NAME, heads)?, blocks(NAME, batch)?],
        block: [*threads, 1, 1],
        shared_bytes: *shared_bytes,
    };
    // SAFETY: the views are within their tensors, the result is as large as it is said, and all are alive now.
    unsafe { gpu.launch(&launch, &params) }?;
    Ok(out)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct FramesParams {
    q: u64,
    k: u64,
    v: u64,
    out: u64,
    columns: i64,
    frames: i32,
    scale: f32,
}

// SAFETY: as in frames.cu.
unsafe impl Params for FramesParams {}

/// Channels of a head in [`attention_over_frames`].
pub const FRAME_HEAD: usize = 16;

/// `softmax(scale·q·kᵀ)·v` of every pixel over the frames: `q`, `k`, `v` `[F, .., heads · 16]` bf16, in which a pixel of a frame attends
/// to the same pixel of all frames → the same shape and kind. `scale` is positive.
///
/// # Errors
/// Shapes that do not fit, or there is no room.
pub fn attention_over_frames(gpu: &Gpu, [q, k, v]: [&GpuTensor; 3], scale: f32) -> Result<GpuTensor> {
    const THREADS: u32 = 128;
    let frames = q.shape().first().copied().unwrap_or(0);
    for x in [q, k, v] {
        check_dtype(NAME, x, &[GpuDtype::Bf16])?;
        check_aligned(NAME, x)?;
        if x.shape() != q.shape() || frames == 0 || !x.rows().1.is_multiple_of(FRAME_HEAD) {
            return CudaError::arguments(NAME, format!("over frames: q {q:?}, k {k:?}, v {v:?}"));
        }
    }
    if !(scale > 0.0 && scale.is_finite()) {
        return CudaError::arguments(NAME, format!("scale {scale}; a positive number is needed"));
    }
    let out = GpuTensor::empty(gpu, q.shape(), GpuDtype::Bf16)?;
    let columns = q.elements() / FRAME_HEAD / frames;
    if columns > 0 {
        let params = FramesParams {
            q: q.address(),
            k: k.address(),
            v: v.address(),
            out: out.address(),
            columns: columns as i64,
            frames: int(NAME, frames)?,
            scale,
        };
        let launch =
            Launch::row("sd_attention_frames", blocks(NAME, (frames * columns).div_ceil(THREADS as usize))?, THREADS);
        // SAFETY: all four have as many numbers, and are alive now.
        unsafe { gpu.launch(&launch, &params) }?;
    }
    Ok(out)
}
