//! What is done with a product before it is written.

use std::mem::MaybeUninit;

use candle_core::{DType, Result, Tensor};

use crate::activation::{gelu_tanh_in_place, gelu_tanh_of};
use crate::residual::{add_in_place, gated_add_in_place};
use crate::rows::with_f32;
use crate::vector::{Task, Vector};

/// What [`linear_with`](super::linear_with) does with `y = x·Wᵀ + b`.
#[derive(Debug, Clone, Copy, Default)]
pub enum Epilogue<'a> {
    /// Nothing.
    #[default]
    None,
    /// [`gelu_tanh`](crate::activation::gelu_tanh)`(y)`.
    GeluTanh,
    /// `residual + y·gate`.
    GatedResidual {
        /// `[.., out]` f32, of the result's shape. It is only read.
        residual: &'a Tensor,
        /// f32 with `out` elements.
        gate: &'a Tensor,
    },
    /// `residual + y`, of `[.., out]` f32.
    Residual(&'a Tensor),
    /// `factor·y`, of `[.., out]` f32: what a gated feed-forward layer does.
    Times(&'a Tensor),
}

impl Epilogue<'_> {
    /// Whether it fits a result of this shape.
    pub(super) fn check(&self, shape: &[usize]) -> Result<()> {
        match self {
            Self::GatedResidual { residual, gate }
                if residual.dims() != shape || Some(&gate.elem_count()) != shape.last() =>
            {
                candle_core::bail!("linear: residual {:?} by gate {:?} for {shape:?}", residual.dims(), gate.dims())
            }
            Self::Residual(other) | Self::Times(other) if other.dims() != shape => {
                candle_core::bail!("linear: {:?} to go with {shape:?}", other.dims())
            }
            _ => Ok(()),
        }
    }

    /// It done with a whole product, in whose memory the result is where the device can.
    pub(super) fn apply(&self, product: Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(product),
            // A scalar is no row; a product always is one.
            Self::GeluTanh => gelu_tanh_in_place(product),
            Self::GatedResidual { residual, gate } => gated_add_in_place(residual, product, gate),
            Self::Residual(residual) => add_in_place(residual, product),
            Self::Times(factor) => product * *factor,
        }
    }

    /// Runs `f` with it and a bias as slices on the host.
    pub(super) fn with<T>(&self, bias: Option<&Tensor>, f: impl FnOnce(Output) -> Result<T>) -> Result<T> {
        let bias = bias.map(|b| b.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()).transpose()?;
        let bias = bias.as_deref();
        match self {
            Self::None => f(Output { bias, finish: Finish::None }),
            Self::GeluTanh => f(Output { bias, finish: Finish::GeluTanh }),
            Self::GatedResidual { residual, gate } => with_f32(residual, |residual| {
                with_f32(gate, |gate| f(Output { bias, finish: Finish::GatedResidual { residual, gate } }))
            }),
            Self::Residual(x) => with_f32(x, |x| f(Output { bias, finish: Finish::Residual(x) })),
            Self::Times(x) => with_f32(x, |x| f(Output { bias, finish: Finish::Times(x) })),
        }
    }
}

/// An [`Epilogue`] on the host.
#[derive(Clone, Copy)]
enum Finish<'a> {
    None,
    GeluTanh,
    GatedResidual { residual: &'a [f32], gate: &'a [f32] },
    Residual(&'a [f32]),
    Times(&'a [f32]),
}

/// What is done with sums: the bias is added, then the rest.
#[derive(Clone, Copy)]
pub(super) struct Output<'a> {
    bias: Option<&'a [f32]>,
    finish: Finish<'a>,
}

impl<'a> Output<'a> {
    /// Into the memory of `out`, which has room for `rows` of `columns` numbers and need not hold any.
    pub(super) fn place(self, out: &mut Vec<f32>, [rows, columns]: [usize; 2]) -> Place<'a> {
        assert!(out.capacity() >= rows * columns && self.fits(rows, columns));
        Place { output: self, to: out.as_mut_ptr(), rows, columns }
    }

    fn fits(&self, rows: usize, columns: usize) -> bool {
        self.bias.is_none_or(|bias| bias.len() == columns)
            && match self.finish {
                Finish::None | Finish::GeluTanh => true,
                Finish::GatedResidual { residual, gate } => residual.len() == rows * columns && gate.len() == columns,
                Finish::Residual(x) | Finish::Times(x) => x.len() == rows * columns,
            }
    }

    /// Neither bias nor anything else.
    #[cfg(test)]
    pub(super) const NONE: Output<'static> = Output { bias: None, finish: Finish::None };
}

/// The result's memory, of which every task writes columns of its own.
pub(super) struct Place<'a> {
    output: Output<'a>,
    to: *mut f32,
    rows: usize,
    columns: usize,
}

// SAFETY: tasks do not overlap, so no element is touched by two threads.
unsafe impl Sync for Place<'_> {}

impl Place<'_> {
    /// Takes sums of row `row` and columns from `first` on, which may be changed, and writes what comes of them. No other task may
    /// have them.
    ///
    /// # Safety
    /// The machine has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn finish<V: Vector>(&self, row: usize, first: usize, sums: &mut [f32]) {
        let (count, columns) = (sums.len(), self.columns);
        assert!(row < self.rows && first + count <= columns);
        if let Some(bias) = self.output.bias {
            sums.iter_mut().zip(&bias[first..]).for_each(|(sum, b)| *sum += b);
        }
        let out: *mut MaybeUninit<f32> = self.to.wrapping_add(row * columns + first).cast();
        // SAFETY: inside of the memory, as checked; nobody else has this part.
        let out = unsafe { std::slice::from_raw_parts_mut(out, count) };
        match self.output.finish {
            Finish::None => out.iter_mut().zip(sums).for_each(|(o, y)| _ = o.write(*y)),
            Finish::GeluTanh => {
                for (y, o) in sums.chunks(V::LANES).zip(out.chunks_mut(V::LANES)) {
                    // SAFETY: the instructions are the caller's; as many floats as there are.
                    unsafe {
                        let value = gelu_tanh_of(V::load_part(y.as_ptr(), y.len()));
                        value.store_part(o.as_mut_ptr().cast(), o.len());
                    }
                }
            }
            Finish::GatedResidual { residual, gate } => {
                let residual = &residual[row * columns + first..][..count];
                for (((o, y), x), g) in out.iter_mut().zip(sums).zip(residual).zip(&gate[first..]) {
                    o.write(x + *y * g);
                }
            }
            Finish::Residual(residual) => {
                let residual = &residual[row * columns + first..][..count];
                out.iter_mut().zip(sums).zip(residual).for_each(|((o, y), x)| _ = o.write(x + *y));
            }
            Finish::Times(factor) => {
                let factor = &factor[row * columns + first..][..count];
                out.iter_mut().zip(sums).zip(factor).for_each(|((o, y), x)| _ = o.write(*y * x));
            }
        }
    }
}

/// [`Place::finish`] where no instructions are chosen yet.
pub(super) struct Finishing<'a> {
    pub place: &'a Place<'a>,
    pub row: usize,
    pub first: usize,
    pub sums: &'a mut [f32],
}

impl Task for Finishing<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller's.
        unsafe { self.place.finish::<V>(self.row, self.first, self.sums) };
    }
}
