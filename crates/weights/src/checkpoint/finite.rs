//! Finding numbers that are not finite, at the speed of memory.

use candle_core::DType;
use kernels::quant::Encoding;
use rayon::prelude::*;

/// What a thread looks through at a time.
const RUN_BYTES: usize = 1 << 20;

/// Index of the first element whose exponent bits are all ones (infinity or NaN).
pub(super) fn first_non_finite(raw: &[u8], dtype: DType) -> Option<usize> {
    match dtype {
        DType::F32 => scan::<4>(raw, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
        DType::BF16 => scan::<2>(raw, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        DType::F16 => scan::<2>(raw, not_finite_f16),
        DType::F64 => scan::<8>(raw, |b| !f64::from_le_bytes(b).is_finite()),
        _ => None,
    }
}

/// Index of the first element that is decoded to infinity or NaN whatever the scales beside the matrix.
pub(super) fn first_non_finite_code(raw: &[u8], encoding: Encoding) -> Option<usize> {
    match encoding {
        Encoding::F8E4M3 => scan::<1>(raw, |[b]| b & 0x7f == 0x7f),
        Encoding::F8E5M2 => scan::<1>(raw, |[b]| b & 0x7c == 0x7c),
        Encoding::I8 => None,
        Encoding::F32 => first_non_finite(raw, DType::F32),
        Encoding::F16 => first_non_finite(raw, DType::F16),
        Encoding::BF16 => first_non_finite(raw, DType::BF16),
        _ => {
            let places = f16_places(encoding);
            let bad = |block: &[u8]| {
                let scale = |at: &usize| block.get(*at..).and_then(|b| b.first_chunk());
                places.iter().filter_map(scale).any(|b| not_finite_f16(*b))
            };
            let size = encoding.block_bytes();
            first_in_runs(raw, size, |run| run.chunks_exact(size).position(bad)).map(|i| i * encoding.block())
        }
    }
}

fn not_finite_f16(b: [u8; 2]) -> bool {
    u16::from_le_bytes(b) & 0x7c00 == 0x7c00
}

/// Where in a block of ggml's lie its f16 scales and minima. Source: `ggml-common.h`.
fn f16_places(encoding: Encoding) -> &'static [usize] {
    match encoding {
        Encoding::Q8_0 | Encoding::Q4_0 | Encoding::Q5_0 | Encoding::Iq4Nl | Encoding::Iq4Xs => &[0],
        Encoding::Q4_1 | Encoding::Q5_1 | Encoding::Q4K | Encoding::Q5K => &[0, 2],
        Encoding::Q2K => &[80, 82],
        Encoding::Q3K => &[108],
        Encoding::Q6K => &[208],
        _ => &[],
    }
}

fn scan<const W: usize>(raw: &[u8], bad: impl Fn([u8; W]) -> bool + Copy + Sync) -> Option<usize> {
    first_in_runs(raw, W, |run| {
        let (elements, _) = run.as_chunks::<W>();
        // Reduced without branches first: this goes over gigabytes.
        let pieces = elements.chunks(4096).enumerate();
        let mut suspects = pieces.filter(|(_, piece)| piece.iter().fold(false, |acc, e| acc | bad(*e)));
        suspects.find_map(|(i, piece)| Some(i * 4096 + piece.iter().position(|e| bad(*e))?))
    })
}

/// The index of the first of all elements of `width` bytes that `find` gives the index of in some run of them.
fn first_in_runs(raw: &[u8], width: usize, find: impl Fn(&[u8]) -> Option<usize> + Sync) -> Option<usize> {
    let count = (RUN_BYTES / width).max(1);
    let runs = raw.par_chunks(count * width).enumerate();
    runs.find_map_first(|(i, run)| Some(i * count + find(run)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_is_found() {
        for encoding in Encoding::ALL {
            let bytes = encoding.block_bytes();
            // Several runs, the last of them cut short.
            let mut raw = vec![0u8; 90_000 * bytes.max(30)];
            raw.truncate(raw.len() / bytes * bytes);
            assert_eq!(first_non_finite_code(&raw, encoding), None);
            for block in [89_999, 50_000, 0] {
                match f16_places(encoding).last() {
                    Some(at) => raw[block * bytes + at + 1] = 0xfc,
                    None => raw[block * bytes..][..bytes].fill(0xff),
                }
                let want = (encoding != Encoding::I8).then_some(block * encoding.block());
                assert_eq!(first_non_finite_code(&raw, encoding), want, "{encoding}");
            }
        }
        let largest = [[0x7e, 0xfe], [0x7b, 0xfb]];
        for (encoding, codes) in [Encoding::F8E4M3, Encoding::F8E5M2].into_iter().zip(largest) {
            assert_eq!(first_non_finite_code(&codes, encoding), None, "{encoding}");
        }
        for (dtype, inf) in [(DType::F32, vec![0, 0, 0x80, 0x7f]), (DType::BF16, vec![0x80, 0xff])] {
            assert_eq!(first_non_finite(&[vec![0; inf.len()], inf].concat(), dtype), Some(1));
        }
    }
}
