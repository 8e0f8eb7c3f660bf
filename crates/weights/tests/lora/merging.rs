//! The sum: order, strengths, rounding, tiles.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use weights::lora::{Merged, Stack};
use weights::{CheckpointSource, TensorSource};

use crate::support::{base, bits, file, fit, fit_to, manifest_of, merged, randn, read};

const Q: &str = "blocks.1.self_attn.q.weight";

fn pair(seed: u64) -> [(&'static str, Tensor); 2] {
    [
        ("diffusion_model.blocks.1.self_attn.q.lora_down.weight", randn(&[3, 8], seed)),
        ("diffusion_model.blocks.1.self_attn.q.lora_up.weight", randn(&[8, 3], seed + 1)),
    ]
}

/// up · down, in f64.
fn product(pair: &[(&str, Tensor); 2]) -> Vec<f64> {
    let [down, up] = [&pair[0].1, &pair[1].1].map(|t| t.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap());
    let element = |i: usize, j: usize| (0..down.len()).map(|k| up[i][k] * down[k][j]).sum();
    (0..up.len()).flat_map(|i| (0..down[0].len()).map(move |j| (i, j))).map(|(i, j)| element(i, j)).collect()
}

#[test]
fn several_are_summed_with_their_strengths() {
    let (a, b) = (pair(10), pair(20));
    let plain = f32s(&read(&merged(vec![]), Q, None).1);
    for (s, t) in [(1.0, 1.0), (0.5, -0.75), (-1.0, 2.0), (0.0, 1.0)] {
        let found = read(&merged(vec![(fit(&a).unwrap(), s), (fit(&b).unwrap(), t)]), Q, None);
        assert_eq!(found.0, DType::F32);
        for ((found, plain), (da, db)) in f32s(&found.1).iter().zip(&plain).zip(product(&a).iter().zip(&product(&b))) {
            let want = f64::from(*plain) + s * da + t * db;
            let scale = f64::from(*plain).abs() + da.abs() + db.abs();
            assert!((f64::from(*found) - want).abs() <= 4e-7 * scale, "{found} is not {want}");
        }
    }
}

fn f32s(bits: &[u32]) -> Vec<f32> {
    bits.iter().map(|b| f32::from_bits(*b)).collect()
}

#[test]
fn strength_nought_and_removal_leave_the_bytes() {
    let original = read(&CheckpointSource(base()), Q, None);
    let [a, b] = [fit(&pair(1)).unwrap(), fit(&pair(3)).unwrap()];
    let with = |loras| read(&merged(loras), Q, None);
    assert_eq!(with(vec![]), original);
    assert_eq!(with(vec![(a.clone(), 0.0), (b.clone(), -0.0)]), original);
    let only_a = with(vec![(a.clone(), 0.7)]);
    assert_ne!(only_a, original);
    assert_eq!(with(vec![(a.clone(), 0.7), (b.clone(), 0.0)]), only_a);
    // Taking away what was added would not give every bit back; leaving it out does.
    let both = merged(vec![(a.clone(), 0.7), (b.clone(), 1.0)]);
    assert_ne!(read(&both, Q, None), only_a);
    assert_eq!(with(vec![(a, 0.7)]), only_a);
    assert!(!Stack::new(vec![(b.clone(), 0.0)]).changes(Q) && Stack::new(vec![(b, 1.0)]).changes(Q));
}

#[test]
fn the_order_is_that_of_the_stack() {
    // f32 loses a 1 beside 3e8, but not after 3e8 has gone again.
    let constant = |v: f32| [("blocks.1.self_attn.q.diff", Tensor::full(v, (8, 8), &Device::Cpu).unwrap())];
    let [large, back, small] = [3e8, -3e8, 1.0].map(|v| fit(&constant(v)).unwrap());
    let ends = merged(vec![(large.clone(), 1.0), (back.clone(), 1.0), (small.clone(), 1.0)]);
    let starts = merged(vec![(small, 1.0), (large, 1.0), (back, 1.0)]);
    assert!(f32s(&read(&ends, Q, None).1).iter().all(|v| *v == 1.0));
    assert!(f32s(&read(&starts, Q, None).1).iter().all(|v| *v == 0.0));
}

#[test]
fn the_sum_is_rounded_once_to_what_is_held() {
    let weight = randn(&[16, 32], 7);
    let stored = file(&[("w.weight", weight.clone())]);
    let (down, up) = (randn(&[3, 32], 8), randn(&[16, 3], 9));
    let lora = fit_to(&[("w.lora_A.weight", down.clone()), ("w.lora_B.weight", up.clone())], &manifest_of(&stored));
    let source = Merged::new(Arc::new(CheckpointSource(stored)), Arc::new(Stack::new(vec![(lora.unwrap(), 0.9)])));
    let difference = (up.matmul(&down).unwrap() * 0.9).unwrap();
    let wide = (&weight + &difference).unwrap();
    let read = |dtype| source.tensor("w.weight", &[16, 32], dtype, &Device::Cpu).unwrap();
    assert_eq!((read(None).dtype(), bits(&read(None))), (DType::F32, bits(&wide)));
    for dtype in [DType::BF16, DType::F16] {
        assert_eq!(
            (read(Some(dtype)).dtype(), bits(&read(Some(dtype)))),
            (dtype, bits(&wide.to_dtype(dtype).unwrap()))
        );
        // Adding to the narrowed weight gives other numbers.
        let narrow = weight.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
        let twice = (narrow + &difference).unwrap().to_dtype(dtype).unwrap();
        assert_ne!(bits(&read(Some(dtype))), bits(&twice), "{dtype:?}");
    }
}

#[test]
fn large_weights_are_merged_in_tiles_that_do_not_show() {
    // Two tiles of 2 MiB, the last of them cut, and lora_up in blocks whose borders are not theirs.
    let (rows, columns, rank) = (900, 1024, 2);
    let shape = [rows, columns];
    let big = file(&[("w.weight", Tensor::zeros(&shape[..], DType::BF16, &Device::Cpu).unwrap())]);
    let manifest = manifest_of(&big);
    let (down, ups) = (randn(&[3 * rank, columns], 1), [600, 99, 201].map(|n| randn(&[n, rank], n as u64)));
    let lora = [
        ("w.lora_down.weight", down.clone()),
        ("w.lora_up.blocks.0.weight", ups[0].clone()),
        ("w.lora_up.blocks.1.weight", ups[1].clone()),
        ("w.lora_up.blocks.2.weight", ups[2].clone()),
    ];
    let stack = Stack::new(vec![(fit_to(&lora, &manifest).unwrap(), 2.0)]);
    assert!(stack.merge_bytes(&manifest) > (rows * columns * 4) as u64 + (4 << 20));
    let source = Merged::new(Arc::new(CheckpointSource(big)), Arc::new(stack));
    let found = source.tensor("w.weight", &shape, Some(DType::F32), &Device::Cpu).unwrap();
    let blocks = ups.iter().enumerate().map(|(j, up)| up.matmul(&down.narrow(0, j * rank, rank).unwrap()).unwrap());
    let want = (Tensor::cat(&blocks.collect::<Vec<_>>(), 0).unwrap() * 2.0).unwrap();
    let error = (found - want).unwrap().abs().unwrap().max_all().unwrap();
    assert!(error.to_scalar::<f32>().unwrap() < 1e-5, "{error}");
}

#[test]
fn memory_of_merging_is_the_largest_touched_weight() {
    let manifest = manifest_of(&base());
    assert_eq!(Stack::default().merge_bytes(&manifest), 0);
    let one = Stack::new(vec![(fit(&pair(1)).unwrap(), 1.0)]);
    // The weight, four tiles as large as it, and both matrices as stored and as f32.
    assert_eq!(one.merge_bytes(&manifest), 5 * 64 * 4 + 2 * (24 + 24) * 4);
    assert_eq!(Stack::new(vec![(fit(&pair(1)).unwrap(), 0.0)]).merge_bytes(&manifest), 0);
}
