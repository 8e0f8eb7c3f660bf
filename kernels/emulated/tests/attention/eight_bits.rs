//! 8-bit scores, and values of 8 bits or bf16.

use super::*;

#[repr(C)]
#[derive(Clone, Copy)]
struct Sums {
    k: View,
    v: View,
    partial: u64,
    keys: i32,
    chunks: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Means {
    partial: u64,
    k_mean: u64,
    v_step: u64,
    keys: i32,
    chunks: i32,
    v_largest: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Queries {
    q: View,
    q8: u64,
    q_step: u64,
    queries: i32,
    padded_queries: i32,
    scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Keys {
    k: View,
    k_mean: u64,
    k8: u64,
    k_step: u64,
    keys: i32,
    padded_keys: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Values {
    v: View,
    v_step: u64,
    v8: u64,
    keys: i32,
    padded_keys: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    pub list: u64,
    pub count: u64,
    pub stride: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Attention8bit {
    q8: u64,
    q_step: u64,
    k8: u64,
    k_step: u64,
    v8: u64,
    v_step: u64,
    v: View,
    out: Output,
    blocks: Blocks,
    queries: i32,
    keys: i32,
    padded_queries: i32,
    padded_keys: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Attention8bitSm90 {
    q8: TensorMap,
    k8: TensorMap,
    v8: TensorMap,
    q_step: u64,
    k_step: u64,
    v_step: u64,
    out: Output,
    blocks: Blocks,
    queries: i32,
    keys: i32,
    padded_queries: i32,
    padded_keys: i32,
}

const D: usize = 128;

/// Quantised inputs of a case, on the device.
pub(super) struct Quantised {
    q8: Buffer,
    q_step: Buffer,
    k8: Buffer,
    k_step: Buffer,
    k_mean: Buffer,
    v8: Buffer,
    v_step: Buffer,
    v: View,
    padded: [usize; 2],
}

impl Attention8bit {
    pub(super) fn new(case: &Case, at: &Quantised, out: Output, blocks: Blocks) -> Self {
        let [q8, k8, v8, q_step, k_step, v_step] =
            [at.q8, at.k8, at.v8, at.q_step, at.k_step, at.v_step].map(|b| b.pointer);
        let [queries, keys, padded_queries, padded_keys] =
            [case.queries, case.keys, at.padded[0], at.padded[1]].map(|n| n as i32);
        let v = at.v;
        Self { q8, q_step, k8, k_step, v8, v_step, v, out, blocks, queries, keys, padded_queries, padded_keys }
    }
}

impl Attention8bitSm90 {
    pub(super) fn new(gpu: &Gpu, case: &Case, at: &Quantised, out: Output, blocks: Blocks) -> Self {
        let map = |buffer: Buffer, width: u64| {
            let dims = [width, buffer.bytes as u64 / width];
            tensor_map(gpu, MAP_OF_BYTES, buffer.pointer, &dims, &[width], &[128, 128])
        };
        let [q_step, k_step, v_step] = [at.q_step, at.k_step, at.v_step].map(|b| b.pointer);
        let [queries, keys, padded_queries, padded_keys] =
            [case.queries, case.keys, at.padded[0], at.padded[1]].map(|n| n as i32);
        let (q8, k8, v8) = (map(at.q8, 128), map(at.k8, 128), map(at.v8, at.padded[1] as u64));
        Self { q8, k8, v8, q_step, k_step, v_step, out, blocks, queries, keys, padded_queries, padded_keys }
    }
}

pub(super) fn quantise(gpu: &Gpu, random: &mut ChaCha8Rng, case: &Case, v_largest: f32) -> Quantised {
    let Case { batch, heads, queries, keys, .. } = *case;
    let all = batch * heads;
    let [rows, columns] = [queries, keys].map(|n| n.next_multiple_of(128));
    let chunks = random.random_range(1..=keys.min(5));
    let (k, v) = (case.view(gpu, &case.k), case.view(gpu, &case.v));
    let partial = gpu.empty::<f32>(all * chunks * 2 * D).pointer;
    let [k_mean, v_step] = [gpu.empty::<f32>(all * D), gpu.empty::<f32>(all * D)];
    let [q8, k8, v8] = [rows, columns, columns].map(|n| gpu.empty::<u8>(all * n * D));
    let (q_step, k_step) = (gpu.empty::<f32>(all * rows), gpu.empty::<f32>(all * columns / 64));
    let launch = |name: &str, blocks: usize, threads: u32, params: &dyn Fn(&str, [u32; 3], u32)| {
        params(name, [blocks as u32, heads as u32, batch as u32], threads);
    };
    let keys = keys as i32;
    launch("sd_attention_8bit_sums", chunks, 256, &|name, grid, threads| {
        let params = Sums { k, v, partial, keys, chunks: chunks as i32 };
        gpu.launch(name, grid, threads, 0, &params).expect(name);
    });
    let params =
        Means { partial, k_mean: k_mean.pointer, v_step: v_step.pointer, keys, chunks: chunks as i32, v_largest };
    gpu.launch("sd_attention_8bit_means", [heads as u32, batch as u32, 1], 128, 0, &params).expect("means");
    launch("sd_attention_8bit_queries", rows / 64, 256, &|name, grid, threads| {
        let (q, q8, q_step) = (case.view(gpu, &case.q), q8.pointer, q_step.pointer);
        let (queries, padded_queries) = (queries as i32, rows as i32);
        let params = Queries { q, q8, q_step, queries, padded_queries, scale: case.scale };
        gpu.launch(name, grid, threads, 0, &params).expect(name);
    });
    launch("sd_attention_8bit_keys", columns / 64, 256, &|name, grid, threads| {
        let (k_mean, k8, k_step) = (k_mean.pointer, k8.pointer, k_step.pointer);
        let params = Keys { k, k_mean, k8, k_step, keys, padded_keys: columns as i32 };
        gpu.launch(name, grid, threads, 0, &params).expect(name);
    });
    launch("sd_attention_8bit_values", columns / 128, 256, &|name, grid, threads| {
        let params = Values { v, v_step: v_step.pointer, v8: v8.pointer, keys, padded_keys: columns as i32 };
        gpu.launch(name, grid, threads, 0, &params).expect(name);
    });
    Quantised { q8, q_step, k8, k_step, k_mean, v8, v_step, v, padded: [rows, columns] }
}

/// A case with 128 channels, keys that have a mean and values with channels of other sizes.
fn case_of_8_bits(random: &mut ChaCha8Rng, round: usize) -> Case {
    let mut sizes = sizes(random, round, D);
    sizes[3] *= 1 + round / 3;
    let mut case = Case::new(random, sizes);
    let (mean, size) = (normal(random, case.width), normal(random, case.width));
    for (i, k) in case.k.iter_mut().enumerate() {
        *k += 3.0 * mean[i % case.width];
    }
    for (i, v) in case.v.iter_mut().enumerate() {
        *v *= size[i % case.width].exp();
    }
    (case.k, case.v) = (rounded(&case.k), rounded(&case.v));
    case
}

#[test]
fn quantised_inputs_are_near_what_they_stand_for() {
    let (gpu, mut random) = (Gpu::new(), random());
    for round in 0..4 {
        let case = case_of_8_bits(&mut random, round);
        let v_largest = [448.0, 2.25][round % 2];
        let at = quantise(&gpu, &mut random, &case, v_largest);
        let [q8, k8, v8]: [Vec<u8>; 3] = [at.q8, at.k8, at.v8].map(|b| gpu.download(b));
        let [q_step, k_step, k_mean, v_step]: [Vec<f32>; 4] =
            [at.q_step, at.k_step, at.k_mean, at.v_step].map(|b| gpu.download(b));
        let [rows, columns] = at.padded;
        for h in 0..case.batch * case.heads {
            let element = |x: &[f32], rows: usize, row: usize, c: usize| {
                x[(h / case.heads * rows + row) * case.width + h % case.heads * D + c]
            };
            for c in 0..D {
                let of = |x: &[f32]| (0..case.keys).map(|row| element(x, case.keys, row, c)).collect::<Vec<_>>();
                let (k, v) = (of(&case.k), of(&case.v));
                let mean = k.iter().sum::<f32>() / k.len() as f32;
                assert!((k_mean[h * D + c] - mean).abs() < 1e-4);
                let largest = v.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert!((v_step[h * D + c] - largest / v_largest).abs() <= 1e-6 * largest + 1e-15);
                for row in 0..columns {
                    // Places 4t..4t+3 of each 16 are keys 2t, 2t+1, 8+2t, 9+2t.
                    let place = row % 16 % 8 / 2 * 4 + row % 2 + row % 16 / 8 * 2;
                    let value = driver::from_e4m3(v8[(h * D + c) * columns + row / 16 * 16 + place]);
                    let step = k_step[h * (columns / 64) + row / 64];
                    let key = f32::from(k8[(h * columns + row) * D + c] as i8);
                    if row < case.keys {
                        let expected = v[row] / v_step[h * D + c];
                        assert!((value - expected).abs() <= expected.abs() / 15.0 + 0.001, "{value}, not {expected}");
                        assert!((key * step - (k[row] - mean)).abs() <= 0.501 * step + 1e-4);
                    } else {
                        assert_eq!((value, key), (0.0, 0.0));
                    }
                }
                for row in 0..rows {
                    let step = q_step[h * rows + row] / (case.scale * std::f32::consts::LOG2_E);
                    let query = f32::from(q8[(h * rows + row) * D + c] as i8);
                    let expected = if row < case.queries { element(&case.q, case.queries, row, c) } else { 0.0 };
                    assert!((query * step - expected).abs() <= 0.501 * step);
                }
            }
        }
    }
}

/// Lists of blocks of `of` keys, each block with a chance of 2/3: (list, count, stride) for every head and 128 queries.
fn lists(random: &mut ChaCha8Rng, case: &Case, of: usize) -> (Vec<i32>, Vec<i32>, usize) {
    let (stride, all) = (case.keys.div_ceil(of), case.batch * case.heads * case.queries.div_ceil(128));
    let (mut list, mut count) = (vec![-1; all * stride], vec![0; all]);
    for i in 0..all {
        for block in 0..stride {
            if random.random_range(0..3) > 0 {
                list[i * stride + count[i] as usize] = block as i32;
                count[i] += 1;
            }
        }
    }
    (list, count, stride)
}

#[test]
fn attention_of_8_bits_is_near_softmax_attention() {
    let (gpu, mut random) = (Gpu::new(), random());
    // bf16 weights and values leave the rounding of scores; e4m3 has a relative error of 2^-4 at most, for weights and for values.
    for (name, of, threads, shared, most) in [
        ("sd_attention_8bit_bf16", 64, 128, 65536, 0.03),
        ("sd_attention_8bit_e4m3", 64, 256, 40960, 0.07),
        ("sd_attention_8bit_e4m3_f16", 64, 256, 40960, 0.07),
        ("sd_attention_8bit_sm90", 128, 384, 147_592, 0.07),
    ] {
        for round in 0..6 {
            let case = case_of_8_bits(&mut random, round);
            let at = quantise(&gpu, &mut random, &case, if name.ends_with("f16") { 2.25 } else { 448.0 });
            let sparse = round % 2 == 1;
            let (list, count, stride) = lists(&mut random, &case, of);
            let on_device = [gpu.upload(&list).pointer, gpu.upload(&count).pointer];
            let blocks =
                Blocks { list: if sparse { on_device[0] } else { 0 }, count: on_device[1], stride: stride as i32 };
            let (buffer, out) = case.output(&gpu);
            let grid = [case.queries.div_ceil(128) as u32, case.heads as u32, case.batch as u32];
            if of == 64 {
                gpu.launch(name, grid, threads, shared, &Attention8bit::new(&case, &at, out, blocks)).expect(name);
            } else {
                let params = Attention8bitSm90::new(&gpu, &case, &at, out, blocks);
                gpu.launch(name, grid, threads, shared, &params).expect(name);
            }
            let sees = |b: usize, h: usize, i: usize, j: usize| {
                let row = (b * case.heads + h) * case.queries.div_ceil(128) + i / 128;
                list[row * stride..][..count[row] as usize].contains(&((j / of) as i32))
            };
            let error = case.error(
                &gpu,
                buffer,
                |b, h, i, j| {
                    if !sparse || sees(b, h, i, j) { 0.0 } else { f32::NEG_INFINITY }
                },
            );
            assert!(gpu.real || call!(gpu, sdEmulatedBankConflicts()) == 0, "bank conflicts of {name}");
            assert!(error < most, "{name}: {error}, {} queries, {} keys, {sparse}", case.queries, case.keys);
        }
    }
}
