//! The inner block: a few output channels by a run of positions, summed over channels and taps.

use crate::level::Level;

/// Positions come in multiples of this.
pub(super) const POSITION_QUANTUM: usize = 16;
/// Floats behind the last tap of the last position that a block may read.
pub(super) const READ_SLACK: usize = 16;

/// `sums[o][p] += Σ_c Σ_tap weights[c][tap][o] · input[c][p + taps[tap]]` for the `group` output channels of one weight
/// group and all positions.
pub(super) struct Block<'a> {
    /// Packed input: channel c begins at `c·channel_stride`.
    pub input: &'a [f32],
    pub channels: usize,
    pub channel_stride: usize,
    /// Offset of each tap.
    pub taps: &'a [usize],
    /// `[channels][weight_taps][group]`, of which the last `taps.len()` taps are used.
    pub weights: &'a [f32],
    pub weight_taps: usize,
    /// Output channels of a group, 4 or 8.
    pub group: usize,
    /// `[group][positions]`; positions are a multiple of [`POSITION_QUANTUM`].
    pub sums: &'a mut [f32],
}

impl Block<'_> {
    pub(super) fn run(&mut self, level: Level) {
        let positions = self.sums.len() / self.group;
        debug_assert!(positions.is_multiple_of(POSITION_QUANTUM));
        match level {
            // SAFETY: `available` found the instructions.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe {
                if self.group == 8 {
                    let done = x86::sweep512::<8, 3>(self, 0, 0);
                    x86::sweep512::<8, 1>(self, 0, done);
                } else {
                    let done = x86::sweep512::<4, 6>(self, 0, 0);
                    x86::sweep512::<4, 1>(self, 0, done);
                }
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe {
                for first in (0..self.group).step_by(4) {
                    let done = x86::sweep256::<4, 3>(self, first, 0);
                    x86::sweep256::<4, 1>(self, first, done);
                }
            },
            // What the compiler makes of it is NEON where that is.
            _ => self.portable(positions),
        }
    }

    fn portable(&mut self, positions: usize) {
        const LANES: usize = 16;
        let skipped = self.weight_taps - self.taps.len();
        for first in (0..self.group).step_by(4) {
            for p in (0..positions).step_by(LANES) {
                let mut acc = [[0f32; LANES]; 4];
                for (o, acc) in acc.iter_mut().enumerate() {
                    acc.copy_from_slice(&self.sums[(first + o) * positions + p..][..LANES]);
                }
                for c in 0..self.channels {
                    let input = &self.input[c * self.channel_stride + p..];
                    for (k, tap) in self.taps.iter().enumerate() {
                        let w = &self.weights[((c * self.weight_taps) + skipped + k) * self.group + first..][..4];
                        let x = &input[*tap..][..LANES];
                        for (acc, w) in acc.iter_mut().zip(w) {
                            for (a, x) in acc.iter_mut().zip(x) {
                                *a += w * x;
                            }
                        }
                    }
                }
                for (o, acc) in acc.iter().enumerate() {
                    self.sums[(first + o) * positions + p..][..LANES].copy_from_slice(acc);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::Block;

    // Loads and stores go through arrays, not pointer intrinsics: those are verified one by one in checked builds and
    // then cost more than the arithmetic, while one slice check per tap does not show.
    macro_rules! sweep {
        ($name:ident, $features:literal, $vector:ty, $lanes:literal, $zero:ident, $splat:ident, $fma:ident) => {
            /// `OUT` output channels from `first`, `VECTORS` vectors of positions at a time, from position `from` on;
            /// returns the first position that was not done.
            #[target_feature(enable = $features)]
            #[allow(clippy::needless_range_loop)]
            pub(super) fn $name<const OUT: usize, const VECTORS: usize>(
                block: &mut Block,
                first: usize,
                from: usize,
            ) -> usize {
                let (group, channels, stride) = (block.group, block.channels, block.channel_stride);
                let positions = block.sums.len() / group;
                let skipped = block.weight_taps - block.taps.len();
                let step = VECTORS * $lanes;
                let mut p = from;
                while p + step <= positions {
                    let mut acc = [[$zero(); VECTORS]; OUT];
                    for o in 0..OUT {
                        let (row, _) = block.sums[(first + o) * positions + p..][..step].as_chunks::<$lanes>();
                        for v in 0..VECTORS {
                            // SAFETY: a vector is its lanes.
                            acc[o][v] = unsafe { transmute::<[f32; $lanes], $vector>(row[v]) };
                        }
                    }
                    for c in 0..channels {
                        let input = &block.input[c * stride + p..];
                        let weights = &block.weights[(c * block.weight_taps + skipped) * group..];
                        for (tap, weights) in block.taps.iter().zip(weights.chunks_exact(group)) {
                            let (chunks, _) = input[*tap..][..step].as_chunks::<$lanes>();
                            let weights = &weights[first..][..OUT];
                            let mut x = [$zero(); VECTORS];
                            for v in 0..VECTORS {
                                // SAFETY: as above.
                                x[v] = unsafe { transmute::<[f32; $lanes], $vector>(chunks[v]) };
                            }
                            for o in 0..OUT {
                                let w = $splat(weights[o]);
                                for v in 0..VECTORS {
                                    acc[o][v] = $fma(w, x[v], acc[o][v]);
                                }
                            }
                        }
                    }
                    for o in 0..OUT {
                        let (row, _) = block.sums[(first + o) * positions + p..][..step].as_chunks_mut::<$lanes>();
                        for v in 0..VECTORS {
                            // SAFETY: as above.
                            row[v] = unsafe { transmute::<$vector, [f32; $lanes]>(acc[o][v]) };
                        }
                    }
                    p += step;
                }
                p
            }
        };
    }

    sweep!(sweep512, "avx512f", __m512, 16, _mm512_setzero_ps, _mm512_set1_ps, _mm512_fmadd_ps);
    sweep!(sweep256, "avx2,fma", __m256, 8, _mm256_setzero_ps, _mm256_set1_ps, _mm256_fmadd_ps);
}
