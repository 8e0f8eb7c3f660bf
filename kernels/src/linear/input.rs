//! What matrices are multiplied with: rows that several of them may share, and a norm before.

use std::cell::OnceCell;
#[cfg(target_arch = "x86_64")]
use std::{cell::RefCell, mem::MaybeUninit, rc::Rc};

use candle_core::{D, Device, Result, Tensor};

#[cfg(target_arch = "x86_64")]
use super::narrow;
#[cfg(target_arch = "x86_64")]
use crate::Compute;
#[cfg(target_arch = "x86_64")]
use crate::norm::LayerNorm;
use crate::norm::layer_norm;
#[cfg(target_arch = "x86_64")]
use crate::rows::with_f32;

/// Inputs of one or more products, `[.., in]`: f32 rows as they are, or what LayerNorm makes of them.
///
/// Where a matrix is multiplied in bf16 or int8 on the host, rows are normalised, modulated, rotated if the matrix is, and rounded
/// in one pass; all matrices of one form share the result, a half or a quarter of the bytes of f32. Other matrices share the norm
/// in f32. The bits of a product are those of [`layer_norm`] and [`linear`](super::linear()) one after the other.
pub struct Input {
    x: Tensor,
    norm: Option<Norm>,
    plain: OnceCell<Tensor>,
    #[cfg(target_arch = "x86_64")]
    rounded: RefCell<Vec<(Form, Rc<Rounded>)>>,
}

/// A LayerNorm that is yet to be done.
struct Norm {
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    eps: f64,
}

/// How rows are rounded.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// Not f32.
    pub compute: Compute,
    /// Columns that are rotated together.
    pub rotation: Option<usize>,
}

/// Rows that are rounded.
#[cfg(target_arch = "x86_64")]
pub(super) struct Rounded {
    /// `[rows]` of whole chunks, all of them written.
    pub words: Vec<MaybeUninit<u32>>,
    /// `[rows]`, by which sums are multiplied.
    pub scales: Vec<f32>,
}

impl From<Tensor> for Input {
    /// Rows as they are, f32.
    fn from(x: Tensor) -> Self {
        Self::new(x, None)
    }
}

impl Input {
    fn new(x: Tensor, norm: Option<Norm>) -> Self {
        Self {
            x,
            norm,
            plain: OnceCell::new(),
            #[cfg(target_arch = "x86_64")]
            rounded: RefCell::default(),
        }
    }

    /// `(x − mean)/√(var + eps)·weight + bias` of every row, as [`layer_norm`] has it; done when a matrix tells what form it takes.
    ///
    /// # Errors
    /// `weight` or `bias` is not `[in]`.
    pub fn normed(x: Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<Self> {
        let width = x.dim(D::Minus1)?;
        if let Some(other) = [weight, bias].into_iter().flatten().find(|t| t.dims() != [width]) {
            candle_core::bail!("norm: {:?} gains or shifts for rows of {width}", other.dims());
        }
        Ok(Self::new(x, Some(Norm { weight: weight.cloned(), bias: bias.cloned(), eps })))
    }

    /// Its shape.
    pub fn dims(&self) -> &[usize] {
        self.x.dims()
    }

    /// Where it lies.
    pub(super) fn device(&self) -> &Device {
        self.x.device()
    }

    /// In f32, with the norm.
    pub(super) fn plain(&self) -> Result<&Tensor> {
        let Some(Norm { weight, bias, eps }) = &self.norm else { return Ok(&self.x) };
        if let Some(plain) = self.plain.get() {
            return Ok(plain);
        }
        let _span = span();
        let normed = layer_norm(&self.x, weight.as_ref(), bias.as_ref(), *eps)?;
        Ok(self.plain.get_or_init(|| normed))
    }

    /// Rounded, if there is a norm to do first: otherwise rounding is part of the product.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn rounded(&self, form: Form) -> Result<Option<Rc<Rounded>>> {
        let Some(Norm { weight, bias, eps }) = &self.norm else { return Ok(None) };
        if let Some((_, there)) = self.rounded.borrow().iter().find(|(f, _)| *f == form) {
            return Ok(Some(there.clone()));
        }
        let _span = span();
        let columns = self.x.dim(D::Minus1)?;
        let norm = LayerNorm::new(columns, weight.as_ref(), bias.as_ref(), *eps)?;
        let made = Rc::new(with_f32(&self.x, |x| Ok(narrow::normed(x, columns, &norm, form)))?);
        self.rounded.borrow_mut().push((form, made.clone()));
        Ok(Some(made))
    }
}

fn span() -> tracing::span::EnteredSpan {
    tracing::info_span!(target: "steadydance", "norm").entered()
}
