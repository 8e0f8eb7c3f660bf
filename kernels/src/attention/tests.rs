use candle_core::{Device, Tensor};

use super::factors::Kind;
use super::{Attention, Bias, attention, attention_with_bias, host, materialised, reference};
use crate::Compute;
use crate::level::Level;
use crate::testing::{assert_close, assert_same, randn};

/// The kinds of this machine, and how far from the definition each may be.
fn kinds() -> Vec<(Kind, f32)> {
    let mut kinds: Vec<_> = Level::available().into_iter().map(|l| (Kind::F32(l), 2e-6)).collect();
    for (compute, tolerance) in [(Compute::Bf16, 1e-2), (Compute::Int8, 2e-2)] {
        let kind = host::kind_of(compute);
        if !kinds.iter().any(|(k, _)| *k == kind) {
            kinds.push((kind, tolerance));
        }
    }
    kinds
}

/// `[B, H, L, D]` as a view of `[B, L, H, D]`.
fn part([b, h, l, d]: [usize; 4], seed: u64) -> Tensor {
    randn(&[b, l, h, d], seed).transpose(1, 2).unwrap()
}

fn rows(x: &Tensor, rows: std::ops::Range<usize>) -> Tensor {
    x.narrow(2, rows.start, rows.len()).unwrap()
}

/// `[B, H, Lq, Lk, D, E]`
const SHAPES: [[usize; 6]; 14] = [
    [1, 1, 1, 1, 2, 2],
    [1, 2, 5, 9, 4, 4],
    [2, 3, 17, 33, 16, 16],
    [1, 4, 64, 257, 64, 64],
    [1, 2, 1, 300, 128, 128],
    [1, 2, 100, 1, 128, 128],
    [1, 1, 130, 511, 8, 8],
    [1, 2, 29, 515, 40, 40],
    [1, 2, 97, 256, 80, 80],
    [1, 1, 85, 600, 256, 256],
    [1, 1, 31, 70, 384, 384],
    [1, 2, 13, 271, 7, 19],
    [3, 1, 99, 18, 33, 1],
    [2, 2, 15, 769, 96, 50],
];

#[test]
fn agrees_with_the_reference_over_shapes() {
    for (seed, [b, h, lq, lk, d, e]) in SHAPES.into_iter().enumerate() {
        let s = 10 * seed as u64;
        let (q, k, v) = (part([b, h, lq, d], s), part([b, h, lk, d], s + 1), part([b, h, lk, e], s + 2));
        let scale = (d as f64).sqrt().recip();
        let (scores, keys) = (randn(&[h, lq, lk], s + 3), randn(&[lk], s + 4));
        let of_keys = keys.broadcast_as((h, lq, lk)).unwrap();
        let offsets = randn(&[h, lq + lk - 1], s + 5);
        let windows: Vec<_> = (0..lq).map(|i| offsets.narrow(1, lq - 1 - i, lk).unwrap()).collect();
        let of_offsets = Tensor::stack(&windows, 1).unwrap();
        let biases = [
            (Bias::None, None),
            (Bias::Scores(&scores), Some(&scores)),
            (Bias::Keys(&keys), Some(&of_keys)),
            (Bias::Offsets(&offsets), Some(&of_offsets)),
        ];
        for (bias, same) in biases {
            let want = reference::attention_with_bias(&q, &k, &v, scale, same).unwrap();
            let how = Attention::new(scale).bias(bias);
            assert_close(&materialised::attend(&q, &k, &v, &how).unwrap(), &want, 2e-6);
            for (kind, tolerance) in kinds() {
                println!("{kind:?} {:?}", [b, h, lq, lk, d, e]);
                let got = host::attend(kind, &q, &k, &v, &how).unwrap();
                assert_close(&got, &want, tolerance);
                assert!(got.transpose(1, 2).unwrap().is_contiguous());
            }
        }
        let got = attention(&q, &k, &v, scale).unwrap();
        assert_same(&got, &Attention::new(scale).apply(&q, &k, &v).unwrap());
        let got = attention_with_bias(&q, &k, &v, scale, Some(&scores)).unwrap();
        assert_same(&got, &Attention::new(scale).bias(Bias::Scores(&scores)).apply(&q, &k, &v).unwrap());
    }
}

