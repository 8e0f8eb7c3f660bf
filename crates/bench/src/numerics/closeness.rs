//! How far tensors are apart.

use candle_core::{DType, Result, Tensor};

/// No error at all is as good as this, in dB.
const MOST_DB: f64 = 200.0;

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()
}

/// Sums over pairs: of the truth's squares, of what was found, of their products, and of the differences' squares.
fn sums(found: &Tensor, truth: &Tensor) -> Result<[f64; 4]> {
    let (found, truth) = (numbers(found)?, numbers(truth)?);
    if found.len() != truth.len() {
        candle_core::bail!("{} numbers beside {}", found.len(), truth.len());
    }
    let mut sums = [0f64; 4];
    for (f, t) in found.into_iter().zip(truth) {
        let (f, t) = (f64::from(f), f64::from(t));
        for (sum, term) in sums.iter_mut().zip([t * t, f * f, f * t, (f - t) * (f - t)]) {
            *sum += term;
        }
    }
    Ok(sums)
}

/// Of a ratio of powers; what is no number is as bad as can be.
fn decibel(signal: f64, error: f64) -> f64 {
    let db = 10.0 * (signal / error).log10();
    match () {
        () if error == 0.0 => MOST_DB,
        () if db.is_finite() => db.clamp(-MOST_DB, MOST_DB),
        () => -MOST_DB,
    }
}

/// Power of the truth over power of the error, in dB.
pub(super) fn snr(found: &Tensor, truth: &Tensor) -> Result<f64> {
    let [truth, _, _, error] = sums(found, truth)?;
    Ok(decibel(truth, error))
}

/// Of the angle between both; 0 of what is no number.
pub(super) fn cosine(found: &Tensor, truth: &Tensor) -> Result<f64> {
    let [truth, found, both, _] = sums(found, truth)?;
    let cosine = both / (truth * found).sqrt();
    Ok(if cosine.is_finite() { cosine } else { 0.0 })
}

/// Of pixels in −1..=1, in dB of the whole range.
pub(super) fn psnr(found: &Tensor, truth: &Tensor) -> Result<f64> {
    let [.., error] = sums(found, truth)?;
    Ok(decibel(4.0 * truth.elem_count() as f64, error))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    #[test]
    fn measures_are_the_customary_ones() {
        let truth = tensor(&[3.0, -4.0, 0.0]);
        let near = tensor(&[3.0, -4.0, 0.5]);
        assert!((snr(&near, &truth).unwrap() - 20.0).abs() < 1e-9);
        assert_eq!(snr(&truth, &truth).unwrap(), MOST_DB);
        assert!((cosine(&tensor(&[6.0, -8.0, 0.0]), &truth).unwrap() - 1.0).abs() < 1e-12);
        assert!((cosine(&tensor(&[-4.0, -3.0, 9.0]), &truth).unwrap()).abs() < 1e-12);
        // An error of 0.02 of a range of 2.
        assert!((psnr(&tensor(&[0.52, 0.5]), &tensor(&[0.5, 0.52])).unwrap() - 40.0).abs() < 1e-3);
        for broken in [f32::NAN, f32::INFINITY] {
            let broken = tensor(&[broken, 0.0, 0.0]);
            assert_eq!(snr(&broken, &truth).unwrap(), -MOST_DB);
            assert_eq!(cosine(&broken, &truth).unwrap(), 0.0);
            assert_eq!(psnr(&broken, &truth).unwrap(), -MOST_DB);
        }
        assert!(snr(&tensor(&[1.0]), &truth).is_err());
    }
}
