//! Depthwise convolutions on the host: a run of output pixels of a row in registers, a vector of channels at a time.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::Activation;
use crate::gemm::{Buffer, CHUNK};
use crate::level::Level;
use crate::rows::with_f32;
use crate::vector::{Task, Vector, run_at};

/// Weights `[tap][channel]` and bias, each filled with zeros to whole chunks of channels.
#[derive(Debug)]
pub(super) struct Packed {
    level: Level,
    size: usize,
    channels: usize,
    pitch: usize,
    weights: Buffer,
    bias: Buffer,
}

impl Packed {
    /// `weight` `[C, 1, k, k]`, `bias` `[C]`.
    pub(super) fn new(weight: &Tensor, bias: &Tensor, level: Level) -> Result<Self> {
        let (channels, _, size, _) = weight.dims4()?;
        let pitch = channels.next_multiple_of(CHUNK);
        let (mut weights, mut padded) = (Buffer::zeros(size * size * pitch), Buffer::zeros(pitch));
        padded.all_mut()[..channels].copy_from_slice(&bias.to_vec1()?);
        for (c, taps) in weight.flatten_all()?.to_vec1::<f32>()?.chunks_exact(size * size).enumerate() {
            for (tap, w) in taps.iter().enumerate() {
                weights.all_mut()[tap * pitch + c] = *w;
            }
        }
        Ok(Self { level, size, channels, pitch, weights, bias: padded })
    }
}

/// `x` `[B, H, W, C]` with the channels of `packed`.
pub(super) fn depthwise(packed: &Packed, x: &Tensor, activation: Activation) -> Result<Tensor> {
    let (_, height, width, channels) = x.dims4()?;
    let count = x.elem_count();
    let mut out: Vec<f32> = Vec::with_capacity(count);
    with_f32(x, |x| {
        if count > 0 {
            let rows = out.spare_capacity_mut()[..count].par_chunks_mut(width * channels);
            rows.enumerate().for_each(|(row, out)| {
                let (picture, y) = (row / height, row % height);
                let x = &x[picture * height * width * channels..][..height * width * channels];
                run_at(packed.level, Row { packed, x, height, width, y, out: out.as_mut_ptr().cast(), activation });
            });
        }
        Ok(())
    })?;
    // SAFETY: every row was written.
    unsafe { out.set_len(count) };
    Tensor::from_vec(out, x.shape(), x.device())
}

/// One row of the output.
struct Row<'a> {
    packed: &'a Packed,
    /// One picture.
    x: &'a [f32],
    height: usize,
    width: usize,
    y: usize,
    /// `width` pixels.
    out: *mut f32,
    activation: Activation,
}

impl Task for Row<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (channels, width) = (self.packed.channels, self.width);
        let mut x = 0;
        while x < width {
            let left = width - x;
            for channel in (0..channels).step_by(V::LANES) {
                // SAFETY: pixels and channels within the picture.
                unsafe {
                    match (left, channels - channel >= V::LANES) {
                        (8.., true) => self.pixels::<V, 8, true>(x, channel),
                        (8.., false) => self.pixels::<V, 8, false>(x, channel),
                        (4.., true) => self.pixels::<V, 4, true>(x, channel),
                        (4.., false) => self.pixels::<V, 4, false>(x, channel),
                        (_, true) => self.pixels::<V, 1, true>(x, channel),
                        (_, false) => self.pixels::<V, 1, false>(x, channel),
                    }
                }
            }
            x += match left {
                8.. => 8,
                4.. => 4,
                _ => 1,
            };
        }
        // SAFETY: all pixels of the row were written.
        unsafe { self.activation.apply::<V>(std::slice::from_raw_parts_mut(self.out, width * channels)) };
    }
}

impl Row<'_> {
    /// `COUNT` pixels from `x` on; a whole vector of channels, or the last ones.
    #[inline(always)]
    unsafe fn pixels<V: Vector, const COUNT: usize, const WHOLE: bool>(&self, x: usize, channel: usize) {
        let Packed { size, channels, pitch, weights, bias, .. } = self.packed;
        let (size, half, lanes) = (*size, size / 2, channels - channel);
        // SAFETY: the caller's.
        unsafe {
            let mut sums = [V::load(bias.all()[channel..].as_ptr()); COUNT];
            for ky in 0..size {
                // Rows and columns before the edge wrap to something large.
                let y = (self.y + ky).wrapping_sub(half);
                if y >= self.height {
                    continue;
                }
                let row = self.x[y * self.width * channels + channel..].as_ptr();
                let load = |x: usize| {
                    let from = row.add(x * channels);
                    if WHOLE { V::load(from) } else { V::load_part(from, lanes) }
                };
                let mut kx = 0;
                while kx < size {
                    let weights = weights.all()[(ky * size + kx) * pitch + channel..].as_ptr();
                    let first = (x + kx).wrapping_sub(half);
                    kx += match size - kx {
                        5.. => taps::<V, COUNT, 5>(&mut sums, load, first, self.width, weights, *pitch),
                        3.. => taps::<V, COUNT, 3>(&mut sums, load, first, self.width, weights, *pitch),
                        _ => taps::<V, COUNT, 1>(&mut sums, load, first, self.width, weights, *pitch),
                    };
                }
            }
            for (i, sum) in sums.into_iter().enumerate() {
                let to = self.out.add((x + i) * channels + channel);
                if WHOLE { sum.store(to) } else { sum.store_part(to, lanes) }
            }
        }
    }
}

/// `TAPS` taps of a row, of which the first lies under the first sum at pixel `first`.
#[inline(always)]
unsafe fn taps<V: Vector, const COUNT: usize, const TAPS: usize>(
    sums: &mut [V; COUNT],
    load: impl Fn(usize) -> V,
    first: usize,
    width: usize,
    weights: *const f32,
    pitch: usize,
) -> usize {
    // SAFETY: the caller's.
    unsafe {
        let weights: [V; TAPS] = std::array::from_fn(|t| V::load(weights.add(t * pitch)));
        for i in 0..COUNT + TAPS - 1 {
            let x = first.wrapping_add(i);
            if x < width {
                let value = load(x);
                for (tap, w) in weights.iter().enumerate() {
                    if tap <= i && i - tap < COUNT {
                        sums[i - tap] = w.mul_add(value, sums[i - tap]);
                    }
                }
            }
        }
    }
    TAPS
}