#[test]
fn order_in_memory_does_not_matter() {
    let fresh = |seed| randn(&[2, 3, 50, 40], seed);
    let (q, k, v) = (fresh(1), fresh(2), fresh(3));
    let bias = randn(&[50, 3, 50], 4).transpose(0, 1).unwrap();
    for (kind, _) in kinds() {
        let run = |q: &Tensor, k: &Tensor, v: &Tensor, bias: &Tensor| {
            host::attend(kind, q, k, v, &Attention::new(0.2).bias(Bias::Scores(bias))).unwrap()
        };
        let want = run(&q, &k, &v, &bias.contiguous().unwrap());
        for (a, b) in [(1, 2), (2, 3), (0, 3)] {
            let turned = |x: &Tensor| x.transpose(a, b).unwrap().contiguous().unwrap().transpose(a, b).unwrap();
            assert_same(&run(&turned(&q), &turned(&k), &turned(&v), &bias), &want);
        }
        let inner = |x: &Tensor| {
            let padded = x.pad_with_zeros(2, 7, 13).unwrap().pad_with_zeros(3, 11, 9).unwrap();
            padded.narrow(2, 7, 50).unwrap().narrow(3, 11, 40).unwrap()
        };
        assert_same(&run(&inner(&q), &inner(&k), &inner(&v), &bias), &want);
        let transposed_bias = bias.transpose(1, 2).unwrap().contiguous().unwrap().transpose(1, 2).unwrap();
        assert_same(&run(&q, &k, &v, &transposed_bias), &want);
    }
}

#[test]
fn queries_do_not_know_of_each_other_nor_of_threads() {
    for (seed, (heads, queries, keys, width)) in
        [(3, 140, 50, 16), (2, 333, 1111, 24), (5, 200, 700, 128)].into_iter().enumerate()
    {
        let s = 10 * seed as u64;
        let part = |count, seed| part([1, heads, count, width], seed);
        let (q, k, v) = (part(queries, s), part(keys, s + 1), part(keys, s + 2));
        let bias = randn(&[heads, queries, keys], s + 3);
        for (kind, _) in kinds() {
            let run = |rows_of: std::ops::Range<usize>| {
                let bias = bias.narrow(1, rows_of.start, rows_of.len()).unwrap();
                let how = Attention::new(0.2).bias(Bias::Scores(&bias));
                host::attend(kind, &rows(&q, rows_of), &k, &v, &how).unwrap()
            };
            let whole = run(0..queries);
            for most in [9, 37, 129] {
                for piece in crate::pieces(queries, most) {
                    assert_same(&run(piece.clone()), &rows(&whole, piece));
                }
            }
            for i in [0, 1, queries - 1] {
                assert_same(&run(i..i + 1), &rows(&whole, i..i + 1));
            }
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                assert_same(&pool.install(|| run(0..queries)), &whole);
            }
        }
    }
}

#[test]
fn heads_do_not_know_of_each_other() {
    // More heads than are packed at once, all of other values.
    let (q, k, v) = (part([2, 40, 3, 24], 1), part([2, 40, 2000, 24], 2), part([2, 40, 2000, 24], 3));
    for (kind, tolerance) in kinds() {
        let all = host::attend(kind, &q, &k, &v, &Attention::new(0.3)).unwrap();
        for (b, h) in [(0, 0), (0, 39), (1, 0), (1, 17)] {
            let one = |x: &Tensor| x.narrow(0, b, 1).unwrap().narrow(1, h, 1).unwrap();
            let want = reference::attention_with_bias(&one(&q), &one(&k), &one(&v), 0.3, None).unwrap();
            assert_close(&one(&all), &want, tolerance);
        }
    }
}

