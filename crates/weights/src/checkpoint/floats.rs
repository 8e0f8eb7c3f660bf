//! Stored floats as tensors, piece by piece: a tensor is in memory once, however large it is.

use candle_core::{DType, Device, Result, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

use super::finite::first_non_finite;
use super::map::release;

/// Elements of a piece: it is checked, converted and let go of before the next.
const PIECE: usize = 1 << 18;

/// Bytes in row-major order, of a stored float type, as a tensor of `shape` and `dtype`.
///
/// # Errors
/// `Err(Ok(element))` for a value that is not finite, the first there is; `Err(Err(error))` for a type that is none.
pub(super) fn floats(
    raw: &[u8],
    stored: DType,
    dtype: DType,
    shape: &[usize],
) -> std::result::Result<Tensor, std::result::Result<usize, candle_core::Error>> {
    match dtype {
        DType::F32 => of(raw, stored, shape, |v| v, |v| v as f32),
        DType::BF16 => of(raw, stored, shape, bf16::from_f32, bf16::from_f64),
        DType::F16 => of(raw, stored, shape, f16::from_f32, f16::from_f64),
        DType::F64 => of(raw, stored, shape, f64::from, |v| v),
        other => Err(Err(candle_core::Error::UnsupportedDTypeForOp(other, "reading weights").bt())),
    }
}

fn of<T: WithDType + Default>(
    raw: &[u8],
    stored: DType,
    shape: &[usize],
    narrow: impl Fn(f32) -> T + Sync,
    from_f64: impl Fn(f64) -> T + Sync,
) -> std::result::Result<Tensor, std::result::Result<usize, candle_core::Error>> {
    let values = match stored {
        DType::F32 => pieces::<4, T>(raw, stored, |b| narrow(f32::from_le_bytes(b))),
        // 16-bit floats to f32 and back are the same.
        DType::F16 => pieces::<2, T>(raw, stored, |b| narrow(f16::from_le_bytes(b).to_f32())),
        DType::BF16 => pieces::<2, T>(raw, stored, |b| narrow(bf16::from_le_bytes(b).to_f32())),
        DType::F64 => pieces::<8, T>(raw, stored, |b| from_f64(f64::from_le_bytes(b))),
        other => return Err(Err(candle_core::Error::UnsupportedDTypeForOp(other, "reading weights").bt())),
    };
    tensor(values.map_err(Ok)?, shape).map_err(Err)
}

fn tensor<T: WithDType>(values: Vec<T>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// The converted elements, or the index of the first that is not finite.
fn pieces<const W: usize, T: Copy + Default + Send>(
    raw: &[u8],
    stored: DType,
    convert: impl Fn([u8; W]) -> T + Sync,
) -> std::result::Result<Vec<T>, usize> {
    let mut out = vec![T::default(); raw.len() / W];
    let bad = out
        .par_chunks_mut(PIECE)
        .zip(raw.par_chunks(PIECE * W))
        .enumerate()
        .filter_map(|(i, (out, raw))| {
            if let Some(at) = first_non_finite(raw, stored) {
                return Some(i * PIECE + at);
            }
            out.iter_mut().zip(raw.as_chunks::<W>().0).for_each(|(out, raw)| *out = convert(*raw));
            release(raw);
            None
        })
        .min();
    bad.map_or(Ok(out), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_to_every_type_as_candle_does() {
        let values: Vec<f64> = (0..600_000).map(|i| ((i * 37 % 1001) as f64 - 500.0) / 64.0).collect();
        let all = [DType::F32, DType::F16, DType::BF16, DType::F64];
        for stored in all {
            let exact = Tensor::from_vec(values.clone(), (600, 1000), &Device::Cpu).unwrap().to_dtype(stored).unwrap();
            let raw = match stored {
                DType::F32 => exact
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap()
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect(),
                DType::F16 => exact
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f16>()
                    .unwrap()
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect(),
                DType::BF16 => exact
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<bf16>()
                    .unwrap()
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect(),
                _ => values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
            };
            for dtype in all {
                let got = floats(&raw, stored, dtype, &[600, 1000]).unwrap();
                assert_eq!(got.dtype(), dtype);
                let numbers =
                    |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
                assert_eq!(numbers(&got), numbers(&exact.to_dtype(dtype).unwrap()), "{stored:?} to {dtype:?}");
            }
            let mut broken = raw.clone();
            let width = stored.size_in_bytes();
            for element in [599_999, 400_000, 300_001] {
                broken[element * width..(element + 1) * width].fill(0xff);
                assert_eq!(floats(&broken, stored, DType::F32, &[600, 1000]).unwrap_err().unwrap(), element);
            }
        }
    }
}
