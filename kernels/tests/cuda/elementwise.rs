//! What is done with every number by itself, and the ends of a step, against the definitions.

use candle_core::{DType, Device, Tensor};
use kernels::activation::reference as activation;
use kernels::cuda::ops::{
    Activation, Columns, Indices, combine, combine_into, convert, gated_add_in_place, glu_in_place, look_up, map,
    map_in_place, patchify_into, unpatchify,
};
use kernels::cuda::{GpuDtype, GpuTensor};

use crate::{Bench, Random, assert_close};

const FLOATS: [(GpuDtype, DType); 2] = [(GpuDtype::F32, DType::F32), (GpuDtype::Bf16, DType::BF16)];

fn tolerance(dtype: GpuDtype) -> f32 {
    if dtype == GpuDtype::F32 { 2e-6 } else { 4e-3 }
}

#[test]
fn residuals_with_gates() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    for ((x_kind, x_host), (y_kind, y_host)) in FLOATS.into_iter().flat_map(|x| FLOATS.map(|y| (x, y))) {
        for gated in [true, false] {
            let (groups, each, columns) = (random.within(1..3), random.within(1..40), 8 * random.within(1..60));
            let x = random.normal(&[groups, each, columns], x_host);
            let y = random.normal(&[groups, each, columns], y_host);
            let gate = random.normal(&[groups, 1, columns], DType::F32);
            let (x_there, y_there) = (bench.upload(&x, x_kind), bench.upload(&y, y_kind));
            let gate_there = bench.upload(&gate, GpuDtype::F32);
            gated_add_in_place(&bench.gpu, &x_there, &y_there, gated.then_some(&gate_there)).unwrap();
            let change = if gated { y.broadcast_mul(&gate).unwrap() } else { y };
            let want = (x + change).unwrap();
            let what = format!("{x_kind:?} + {y_kind:?} [{groups}, {each}, {columns}]");
            assert_close(&bench.download(&x_there), &want, tolerance(x_kind), &what);
        }
    }
    let make = |shape: &[usize], dtype| GpuTensor::zeros(&bench.gpu, shape, dtype).unwrap();
    let x = make(&[4, 16], GpuDtype::F32);
    for (y, gate) in
        [(make(&[4, 8], GpuDtype::F32), None), (make(&[4, 16], GpuDtype::F32), Some(make(&[3, 16], GpuDtype::F32)))]
    {
        assert!(gated_add_in_place(&bench.gpu, &x, &y, gate.as_ref()).is_err());
    }
}

#[test]
fn activations_and_conversions() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    for ((x_kind, x_host), (y_kind, _)) in FLOATS.into_iter().flat_map(|x| FLOATS.map(|y| (x, y))) {
        for count in [1, 7, 8, 2047, 2048, 5000] {
            let x = (random.normal(&[count], x_host) * 3.0).unwrap();
            let x = x.to_dtype(x_host).unwrap().to_dtype(DType::F32).unwrap();
            let there = bench.upload(&x, x_kind);
            for (kind, want) in [
                (Activation::None, x.clone()),
                (Activation::GeluTanh, activation::gelu_tanh(&x).unwrap()),
                (Activation::Silu, activation::silu(&x).unwrap()),
                (Activation::GeluErf, x.gelu_erf().unwrap()),
                // x·sigmoid(1.702·x)
                (Activation::GeluQuick, (activation::silu(&(&x * 1.702).unwrap()).unwrap() / 1.702).unwrap()),
            ] {
                let got = map(&bench.gpu, &there, kind, y_kind).unwrap();
                assert_eq!(got.dtype(), y_kind);
                if (x_kind, y_kind) == (GpuDtype::Bf16, GpuDtype::Bf16) {
                    let here = bench.upload(&x, x_kind);
                    map_in_place(&bench.gpu, &here, kind).unwrap();
                    assert_close(&bench.download(&here), &bench.download(&got), 0.0, "in place");
                }
                // Where x is far below 0 only few digits of the result are left, of the definition's too.
                let with_x = |t: &Tensor| (t + &x).unwrap();
                let what = format!("{kind:?} {x_kind:?} {y_kind:?} {count}");
                assert_close(&with_x(&bench.download(&got)), &with_x(&want), tolerance(y_kind), &what);
            }
        }
    }
    let halves = GpuTensor::zeros(&bench.gpu, &[8], GpuDtype::F16).unwrap();
    assert!(convert(&bench.gpu, &halves, GpuDtype::F32).is_err());
}

#[test]
fn gated_linear_units() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    for (rows, columns) in [(1, 8), (random.within(2..40), 8 * random.within(2..40))] {
        let both = random.normal(&[rows, 2 * columns], DType::BF16);
        let there = bench.upload(&both, GpuDtype::Bf16);
        let half = |n: usize| Columns::part(&there, n * columns, columns).unwrap();
        glu_in_place(&bench.gpu, half(0), half(1), Activation::GeluTanh).unwrap();
        let of = |n: usize| both.narrow(1, n * columns, columns).unwrap().contiguous().unwrap().to_dtype(DType::F32);
        let want = (activation::gelu_tanh(&of(0).unwrap()).unwrap() * of(1).unwrap()).unwrap();
        let got = bench.download(&there);
        assert_close(&got.narrow(1, 0, columns).unwrap(), &want, 4e-3, "gated");
        assert_close(&got.narrow(1, columns, columns).unwrap(), &of(1).unwrap(), 0.0, "the gate itself");
        let other = GpuTensor::zeros(&bench.gpu, &[rows, columns + 8], GpuDtype::Bf16).unwrap();
        assert!(glu_in_place(&bench.gpu, half(0), Columns::all(&other), Activation::None).is_err());
    }
}

