//! Seeded standard normal numbers that do not depend on the device.
//!
//! Numbers are drawn on the host, in row-major order of the tensor, from ChaCha12 (`rand_chacha`) through
//! `rand_distr::StandardNormal`. A draw is named by `(seed, stream)` and by nothing else: the key is the seed
//! (little-endian) followed by a fixed tag, the stream is ChaCha's stream number. So the noise of step 7 does not
//! depend on what was drawn before it, and a resumed run replays nothing. The same pair gives the same numbers on every
//! device, and on every platform up to the last bit of its `exp` and `ln`. They are not torch's numbers.

use candle_core::{Device, Result, Shape, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use rand_distr::{Distribution, StandardNormal};

/// Stream of the noise that a run starts from; the steps use the streams after it, see [`step_stream`].
pub const INITIAL_NOISE_STREAM: u64 = 0;

/// Keeps these numbers apart from any other use of the same seed; a new algorithm gets a new tag.
const KEY_TAG: &[u8; 24] = b"steadydance gaussian v1\0";

/// Stream of the noise that step `step` (from 0) adds: `step + 1`. Streams from 2^32 on are free for other uses.
pub fn step_stream(step: usize) -> u64 {
    (step as u64).saturating_add(1)
}

/// Standard normal noise, f32, of any `shape`, on `device`; see the module's text for what the numbers depend on.
///
/// # Errors
/// When the tensor cannot be made on `device`.
pub fn noise(shape: impl Into<Shape>, seed: u64, stream: u64, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..].copy_from_slice(KEY_TAG);
    let mut rng = ChaCha12Rng::from_seed(key);
    rng.set_stream(stream);
    let values: Vec<f32> = (0..shape.elem_count()).map(|_| StandardNormal.sample(&mut rng)).collect();
    Tensor::from_vec(values, shape, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(n: usize, seed: u64, stream: u64) -> Vec<f32> {
        noise(n, seed, stream, &Device::Cpu).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn row_major_and_independent_of_the_shape() {
        let flat = draw(24, 7, 3);
        let cube = noise((2, 3, 4), 7, 3, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat, cube);
        assert_eq!(draw(5, 7, 3), flat[..5]);
    }

    /// Seeds are promises: videos made with one must come out the same after an update of the crates below.
    #[test]
    fn the_numbers_stay_what_they_are() {
        let bits = |seed, stream| draw(4, seed, stream).into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(0, 0), [1067291484, 3186567099, 1058212298, 1060152698]);
        assert_eq!(bits(106_060, 7), [948097176, 1060753299, 1077565004, 1060929075]);
    }

    #[test]
    fn seeds_and_streams_are_unrelated() {
        let n = 20_000;
        let base = draw(n, 1, 0);
        for other in [draw(n, 1, 1), draw(n, 2, 0), draw(n, 1, u64::MAX)] {
            let dot: f64 = base.iter().zip(&other).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            // The correlation of unrelated draws has a deviation of 1/sqrt(n) = 0.007.
            assert!((dot / n as f64).abs() < 0.03, "correlation {}", dot / n as f64);
        }
    }

    #[test]
    fn moments_of_the_normal_distribution() {
        let n = 200_000;
        let values = draw(n, 42, 0);
        let moment = |k: i32| values.iter().map(|v| f64::from(*v).powi(k)).sum::<f64>() / n as f64;
        assert!(moment(1).abs() < 0.01, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.02, "variance {}", moment(2));
        assert!(moment(3).abs() < 0.04, "skewness {}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.1, "kurtosis {}", moment(4));
    }
}
