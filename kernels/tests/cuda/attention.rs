//! Attention against its definition.

use candle_core::{DType, Tensor};
use kernels::attention::reference::attention_with_bias;
use kernels::cuda::GpuDtype;
use kernels::cuda::ops::{
    Heads, Int8Keys, ValueSums, attention, attention_int8, attention_over_frames, attention_with_offsets,
};

use crate::{Bench, LEVELS, Random, assert_close};

/// bf16 has 8 bits: weights, values and results are rounded to them.
const TOLERANCE: f32 = 6e-3;

fn heads_first(x: &Tensor) -> Tensor {
    x.transpose(1, 2).unwrap().contiguous().unwrap()
}

#[test]
fn agrees_with_the_definition() {
    LEVELS.into_iter().filter_map(Bench::at).for_each(|bench| agrees_with_the_definition_at(&bench));
}

fn agrees_with_the_definition_at(bench: &Bench) {
    let mut random = Random::new();
    for case in 0..9 {
        let biased = case % 3 == 2;
        let dim = if biased { random.one_of(&[8, 64, 72, 128]) } else { random.one_of(&[8, 40, 64, 96, 128, 384]) };
        let (batch, heads) = (random.within(1..3), random.within(1..4));
        let (queries, keys) = (random.within(1..150), random.within(1..200));
        let mut make = |rows: usize| random.normal(&[batch, rows, heads, dim], DType::BF16);
        let (q, k, v) = (make(queries), make(keys), make(keys));
        let (bias_heads, bias_rows) = (random.one_of(&[1, heads]), random.one_of(&[1, queries]));
        let bias = biased.then(|| random.normal(&[bias_heads, bias_rows, keys], DType::F32));
        let there = [&q, &k, &v].map(|x| bench.upload(x, GpuDtype::Bf16));
        let bias_there = bias.as_ref().map(|b| bench.upload(b, GpuDtype::F32));
        let scale = 1.0 / (dim as f32).sqrt();
        let views = there.each_ref().map(|x| Heads::of(x).unwrap());
        let got = attention(&bench.gpu, views, scale, bias_there.as_ref()).unwrap();
        let bias = bias.map(|b| b.broadcast_as((heads, queries, keys)).unwrap().contiguous().unwrap());
        let [q, k, v] = [&q, &k, &v].map(heads_first);
        let want = attention_with_bias(&q, &k, &v, f64::from(scale), bias.as_ref()).unwrap();
        let what = format!("B {batch} H {heads} Lq {queries} Lk {keys} D {dim} bias {biased}");
        assert_close(&heads_first(&bench.download(&got)), &want, TOLERANCE, &what);
    }
}

#[test]
fn a_bias_by_distance_is_that_of_all_pairs() {
    LEVELS.into_iter().filter_map(Bench::at).for_each(|bench| {
        let mut random = Random::new();
        for dim in [16, 64, 80] {
            let (heads, queries, keys) = (random.within(1..4), random.within(1..150), random.within(1..200));
            let mut make = |rows: usize| random.normal(&[1, rows, heads, dim], DType::BF16);
            let there = [make(queries), make(keys), make(keys)].map(|x| bench.upload(&x, GpuDtype::Bf16));
            let views = there.each_ref().map(|x| Heads::of(x).unwrap());
            let offsets = random.normal(&[heads, queries + keys - 1], DType::F32);
            let windows = (0..queries).map(|i| offsets.narrow(1, queries - 1 - i, keys).unwrap()).collect::<Vec<_>>();
            let all = bench.upload(&Tensor::stack(&windows, 1).unwrap(), GpuDtype::F32);
            let offsets = bench.upload(&offsets, GpuDtype::F32);
            let want = attention(&bench.gpu, views, 0.3, Some(&all)).unwrap();
            let got = attention_with_offsets(&bench.gpu, views, 0.3, &offsets).unwrap();
            assert_close(&bench.download(&got), &bench.download(&want), 0.0, &format!("{queries} by {keys} of {dim}"));
            assert!(attention_with_offsets(&bench.gpu, views, 0.3, &all).is_err());
        }
    });
}

#[test]
fn projections_that_lie_behind_each_other_are_read_in_place() {
    LEVELS
        .into_iter()
        .filter_map(Bench::at)
        .for_each(|bench| projections_that_lie_behind_each_other_are_read_in_place_at(&bench));
}

fn projections_that_lie_behind_each_other_are_read_in_place_at(bench: &Bench) {
    let (rows, heads, dim) = (37, 2, 16);
    let qkv = Random::new().normal(&[1, rows, 3 * heads * dim], DType::BF16);
    let there = bench.upload(&qkv, GpuDtype::Bf16);
    let part = |n| Heads::part(&there, n * heads * dim, heads, dim).unwrap();
    let got = attention(&bench.gpu, [part(0), part(1), part(2)], 0.25, None).unwrap();
    let of = |n: usize| {
        let part = qkv.narrow(2, n * heads * dim, heads * dim).unwrap();
        heads_first(&part.contiguous().unwrap().reshape((1, rows, heads, dim)).unwrap())
    };
    let want = attention_with_bias(&of(0), &of(1), &of(2), 0.25, None).unwrap();
    assert_close(&heads_first(&bench.download(&got)), &want, TOLERANCE, "in place");
}