#[test]
fn scores_may_be_large_or_all_equal() {
    let (q, k, v) = (part([1, 1, 20, 64], 1), part([1, 1, 300, 64], 2), part([1, 1, 300, 64], 3));
    let mean = v.mean_keepdim(2).unwrap().broadcast_as((1, 1, 20, 64)).unwrap();
    for (kind, tolerance) in kinds() {
        let run = |q: &Tensor, k: &Tensor, scale: f64| host::attend(kind, q, k, &v, &Attention::new(scale)).unwrap();
        // All scores are equal: zero, or far from it.
        assert_close(&run(&(&q * 0.0).unwrap(), &k, 1.0), &mean, tolerance);
        let same = k.narrow(2, 0, 1).unwrap().broadcast_as((1, 1, 300, 64)).unwrap();
        assert_close(&run(&(&q * 100.0).unwrap(), &same, -50.0), &mean, tolerance);
        // One key has all the weight: which one does not depend on rounding.
        let strong = (&q * 1e4).unwrap();
        let hit = Tensor::cat(&[&rows(&k, 0..299), &(rows(&strong, 3..4) * 1e3).unwrap()], 2).unwrap();
        let got = rows(&run(&strong, &hit, 1.0), 3..4);
        assert_close(&got, &rows(&v, 299..300), 1e-2);
        if matches!(kind, Kind::F32(_)) {
            let want = reference::attention_with_bias(&q, &k, &v, -30.0, None).unwrap();
            assert_close(&run(&q, &k, -30.0), &want, 1e-4);
        }
    }
}

fn is_nan(x: &Tensor) -> Vec<bool> {
    x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::is_nan).collect()
}

