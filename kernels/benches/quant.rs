//! Decoding against copying, and Linears of every encoding against bf16.
//! `cargo bench -p steadydance-kernels --bench quant -- decode/Q4_K`.

use candle_core::{DType, Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kernels::linear::{Matrix, linear};
use kernels::quant::{Encoding, QuantMatrix, Target, encode};

const COLUMNS: usize = 5120;

fn randn(rows: usize, columns: usize) -> Tensor {
    Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu).unwrap()
}

fn forms(values: &[f32], rows: usize) -> Vec<(String, QuantMatrix)> {
    let rotated = Target { rotation: Some(256), ..Encoding::I8.into() };
    let plain = Encoding::ALL.into_iter().map(|e| (e.to_string(), Target::from(e)));
    let all = plain.chain(std::iter::once(("I8_H256".to_owned(), rotated)));
    all.map(|(name, target)| (name, encode(values, [rows, COLUMNS], target).unwrap())).collect()
}

/// One thread, in tiles of 64 rows from memory to a core's cache; bytes are those of the f32 that come out.
fn decoding(c: &mut Criterion) {
    const ROWS: usize = 4096;
    const TILE: usize = 64;
    let values: Vec<f32> = randn(ROWS, COLUMNS).flatten_all().unwrap().to_vec1().unwrap();
    let mut out = vec![0f32; TILE * COLUMNS];
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Bytes((ROWS * COLUMNS * 4) as u64));
    group.bench_function("copy", |b| {
        b.iter(|| {
            for tile in values.chunks_exact(out.len()) {
                std::hint::black_box(&mut out).copy_from_slice(tile);
            }
        });
    });
    for (name, matrix) in forms(&values, ROWS) {
        group.bench_function(name, |b| {
            b.iter(|| {
                for first in (0..ROWS).step_by(TILE) {
                    matrix.decode_rows(first, TILE, std::hint::black_box(&mut out)).unwrap();
                }
            });
        });
    }
}

/// `[rows, 5120] x [5120, 5120]`; elements are floating-point operations.
fn linears(c: &mut Criterion) {
    let weight = randn(COLUMNS, COLUMNS);
    let values: Vec<f32> = weight.flatten_all().unwrap().to_vec1().unwrap();
    let floats = [("F32", DType::F32), ("BF16", DType::BF16)];
    let floats = floats.map(|(name, dtype)| (name.to_owned(), Matrix::from(weight.to_dtype(dtype).unwrap())));
    let quantised = forms(&values, COLUMNS).into_iter().map(|(name, matrix)| (name, Matrix::from(matrix)));
    let matrices: Vec<(String, Matrix)> = floats.into_iter().chain(quantised).collect();
    for rows in [1, 64, 1024] {
        let x = randn(rows, COLUMNS);
        let mut group = c.benchmark_group(format!("linear_{rows}"));
        group.sample_size(10).throughput(Throughput::Elements((2 * rows * COLUMNS * COLUMNS) as u64));
        for (name, matrix) in &matrices {
            group.bench_function(BenchmarkId::from_parameter(name), |b| b.iter(|| linear(&x, matrix, None).unwrap()));
        }
    }
}

criterion_group!(benches, decoding, linears);
criterion_main!(benches);
