//! Maximum pooling on the host: along rows first, then along columns.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::level::Level;
use crate::rows::with_f32;
use crate::vector::{Task, Vector, run_at};

pub(super) fn max_pool(x: &Tensor, size: usize, level: Level) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let (half, row) = (size / 2, width * channels);
    let out = with_f32(x, |x| {
        let mut out = x.to_vec();
        if x.is_empty() {
            return Ok(out);
        }
        let mut across = x.to_vec();
        across.par_chunks_mut(row).zip(x.par_chunks(row)).for_each(|(out, x)| {
            run_at(level, Across { x, out, half, channels });
        });
        out.par_chunks_mut(row).enumerate().for_each(|(i, out)| {
            let (picture, y) = (i / height, i % height);
            let seen = y.saturating_sub(half)..(y + half + 1).min(height);
            let x = &across[(picture * height + seen.start) * row..][..seen.len() * row];
            run_at(level, Down { x, out });
        });
        Ok(out)
    })?;
    Tensor::from_vec(out, (batch, height, width, channels), x.device())
}

/// Maxima under windows of one row.
struct Across<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
    half: usize,
    channels: usize,
}

impl Task for Across<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let width = self.x.len() / self.channels;
        for (i, out) in self.out.chunks_exact_mut(self.channels).enumerate() {
            let seen = i.saturating_sub(self.half)..(i + self.half + 1).min(width);
            for x in self.x[seen.start * self.channels..seen.end * self.channels].chunks_exact(self.channels) {
                raise(out, x);
            }
        }
    }
}

/// Maxima of whole rows.
struct Down<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Task for Down<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        self.out.copy_from_slice(&self.x[..self.out.len()]);
        for x in self.x.chunks_exact(self.out.len()).skip(1) {
            raise(self.out, x);
        }
    }
}

#[inline(always)]
fn raise(most: &mut [f32], x: &[f32]) {
    for (most, x) in most.iter_mut().zip(x) {
        *most = if *x > *most || x.is_nan() { *x } else { *most };
    }
}