/// `x` with one of its `[B, H, L, D]` elements replaced.
fn with(x: &Tensor, at: [usize; 4], value: f32) -> Tensor {
    let dims = x.dims4().unwrap();
    let mut values = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values[((at[0] * dims.1 + at[1]) * dims.2 + at[2]) * dims.3 + at[3]] = value;
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

#[test]
fn what_is_no_number_spoils_its_rows_only() {
    let (q, k, v) = (part([1, 2, 30, 24], 1), part([1, 2, 290, 24], 2), part([1, 2, 290, 24], 3));
    for (kind, _) in kinds() {
        let run = |q: &Tensor, k: &Tensor, v: &Tensor| host::attend(kind, q, k, v, &Attention::new(0.2)).unwrap();
        let clean = run(&q, &k, &v);
        let check = |got: &Tensor, spoilt: &dyn Fn([usize; 3]) -> bool| {
            let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (i, (got, want)) in bits(got).into_iter().zip(bits(&clean)).enumerate() {
                let at = [i / 24 / 30, i / 24 % 30, i % 24];
                assert_eq!(got.is_nan(), spoilt(at), "{kind:?} at {at:?}: {got}");
                assert!(got.is_nan() || got.to_bits() == want.to_bits(), "{kind:?} at {at:?}");
            }
        };
        check(&run(&with(&q, [0, 1, 7, 5], f32::NAN), &k, &v), &|[h, i, _]| h == 1 && i == 7);
        check(&run(&with(&q, [0, 0, 29, 0], f32::INFINITY), &k, &v), &|[h, i, _]| h == 0 && i == 29);
        check(&run(&with(&q, [0, 0, 3, 0], f32::NEG_INFINITY), &k, &v), &|[h, i, _]| h == 0 && i == 3);
        check(&run(&q, &with(&k, [0, 0, 3, 2], f32::NAN), &v), &|[h, ..]| h == 0);
        check(&run(&q, &with(&k, [0, 0, 280, 2], f32::NAN), &v), &|[h, ..]| h == 0);
        check(&run(&q, &k, &with(&v, [0, 1, 289, 11], f32::NAN)), &|[h, _, c]| h == 1 && c == 11);
    }
}

#[test]
fn masked_keys_count_for_nothing() {
    let (q, k, v) = (part([1, 2, 30, 24], 1), part([1, 2, 600, 24], 2), part([1, 2, 600, 24], 3));
    let none = f32::NEG_INFINITY;
    for (kind, _) in kinds() {
        let run =
            |k: &Tensor, v: &Tensor, bias: Bias| host::attend(kind, &q, k, v, &Attention::new(0.2).bias(bias)).unwrap();
        // All of the first tile, and some of the last.
        let mask: Vec<f32> = (0..600).map(|i| if (270..590).contains(&i) { 0.0 } else { none }).collect();
        let mask = Tensor::from_vec(mask, 600, &Device::Cpu).unwrap();
        let got = run(&k, &v, Bias::Keys(&mask));
        let want = reference::attention_with_bias(&q, &rows(&k, 270..590), &rows(&v, 270..590), 0.2, None).unwrap();
        let tolerance = if matches!(kind, Kind::F32(_)) { 2e-6 } else { 2e-2 };
        assert_close(&got, &want, tolerance);
        // Nothing is left: the definition divides by zero.
        let all = Tensor::full(none, 600, &Device::Cpu).unwrap();
        assert!(is_nan(&run(&k, &v, Bias::Keys(&all))).into_iter().all(|nan| nan));
    }
    // n keys that are alike are one with ln n.
    let same = |x: &Tensor| Tensor::cat(&[&rows(x, 0..5), &rows(x, 5..6).repeat((1, 1, 595, 1)).unwrap()], 2).unwrap();
    let bias = Tensor::from_vec(vec![0.0, 0.0, 0.0, 0.0, 0.0, 595f32.ln()], 6, &Device::Cpu).unwrap();
    let few = Attention::new(0.2).bias(Bias::Keys(&bias)).apply(&q, &rows(&k, 0..6), &rows(&v, 0..6)).unwrap();
    assert_close(&few, &attention(&q, &same(&k), &same(&v), 0.2).unwrap(), 3e-6);
}

#[test]
fn int8_stands_an_offset_of_all_keys() {
    let (q, k, v) = (part([1, 1, 50, 128], 1), part([1, 1, 1000, 128], 2), part([1, 1, 1000, 128], 3));
    let k = k.broadcast_add(&(randn(&[128], 4) * 20.0).unwrap()).unwrap();
    let scale = 128f64.sqrt().recip();
    let want = reference::attention_with_bias(&q, &k, &v, scale, None).unwrap();
    let got = Attention::new(scale).compute(Compute::Int8).apply(&q, &k, &v).unwrap();
    assert_close(&got, &want, 2e-2);
}

#[test]
fn wrong_shapes_are_errors() {
    let (q, k, v) = (part([1, 2, 3, 4], 1), part([1, 2, 5, 4], 2), part([1, 2, 5, 6], 3));
    assert_eq!(attention(&q, &k, &v, 1.0).unwrap().dims(), [1, 2, 3, 6]);
    assert!(attention(&q, &v, &v, 1.0).is_err() && attention(&q, &k, &q, 1.0).is_err());
    assert!(attention(&part([1, 1, 3, 4], 1), &k, &v, 1.0).is_err());
    let [scores, keys] = [randn(&[2, 3, 4], 4), randn(&[4], 4)];
    for bias in
        [Bias::Scores(&scores), Bias::Keys(&keys), Bias::Keys(&scores), Bias::Offsets(&scores), Bias::Offsets(&keys)]
    {
        assert!(Attention::new(1.0).bias(bias).apply(&q, &k, &v).is_err());
    }
}

#[test]
fn no_query_gives_nothing() {
    let nothing = attention(&randn(&[1, 2, 0, 4], 1), &randn(&[1, 2, 3, 4], 2), &randn(&[1, 2, 3, 4], 3), 1.0);
    assert_eq!(nothing.unwrap().dims(), [1, 2, 0, 4]);
}
