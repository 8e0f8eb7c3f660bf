//! Products with tensors of floats.

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};

use super::{Input, TILE_ELEMENTS, Terms, in_rows, on_host};
use crate::quant::{Encoding, Scales, View};
use crate::rows::{RowKernel, map_rows_in_place, with_f32};

/// `x` `[.., in]` times `weight` `[out, in]` f32, bf16 or f16, transposed, and what belongs to it → `[rows, out]` f32. On the
/// host by our tiles, elsewhere by candle.
pub(super) fn product(x: &Input, weight: &Tensor, terms: &Terms) -> Result<Tensor> {
    if matches!(x.device(), Device::Cpu)
        && let Some(product) = with_view(&weight.contiguous()?, |weight| on_host(x, weight, terms))
    {
        return product;
    }
    let x = in_rows(x.plain()?, weight.dim(1)?)?;
    terms.epilogue.apply(elsewhere(&x, weight, terms.bias)?)
}

/// [`product`] by candle.
fn elsewhere(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out_features, in_features) = weight.dims2()?;
    if weight.dtype() == DType::F32 {
        return in_tiles(x, out_features, out_features, bias, |_, _| Ok(weight.clone()));
    }
    let step = tile_rows(in_features);
    in_tiles(x, out_features, step, bias, |start, count| weight.narrow(0, start, count)?.to_dtype(DType::F32))
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

/// Rows of a matrix that are widened at a time.
pub(super) fn tile_rows(in_features: usize) -> usize {
    (TILE_ELEMENTS / in_features.max(1)).max(1)
}

/// `x` times rows that come in tiles of `step`, plus `bias`.
pub(super) fn in_tiles(
    x: &Tensor,
    out_features: usize,
    step: usize,
    bias: Option<&Tensor>,
    tile: impl Fn(usize, usize) -> Result<Tensor>,
) -> Result<Tensor> {
    let product = |start, count| {
        let product = x.matmul(&tile(start, count)?.t()?)?;
        match bias {
            Some(bias) => add_bias(product, &bias.narrow(0, start, count)?),
            None => Ok(product),
        }
    };
    if out_features <= step {
        return product(0, out_features);
    }
    let out = Tensor::zeros((x.dim(0)?, out_features), x.dtype(), x.device())?;
    for start in (0..out_features).step_by(step) {
        out.slice_set(&product(start, step.min(out_features - start))?, 1, start)?;
    }
    Ok(out)
}

/// `[rows, out]` plus `[out]`, in the memory of the former where the device can.
fn add_bias(product: Tensor, bias: &Tensor) -> Result<Tensor> {
    if !matches!(product.device(), Device::Cpu) || bias.dtype() != DType::F32 {
        return product.broadcast_add(bias);
    }
    with_f32(bias, |bias| map_rows_in_place(product, &AddBias { bias }))
}

struct AddBias<'a> {
    bias: &'a [f32],
}

impl RowKernel for AddBias<'_> {
    #[inline(always)]
    fn row(&self, _: usize, input: &[f32], out: &mut [f32]) {
        for ((o, x), b) in out.iter_mut().zip(input).zip(self.bias) {
            *o = x + b;
        }
    }
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
