//! Arithmetic kernels, each a folder with a slow readable `reference` (the specification, in candle's own operations,
//! which also runs on any device) and faster versions that must agree with it on fresh random inputs.
//!
//! Every function takes and returns candle tensors. Activations are f32; matrices may be f32, bf16, f16 or quantised, and are
//! multiplied in the numbers that [`Compute`] names.

pub mod activation;
pub mod attention;
mod compute;
pub mod conv2d;
pub mod conv3d;
pub mod cuda;
mod exp;
mod gemm;
mod level;
pub mod linear;
pub mod memory;
pub mod norm;
pub mod peak;
mod pieces;
pub mod quant;
pub mod residual;
pub mod rope;
mod rows;
mod vector;

pub use compute::Compute;
pub use level::{CpuLevelError, check_cpu_level, instruction_set};
pub use pieces::{FEWEST_ROWS, INDEPENDENT_ROWS, largest_piece, pieces};

#[cfg(test)]
mod testing {
    use candle_core::{Device, Tensor};
    use rand::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};

    /// Normal values of a shape.
    pub fn randn(shape: &[usize], seed: u64) -> Tensor {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let count = shape.iter().product();
        let values: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(count).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// The same bits.
    pub fn assert_same(got: &Tensor, want: &Tensor) {
        assert_eq!(got.dims(), want.dims());
        let bits = |t: &Tensor| -> Vec<u32> {
            t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
        };
        assert!(bits(got) == bits(want), "the bits differ");
    }

    /// A tensor with memory of its own.
    pub fn fresh(x: &Tensor) -> Tensor {
        x.force_contiguous().unwrap()
    }

    /// ‖got − want‖ / ‖want‖ ≤ tolerance.
    pub fn assert_close(got: &Tensor, want: &Tensor, tolerance: f32) {
        assert_eq!(got.dims(), want.dims());
        let norm = |t: Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        let error = norm((got - want).unwrap()) / norm(want.clone()).max(f32::MIN_POSITIVE);
        assert!(error <= tolerance, "relative error {error:e} above {tolerance:e}");
    }
}
