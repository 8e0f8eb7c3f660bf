//! Passes over residual streams and hidden states, which memory limits: each against copying as many bytes.
//! `cargo bench -p steadydance-kernels --bench elementwise`.

use std::hint::black_box;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use kernels::Compute;
use kernels::activation::gelu_tanh_in_place;
use kernels::linear::{Epilogue, Input, Matrix, linear_of};
use kernels::norm::{layer_norm, rms_norm_in_place, rms_norm_rope_in_place};
use kernels::residual::{add_in_place, gated_add_in_place};
use kernels::rope::rope_in_place;
use rayon::prelude::*;

const TOKENS: usize = 8192;
const HEAD: usize = 128;

fn randn(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

/// Seconds of the median run.
fn median(mut run: impl FnMut()) -> f64 {
    run();
    let mut times: Vec<f64> = (0..9)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// A pass in the memory of its argument.
fn over(x: &mut Option<Tensor>, pass: impl Fn(Tensor) -> Tensor) {
    *x = x.take().map(pass);
}

fn bench(width: usize) {
    let shape = [1, TOKENS, width];
    let bytes = (4 * TOKENS * width) as f64;
    let (mut x, y) = (Some(randn(&shape)), randn(&shape));
    let (weight, bias, gate) = (randn(&[width]), randn(&[width]), randn(&[1, 1, width]));
    let (cos, sin) = (randn(&[TOKENS, HEAD / 2]), randn(&[TOKENS, HEAD / 2]));
    let (from, mut to) = (vec![1f32; TOKENS * width], vec![0f32; TOKENS * width]);
    let copy = |to: &mut [f32]| {
        to.par_chunks_mut(1 << 14).zip(from.par_chunks(1 << 14)).for_each(|(t, f)| t.copy_from_slice(f))
    };
    let moved = 2.0 * bytes;
    let copied = moved / median(|| copy(&mut to)) / 1e9;
    let fresh = moved
        / median(|| {
            let mut to = vec![0f32; TOKENS * width];
            copy(&mut to);
            black_box(to);
        })
        / 1e9;
    println!("{TOKENS} × {width}: copy {copied:.1} GB/s, to memory that is new {fresh:.1} GB/s");
    let report = |name: &str, moved: f64, seconds: f64, probe: f64| {
        let rate = moved / seconds / 1e9;
        println!("| {name} | {:.2} | {rate:.1} | {:.0} % |", 1e3 * seconds, 100.0 * rate / probe);
    };
    println!("| pass | ms | GB/s | of copying |\n|---|---|---|---|");
    let modulate = || drop(layer_norm(&y, Some(&weight), Some(&bias), 1e-6).unwrap());
    report("layer norm, modulated (new memory)", moved, median(modulate), fresh);
    let seconds = median(|| over(&mut x, |x| rms_norm_in_place(x, &weight, 1e-6).unwrap()));
    report("RMS norm", moved, seconds, copied);
    let heads = (1, TOKENS, width / HEAD, HEAD);
    let seconds = median(|| {
        over(&mut x, |x| {
            let split = x.reshape(heads).unwrap();
            drop(x);
            rope_in_place(split, &cos, &sin).unwrap().reshape(&shape).unwrap()
        })
    });
    report("rope", moved, seconds, copied);
    let seconds = median(|| {
        over(&mut x, |x| rms_norm_rope_in_place(x, &weight, 1e-6, &cos, &sin).unwrap().reshape(&shape).unwrap())
    });
    report("RMS norm and rope", moved, seconds, copied);
    let seconds = median(|| over(&mut x, |x| gated_add_in_place(&y, x, &gate).unwrap()));
    report("gate and residual", 1.5 * moved, seconds, copied);
    let seconds = median(|| over(&mut x, |x| add_in_place(&y, x).unwrap()));
    report("residual", 1.5 * moved, seconds, copied);
    let seconds = median(|| over(&mut x, |x| gelu_tanh_in_place(x).unwrap()));
    report("GELU", moved, seconds, copied);
}

/// A norm and the three products after it: one after the other, and the norm with the rounding of what they share.
fn norm_with_products(tokens: usize, width: usize) {
    let (x, gain) = (randn(&[1, tokens, width]), randn(&[width]));
    let bf16 = |_| Matrix::from(randn(&[width, width]).to_dtype(DType::BF16).unwrap()).with_compute(Compute::Bf16);
    let matrices = [0, 1, 2].map(bf16);
    let products = |x: &Input| {
        for matrix in &matrices {
            black_box(linear_of(x, matrix, None, Epilogue::None).unwrap());
        }
    };
    let apart = || products(&layer_norm(&x, Some(&gain), None, 1e-6).unwrap().into());
    let within = || products(&Input::normed(x.clone(), Some(&gain), None, 1e-6).unwrap());
    let mut ratios: Vec<f64> = (0..5).map(|_| median(apart) / median(within)).collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "{tokens} × {width}, norm and three products in bf16: apart takes {:.3} of what it takes within",
        ratios[2]
    );
}

fn main() {
    for width in [1536, 5120] {
        bench(width);
    }
    norm_with_products(2550, 1536);
    norm_with_products(1024, 5120);
}
