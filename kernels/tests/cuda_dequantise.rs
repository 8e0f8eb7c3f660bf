//! dequantise.cu on the emulated GPU against this crate's decoders.

#[path = "../emulated/tests/driver/mod.rs"]
mod driver;

use bytes::Bytes;
use driver::{Gpu, bf16, normal, random};
use kernels::quant::{Encoding, QuantMatrix, Scales, decode};
use rand::RngExt;

#[repr(C)]
#[derive(Clone, Copy)]
struct Dequantise {
    w: u64,
    y: u64,
    scale: u64,
    row_bytes: i64,
    y_stride: i64,
    rows: i32,
    columns: i32,
    first_row: i32,
    block_side: i32,
    factor: f32,
}

/// Bytes of which no scale or float is NaN or infinite: high bits of exponents are cleared wherever one may be.
fn stored(random: &mut impl RngExt, encoding: Encoding, count: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..count).map(|_| random.random()).collect();
    let halves: &[usize] = match encoding {
        Encoding::Q8_0 | Encoding::Q4_0 | Encoding::Q5_0 | Encoding::Iq4Nl | Encoding::Iq4Xs | Encoding::F16 => &[0],
        Encoding::Q4_1 | Encoding::Q5_1 | Encoding::Q4K | Encoding::Q5K => &[0, 2],
        Encoding::Q2K => &[80, 82],
        Encoding::Q3K => &[108],
        Encoding::Q6K => &[208],
        _ => &[],
    };
    for block in bytes.chunks_mut(encoding.block_bytes()) {
        halves.iter().for_each(|at| block[at + 1] &= 0xbb);
        match encoding {
            Encoding::F32 => block[3] = block[3] & 0x80 | 0x3f,
            Encoding::F8E4M3 | Encoding::F8E5M2 => block[0] &= 0xbf,
            _ => {}
        }
    }
    bytes
}

#[test]
fn every_encoding_is_decoded_as_on_the_host() {
    let (gpu, mut random) = (Gpu::new(), random());
    for encoding in Encoding::ALL.into_iter().filter(|&e| e != Encoding::BF16) {
        for (rows, columns) in [(3, 256), (5, 1024)] {
            let row_bytes = encoding.row_bytes(columns).unwrap();
            let bytes = stored(&mut random, encoding, rows * row_bytes);
            let blocks = normal(&mut random, rows.div_ceil(2) * columns.div_ceil(2));
            let mut kinds = vec![Scales::None, Scales::Matrix(-0.3), Scales::Rows(normal(&mut random, rows))];
            kinds.push(Scales::Blocks { side: 2, values: blocks });
            for scales in kinds {
                let matrix =
                    QuantMatrix::new(encoding, [rows, columns], Bytes::from(bytes.clone()), scales.clone(), None)
                        .unwrap();
                // Without the first row, as when a matrix is decoded in pieces.
                let (w, y) = (gpu.upload(&bytes), gpu.empty::<u16>((rows - 1) * columns));
                let (scale, block_side, factor) = match &scales {
                    Scales::None => (0, 0, 1.0),
                    Scales::Matrix(factor) => (0, 0, *factor),
                    Scales::Rows(values) => (gpu.upload(values).pointer + 4, 0, 1.0),
                    Scales::Blocks { side, values } => (gpu.upload(values).pointer, *side as i32, 1.0),
                };
                let params = Dequantise {
                    w: w.pointer + row_bytes as u64,
                    y: y.pointer,
                    scale,
                    row_bytes: row_bytes as i64,
                    y_stride: columns as i64,
                    rows: rows as i32 - 1,
                    columns: columns as i32,
                    first_row: 1,
                    block_side,
                    factor,
                };
                let kernel = format!("sd_dequantise_{}", encoding.name().to_lowercase());
                let grid = [((rows - 1) * columns / 8).div_ceil(256) as u32, 1, 1];
                gpu.launch(&kernel, grid, 256, 0, &params).expect("runs");
                let host: Vec<f32> = (1..rows).flat_map(|row| decode::reference::row(&matrix, row)).collect();
                for (i, &found) in gpu.download::<u16>(y).iter().enumerate() {
                    let expected = host[i];
                    // The order of products may differ by a rounding.
                    let near = [expected, expected * (1.0 + 3e-7), expected * (1.0 - 3e-7)].map(bf16);
                    assert!(near.contains(&found), "{kernel}, {scales:?}, number {i}: {found:04x}, not {near:04x?}");
                }
            }
        }
    }
}
