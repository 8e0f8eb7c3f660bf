//! Seeded random weights: for benches and tests at sizes nobody ships.

use candle_core::{DType, Device, Result, Tensor};
use kernels::linear::Matrix;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::source::float_encoding;
use crate::{MatrixForm, TensorSource};

/// A source that makes every tensor it is asked for from a seed and the tensor's name, so that the order of
/// requests does not matter. Matrices and convolutions are normal with variance 1/fan-in, gains and variances lie around one,
/// biases are small: activations keep a usable range through any depth.
pub struct RandomWeights {
    seed: u64,
}

impl RandomWeights {
    /// Weights that depend on `seed` and the names only.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    fn values(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ fnv1a(name));
        let count: usize = shape.iter().product();
        let dims: Vec<usize> = shape.iter().copied().filter(|d| *d != 1).collect();
        let gains = [".weight", "gamma", ".running_var", ".g", ".scale"];
        let is_gain = dims.len() <= 1 && gains.iter().any(|end| name.ends_with(end));
        let (mean, spread) = if is_gain {
            (1.0, 0.05)
        } else if dims.len() <= 1 || name.ends_with("bias") {
            (0.0, 0.02)
        } else {
            let fan_in: usize = shape[1..].iter().product();
            (0.0, (fan_in.max(1) as f32).sqrt().recip())
        };
        StandardNormal.sample_iter(&mut rng).take(count).map(|v: f32| mean + spread * v).collect()
    }
}

impl TensorSource for RandomWeights {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        // Rounded to bf16 always, so that a model written to a bf16 file and this source agree exactly.
        Tensor::from_vec(self.values(name, shape), shape, &Device::Cpu)?
            .to_dtype(DType::BF16)?
            .to_dtype(dtype.unwrap_or(DType::BF16))?
            .to_device(device)
    }

    fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix> {
        Ok(self.tensor(name, shape, dtype, device)?.into())
    }

    fn form(&self, _name: &str, _shape: &[usize], dtype: Option<DType>) -> Result<MatrixForm> {
        Ok(MatrixForm::Made(float_encoding(dtype.unwrap_or(DType::BF16))))
    }
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}
