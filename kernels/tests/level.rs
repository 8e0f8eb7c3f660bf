//! What a lowered `STEADYDANCE_CPU_LEVEL` leaves: each level in a process of its own, since it is read once.

use std::process::Command;

use candle_core::{Device, Tensor};
use kernels::linear::{Matrix, linear, reference};
use kernels::quant::{Encoding, Scaling, Target, encode};
use kernels::{Compute, instruction_set};

const VARIABLE: &str = "STEADYDANCE_CPU_LEVEL";

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Relative distance.
fn distance(got: &Tensor, want: &Tensor) -> f32 {
    let (got, want) = (values(got), values(want));
    let square = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>();
    let difference: Vec<f32> = got.iter().zip(&want).map(|(a, b)| a - b).collect();
    (square(&difference) / square(&want)).sqrt()
}

/// Which numbers products are in follows what may be used.
#[test]
fn products_are_in_what_the_level_has() {
    let level = instruction_set();
    if let Ok(asked) = std::env::var(VARIABLE) {
        let plain = |name: &str| name.to_lowercase().replace([' ', '-'], "");
        let order = ["portable", "avx2", "avx512", "avx512vnni", "avx512bf16"];
        let place = |name: &str| order.iter().position(|o| *o == plain(name)).unwrap();
        assert!(place(level) <= place(&asked), "{level} above {asked}");
    }
    let (int8, bf16) = (["AVX-512 VNNI", "AVX-512 BF16"].contains(&level), level == "AVX-512 BF16");
    let x = Tensor::randn(0f32, 1.0, (21, 300), &Device::Cpu).unwrap();
    let w = values(&Tensor::randn(0f32, 1.0, (50, 300), &Device::Cpu).unwrap());
    let target = Target { encoding: Encoding::I8, scaling: Scaling::Rows, rotation: None };
    let w = Matrix::from(encode(&w, [50, 300], target).unwrap());
    for (compute, here) in [
        (Compute::F32, Compute::F32),
        (Compute::Bf16, if bf16 { Compute::Bf16 } else { Compute::F32 }),
        (Compute::Int8, if int8 { Compute::Int8 } else { Compute::F32 }),
    ] {
        let got = linear(&x, &w.clone().with_compute(compute), None).unwrap();
        let want = reference::linear(&x, &w.clone().with_compute(here), None).unwrap();
        assert!(distance(&got, &want) < 3e-6, "{level}: {compute:?} is not computed in {here:?}");
    }
}

#[test]
fn every_level_computes_in_what_it_has() {
    for level in ["portable", "avx2", "avx512", "avx512-vnni", "avx512-bf16"] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "products_are_in_what_the_level_has"])
            .env(VARIABLE, level)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{level}: {said}");
    }
}
