//! Products with tensors of floats.

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};

use super::{TILE_ELEMENTS, add_bias, on_host};
use crate::quant::{Encoding, Scales, View};

/// `x` `[rows, in]` f32 times `weight` `[out, in]` f32, bf16 or f16, transposed, and `bias` `[out]` → `[rows, out]` f32. On the
/// host by our tiles, elsewhere by candle.
pub(super) fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if matches!(x.device(), Device::Cpu)
        && let Some(product) = with_view(&weight.contiguous()?, |weight| on_host(x, weight, bias))
    {
        return product;
    }
    if weight.dtype() == DType::F32 {
        return add_bias(x.matmul(&weight.t()?)?, bias);
    }
    let (out_features, in_features) = weight.dims2()?;
    let step = (TILE_ELEMENTS / in_features.max(1)).max(1);
    let tile = |start, count| weight.narrow(0, start, count)?.to_dtype(DType::F32);
    add_bias(in_tiles(x, out_features, step, tile)?, bias)
}

/// Runs `f` over a contiguous matrix of f32, bf16 or f16 on the host; `None` for others.
fn with_view<T>(weight: &Tensor, f: impl FnOnce(View) -> T) -> Option<T> {
    let (rows, columns) = weight.dims2().ok()?;
    let (storage, layout) = weight.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { return None };
    let (encoding, all) = match storage {
        CpuStorage::F32(values) => (Encoding::F32, bytes_of(values)),
        CpuStorage::BF16(values) => (Encoding::BF16, bytes_of(values)),
        CpuStorage::F16(values) => (Encoding::F16, bytes_of(values)),
        _ => return None,
    };
    let bytes =
        all.get(layout.start_offset() * encoding.block_bytes()..)?.get(..rows * columns * encoding.block_bytes())?;
    Some(f(View { encoding, rows, columns, bytes, scales: &Scales::None, rotation: None }))
}

/// Numbers as they lie in memory, which on every machine that this is compiled for is little-endian, as files are.
fn bytes_of<T: candle_core::WithDType>(values: &[T]) -> &[u8] {
    const { assert!(cfg!(target_endian = "little")) };
    // SAFETY: floats have no padding, any alignment is one of bytes, and the length is theirs.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// `x` times rows that come in tiles of `step`.
pub(super) fn in_tiles(
    x: &Tensor,
    out_features: usize,
    step: usize,
    tile: impl Fn(usize, usize) -> Result<Tensor>,
) -> Result<Tensor> {
    let starts = (0..out_features).step_by(step);
    let product = |start| x.matmul(&tile(start, step.min(out_features - start))?.t()?);
    let mut tiles = starts.map(product).collect::<Result<Vec<_>>>()?;
    if tiles.len() == 1 { Ok(tiles.remove(0)) } else { Tensor::cat(&tiles, 1) }
}

/// `x` with `more` added to it from index `first` of dimension `dim` on.
pub(super) fn add_at(x: &Tensor, more: &Tensor, dim: usize, first: usize) -> Result<Tensor> {
    let (all, count) = (x.dim(dim)?, more.dim(dim)?);
    if count == all {
        return x + more;
    }
    let mut parts = Vec::with_capacity(3);
    if first > 0 {
        parts.push(x.narrow(dim, 0, first)?);
    }
    parts.push((x.narrow(dim, first, count)? + more)?);
    if first + count < all {
        parts.push(x.narrow(dim, first + count, all - first - count)?);
    }
    Tensor::cat(&parts, dim)
}