#[test]
fn rows_of_a_table_stand_as_columns() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    let (rows, columns, count) = (random.within(1..40), random.within(1..70), random.within(1..600));
    let table = random.normal(&[rows, columns], DType::F32);
    let indices: Vec<u32> = (0..count).map(|_| random.within(0..rows) as u32).collect();
    let there = bench.upload(&table, GpuDtype::F32);
    let got = look_up(&bench.gpu, &there, &Indices::upload(&bench.gpu, &indices).unwrap()).unwrap();
    let ids = Tensor::new(indices.as_slice(), &Device::Cpu).unwrap();
    let want = table.index_select(&ids, 0).unwrap().t().unwrap().contiguous().unwrap();
    assert_close(&bench.download(&got), &want, 0.0, "look up");
    let beyond = Indices::upload(&bench.gpu, &[0, rows as u32]).unwrap();
    assert!(look_up(&bench.gpu, &there, &beyond).is_err());
}

#[test]
fn latents_become_tokens_and_back() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    for case in 0..8 {
        let side = 2 - case % 2;
        let (c, f, h, w) =
            (random.within(1..9), random.within(1..4), side * random.within(1..5), side * random.within(1..5));
        let (y, x, columns) = (h / side, w / side, side * side * c);
        let (tokens, first) = (f * y * x, 4 * random.within(0..3));
        let latents = random.normal(&[c, f, h, w], DType::F32);
        let there = bench.upload(&latents, GpuDtype::F32);
        let rows = GpuTensor::zeros(&bench.gpu, &[1, tokens, first + columns], GpuDtype::Bf16).unwrap();
        patchify_into(&bench.gpu, &there, &rows, first, side).unwrap();
        let got = bench.download(&rows).narrow(2, first, columns).unwrap();
        // [C, F, y, s, x, s] → [F, y, x, C, s, s]
        let split = latents.reshape((c, f, y, side, x, side)).unwrap();
        let want = split.permute((1, 2, 4, 0, 3, 5)).unwrap().contiguous().unwrap().reshape((1, tokens, columns));
        assert_close(&got, &want.unwrap(), 4e-3, "patchify");

        let head = split.permute((1, 2, 4, 3, 5, 0)).unwrap().contiguous().unwrap().reshape((tokens, columns));
        let head = bench.upload(&head.unwrap(), GpuDtype::F32);
        let back = unpatchify(&bench.gpu, &head, [c, f, h, w], side).unwrap();
        assert_close(&bench.download(&back), &latents, 0.0, "unpatchify");
        assert!(patchify_into(&bench.gpu, &there, &rows, first + 4, side).is_err());
        assert!(patchify_into(&bench.gpu, &there, &rows, 0, 0).is_err());
        assert!(unpatchify(&bench.gpu, &head, [c, f, h + 1, w], side).is_err());
    }
}

#[test]
fn guidance_and_steps_are_sums() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    for terms in 1..=8 {
        let shape = [3, random.within(1..400)];
        let factors: Vec<f32> = (0..terms).map(|i| 0.5 - i as f32).collect();
        let x: Vec<Tensor> = factors.iter().map(|_| random.normal(&shape, DType::F32)).collect();
        let there: Vec<GpuTensor> = x.iter().map(|x| bench.upload(x, GpuDtype::F32)).collect();
        let list: Vec<(f32, &GpuTensor)> = factors.iter().copied().zip(&there).collect();
        let mut want = Tensor::zeros(&shape, DType::F32, &Device::Cpu).unwrap();
        for (f, x) in factors.iter().zip(&x) {
            want = (want + (x * f64::from(*f)).unwrap()).unwrap();
        }
        let got = combine(&bench.gpu, &list).unwrap();
        assert_close(&bench.download(&got), &want, 1e-6, "combine");
        let rounded = GpuTensor::zeros(&bench.gpu, &shape, GpuDtype::Bf16).unwrap();
        combine_into(&bench.gpu, &list, &there[0], Some(&rounded)).unwrap();
        assert_close(&bench.download(&there[0]), &want, 1e-6, "over a term");
        assert_close(&bench.download(&rounded), &want, 4e-3, "rounded");
    }
    let x = GpuTensor::zeros(&bench.gpu, &[3], GpuDtype::F32).unwrap();
    let other = GpuTensor::zeros(&bench.gpu, &[4], GpuDtype::F32).unwrap();
    assert!(combine(&bench.gpu, &[]).is_err() && combine(&bench.gpu, &[(1.0, &x); 9]).is_err());
    assert!(combine(&bench.gpu, &[(1.0, &x), (1.0, &other)]).is_err());
}
