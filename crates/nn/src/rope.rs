//! Three-axis rotary embedding of video tokens (Wan 2.1: time, row, column).

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use crate::RmsNorm;

/// Base of the geometric frequency series.
const THETA: f64 = 10_000.0;

/// Cosines and sines of every token's angles, computed in f64 and held in f32.
#[derive(Debug, Clone)]
pub struct RopeTables {
    cos: Tensor,
    sin: Tensor,
}

impl RopeTables {
    /// For tokens in row-major order (t, y, x) over `grid` = (frames, rows, columns), positions from zero.
    ///
    /// With `c = head_dim/2` channel pairs, `⌊c/3⌋` pairs each belong to rows and columns and the rest, which come
    /// first, to time; within a group of `g` pairs, pair `j` turns by `position·10000^(−j/g)`.
    ///
    /// # Errors
    /// Fails only where the device does.
    pub fn video(head_dim: usize, grid: (usize, usize, usize), device: &Device) -> Result<Self> {
        let pairs = head_dim / 2;
        let spatial = pairs / 3;
        let temporal = pairs - 2 * spatial;
        let (frames, rows, columns) = grid;
        // Few positions serve many tokens: sines are taken once a position.
        let angles = |positions: usize, group: usize| -> Vec<Vec<(f32, f32)>> {
            let angle = |p: usize, j: usize| p as f64 * THETA.powf(-(j as f64) / group as f64);
            let turn = |angle: f64| (angle.cos() as f32, angle.sin() as f32);
            (0..positions).map(|p| (0..group).map(|j| turn(angle(p, j))).collect()).collect()
        };
        let (ts, ys, xs) = (angles(frames, temporal), angles(rows, spatial), angles(columns, spatial));
        let tokens = frames * rows * columns;
        let mut cos = Vec::with_capacity(tokens * pairs);
        let mut sin = Vec::with_capacity(tokens * pairs);
        for t in &ts {
            for y in &ys {
                for x in &xs {
                    for (c, s) in t.iter().chain(y).chain(x) {
                        cos.push(*c);
                        sin.push(*s);
                    }
                }
            }
        }
        Ok(Self {
            cos: Tensor::from_vec(cos, (tokens, pairs), device)?,
            sin: Tensor::from_vec(sin, (tokens, pairs), device)?,
        })
    }

    /// Cosines and sines, `[tokens, head_dim / 2]` each.
    pub fn parts(&self) -> [&Tensor; 2] {
        [&self.cos, &self.sin]
    }

    /// Rotates `x` `[B, L, H, D]` f32 → the same shape.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        kernels::rope::rope(x, &self.cos, &self.sin)
    }

    /// As [`apply`](Self::apply), with the result in the memory of `x` where the device can: nobody else may hold it.
    ///
    /// # Errors
    /// As there.
    pub fn apply_in_place(&self, x: Tensor) -> Result<Tensor> {
        kernels::rope::rope_in_place(x, &self.cos, &self.sin)
    }

    /// A norm over all channels of a token and then this rotation head by head, in one pass and in the memory of `x`
    /// where the device can: nobody else may hold it. `x` `[B, L, H·D]` f32 → `[B, L, H, D]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply_after_norm(&self, norm: &RmsNorm, x: Tensor) -> Result<Tensor> {
        let (weight, eps) = norm.parts();
        let _span = tracing::info_span!(target: "steadydance", "norm and rope").entered();
        kernels::norm::rms_norm_rope_in_place(x, weight, eps, &self.cos, &self.sin)
    }

    /// The tables of the tokens `rows` alone; they share this one's memory.
    ///
    /// # Errors
    /// There are fewer tokens.
    pub fn rows(&self, rows: Range<usize>) -> Result<Self> {
        let part = |t: &Tensor| t.narrow(0, rows.start, rows.len());
        Ok(Self { cos: part(&self.cos)?, sin: part(&self.sin)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check values of the specification (wan_components §4.3): at head width 128 and position 1, the time group's
    /// angles run 1, 0.65793322 … 1.5199111e-4, the row and column groups' 1, 0.64494668 … 1.5505158e-4.
    #[test]
    fn frequencies_of_a_wan_head() {
        let tables = RopeTables::video(128, (2, 2, 2), &Device::Cpu).unwrap();
        let sin = tables.sin.to_vec2::<f32>().unwrap();
        let last = &sin[7]; // t = y = x = 1
        let close = |a: f32, angle: f64| assert!((f64::from(a) - angle.sin()).abs() < 1e-7, "{a} {angle}");
        close(last[1], 0.65793322);
        close(last[21], 1.5199111e-4);
        close(last[22], 1.0);
        close(last[23], 0.64494668);
        close(last[42], 1.5505158e-4);
        close(last[43], 1.0);
        close(last[63], 1.5505158e-4);
        assert!(sin[0].iter().all(|s| *s == 0.0));
    }
}
