use candle_core::{Result, Tensor};
use kernels::linear::Input;
use weights::Weights;

/// LayerNorm over the last dimension, with or without gain and bias; statistics in f32.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    eps: f64,
}

impl LayerNorm {
    /// With `weight` and `bias` `[dim]`.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn affine(dim: usize, eps: f64, weights: &Weights) -> Result<Self> {
        Ok(Self { weight: Some(weights.tensor(dim, "weight")?), bias: Some(weights.tensor(dim, "bias")?), eps })
    }

    /// From tensors in hand: `weight` and `bias` `[dim]` f32.
    ///
    /// # Errors
    /// They are no vectors of one length.
    pub fn from_tensors(weight: Tensor, bias: Tensor, eps: f64) -> Result<Self> {
        if weight.dims1()? != bias.dims1()? {
            candle_core::bail!("layer norm: gain {:?} and bias {:?}", weight.dims(), bias.dims());
        }
        Ok(Self { weight: Some(weight), bias: Some(bias), eps })
    }

    /// Without parameters.
    pub fn plain(eps: f64) -> Self {
        Self { weight: None, bias: None, eps }
    }

    /// `x` `[.., dim]` f32 → the same shape.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _span = tracing::info_span!(target: "steadydance", "norm").entered();
        kernels::norm::layer_norm(x, self.weight.as_ref(), self.bias.as_ref(), self.eps)
    }

    /// The same as inputs of layers, with which it is computed.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn before(&self, x: &Tensor) -> Result<Input> {
        Input::normed(x.clone(), self.weight.as_ref(), self.bias.as_ref(), self.eps)
    }
}

/// RMSNorm over the last dimension with a gain; statistics in f32.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// With `weight` `[dim]`.
    ///
    /// # Errors
    /// The tensor is missing or misshapen.
    pub fn new(dim: usize, eps: f64, weights: &Weights) -> Result<Self> {
        Ok(Self { weight: weights.tensor(dim, "weight")?, eps })
    }

    /// The gain `[dim]`, and what keeps the root from zero.
    pub(crate) fn parts(&self) -> (&Tensor, f64) {
        (&self.weight, self.eps)
    }

    /// `x` `[.., dim]` f32 → the same shape.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _span = tracing::info_span!(target: "steadydance", "norm").entered();
        kernels::norm::rms_norm(x, &self.weight, self.eps)
    }

    /// As [`forward`](Self::forward), with the result in the memory of `x` where the device can: nobody else may hold it.
    ///
    /// # Errors
    /// As there.
    pub fn forward_in_place(&self, x: Tensor) -> Result<Tensor> {
        let _span = tracing::info_span!(target: "steadydance", "norm").entered();
        kernels::norm::rms_norm_in_place(x, &self.weight, self.eps)
    }
}
