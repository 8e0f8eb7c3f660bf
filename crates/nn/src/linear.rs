use candle_core::{Result, Tensor};
use kernels::Compute;
use kernels::linear::{Epilogue, Input, Matrix, linear_of};
use weights::Weights;

/// `y = x·Wᵀ + b`. There is one Linear for all precisions: f32, bf16, f16 and quantised weights give f32 outputs.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

impl Linear {
    /// `weight` `[out, in]` and `bias` `[out]`.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn new(in_features: usize, out_features: usize, weights: &Weights) -> Result<Self> {
        let bias = Some(weights.tensor(out_features, "bias")?);
        Ok(Self { bias, ..Self::no_bias(in_features, out_features, weights)? })
    }

    /// `weight` `[out, in]` only.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn no_bias(in_features: usize, out_features: usize, weights: &Weights) -> Result<Self> {
        Ok(Self { weight: weights.matrix((out_features, in_features), "weight")?, bias: None })
    }

    /// From tensors in hand: `weight` `[out, in]`, `bias` `[out]` f32.
    pub fn from_tensors(weight: impl Into<Matrix>, bias: Option<Tensor>) -> Self {
        Self { weight: weight.into(), bias }
    }

    /// The same, multiplied in these numbers on the host.
    pub fn with_compute(self, compute: Compute) -> Self {
        Self { weight: self.weight.with_compute(compute), ..self }
    }

    /// `x` `[.., in]` f32 → `[.., out]` f32.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Epilogue::None)
    }

    /// As [`forward`](Self::forward), and then the epilogue.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward_with(&self, x: &Tensor, epilogue: Epilogue) -> Result<Tensor> {
        self.forward_of(&x.clone().into(), epilogue)
    }

    /// As [`forward_with`](Self::forward_with), of inputs that may be shared with other layers and normalised before.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward_of(&self, x: &Input, epilogue: Epilogue) -> Result<Tensor> {
        let (out_features, in_features) = self.weight.dims2()?;
        let rows = x.dims().iter().product::<usize>() / in_features.max(1);
        let _span = tracing::info_span!(target: "steadydance", "linear", rows, in_features, out_features).entered();
        linear_of(x, &self.weight, self.bias.as_ref(), epilogue)
    }
}