#[test]
fn pixels_attend_to_themselves_over_frames() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    for _ in 0..6 {
        let (frames, pixels, heads) = (random.within(1..40), random.within(1..30), random.within(1..9));
        let mut make = || random.normal(&[frames, pixels, heads * 16], DType::BF16);
        let (q, k, v) = (make(), make(), make());
        let there = [&q, &k, &v].map(|x| bench.upload(x, GpuDtype::Bf16));
        let got = attention_over_frames(&bench.gpu, there.each_ref(), 0.25).unwrap();
        // [F, P, H·16] → [P, H, F, 16]
        let apart = |x: &Tensor| {
            let x = x.reshape((frames, pixels, heads, 16)).unwrap();
            x.permute((1, 2, 0, 3)).unwrap().contiguous().unwrap()
        };
        let want = attention_with_bias(&apart(&q), &apart(&k), &apart(&v), 0.25, None).unwrap();
        let what = format!("{frames} frames, {pixels} pixels, {heads} heads");
        assert_close(&apart(&bench.download(&got)), &want, TOLERANCE, &what);
    }
    let mut make = |shape: &[usize]| bench.upload(&random.normal(shape, DType::BF16), GpuDtype::Bf16);
    let (x, longer, odd) = (make(&[3, 2, 16]), make(&[4, 2, 16]), make(&[3, 2, 24]));
    for [q, k, v] in [[&x, &longer, &x], [&x, &x, &longer], [&odd, &odd, &odd]] {
        assert!(attention_over_frames(&bench.gpu, [q, k, v], 1.0).is_err());
    }
    assert!(attention_over_frames(&bench.gpu, [&x, &x, &x], f32::NAN).is_err());
}

#[test]
fn scores_of_eight_bits_are_near_the_definition() {
    LEVELS.into_iter().filter_map(Bench::at).for_each(|bench| scores_of_eight_bits_at(&bench));
}

fn scores_of_eight_bits_at(bench: &Bench) {
    let mut random = Random::new();
    for sums in [ValueSums::F32, ValueSums::F16, ValueSums::F32] {
        let (batch, heads) = (random.within(1..3), random.within(1..3));
        let (queries, keys) = (random.within(1..200), random.within(1..300));
        let mut make = |rows: usize| random.normal(&[batch, rows, heads, 128], DType::BF16);
        let (q, k, v) = (make(queries), make(keys), make(keys));
        // What keys have in common makes no difference, and would take most of the 8 bits.
        let k = (k + 2.0).unwrap().to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
        let there = [&q, &k, &v].map(|x| bench.upload(x, GpuDtype::Bf16));
        let [of_q, of_k, of_v] = there.each_ref().map(|x| Heads::of(x).unwrap());
        let held = Int8Keys::new(&bench.gpu, of_k, of_v, sums).unwrap();
        let scale = 1.0 / 128f32.sqrt();
        let got = bench.download(&attention_int8(&bench.gpu, of_q, &held, scale).unwrap());
        let [first, want, v] = [&q, &k, &v].map(heads_first);
        let want = attention_with_bias(&first, &want, &v, f64::from(scale), None).unwrap();
        let what = format!("{} {sums:?} B {batch} H {heads} Lq {queries} Lk {keys}", bench.gpu.level());
        assert_close(&heads_first(&got), &want, 0.07, &what);

        // Some of the queries have the same results, to the bit.
        let count = random.within(0..queries) + 1;
        let part = bench.upload(&q.narrow(1, queries - count, count).unwrap().contiguous().unwrap(), GpuDtype::Bf16);
        let part = attention_int8(&bench.gpu, Heads::of(&part).unwrap(), &held, scale).unwrap();
        let bits = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let of_all = got.narrow(1, queries - count, count).unwrap().contiguous().unwrap();
        assert!(bits(bench.download(&part)) == bits(of_all), "{what}, {count} of them");
    }
    let mut make = |shape: &[usize]| bench.upload(&random.normal(shape, DType::BF16), GpuDtype::Bf16);
    let (x, longer, narrow) = (make(&[1, 4, 2, 128]), make(&[1, 5, 2, 128]), make(&[1, 4, 2, 64]));
    let of = |t| Heads::of(t).unwrap();
    assert!(Int8Keys::new(&bench.gpu, of(&x), of(&longer), ValueSums::F32).is_err());
    assert!(Int8Keys::new(&bench.gpu, of(&narrow), of(&narrow), ValueSums::F32).is_err());
    let held = Int8Keys::new(&bench.gpu, of(&x), of(&x), ValueSums::F32).unwrap();
    assert!(attention_int8(&bench.gpu, of(&narrow), &held, 1.0).is_err());
    assert!(attention_int8(&bench.gpu, of(&x), &held, -1.0).is_err());
}

#[test]
fn wrong_shapes_are_errors() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    let mut make = |shape: &[usize]| bench.upload(&random.normal(shape, DType::BF16), GpuDtype::Bf16);
    let (x, longer, odd) = (make(&[1, 4, 2, 16]), make(&[1, 5, 2, 16]), make(&[1, 4, 2, 12]));
    assert!(Heads::of(&odd).is_err() && Heads::part(&x, 8, 2, 16).is_err());
    let of = |t| Heads::of(t).unwrap();
    for (q, k, v) in [(&x, &longer, &x), (&x, &x, &longer)] {
        assert!(attention(&bench.gpu, [of(q), of(k), of(v)], 1.0, None).is_err());
    }
    assert!(attention(&bench.gpu, [of(&x), of(&longer), of(&longer)], 1.0, None).is_ok());
    assert!(attention(&bench.gpu, [of(&x), of(&x), of(&x)], 0.0, None).is_err());
    let bias = bench.upload(&random.normal(&[3, 4, 4], DType::F32), GpuDtype::F32);
    assert!(attention(&bench.gpu, [of(&x), of(&x), of(&x)], 1.0, Some(&bias)).is_err());
}
