//! attention*.cu against softmax attention in f64, on fresh numbers.

mod driver;

use driver::{Buffer, Gpu, call, from_bf16, normal, random, rounded, to_bf16};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::ffi::{c_int, c_void};

/// A matrix [B, L, H, D].
#[repr(C)]
#[derive(Clone, Copy)]
struct View {
    data: u64,
    batch: i64,
    row: i64,
    head: i64,
}

/// What cuTensorMapEncodeTiled makes.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct TensorMap([u64; 16]);

#[repr(C)]
#[derive(Clone, Copy)]
struct Output {
    data: u64,
    batch: i64,
    row: i64,
    head: i64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Attention {
    q: View,
    k: View,
    v: View,
    out: Output,
    bias: u64,
    bias_head: i64,
    bias_query: i32,
    queries: i32,
    keys: i32,
    dim: i32,
    scale: f32,
}

impl Attention {
    fn new(gpu: &Gpu, case: &Case, out: Output, bias: &[f32], bias_head: usize, bias_query: usize) -> Self {
        Self {
            q: case.view(gpu, &case.q),
            k: case.view(gpu, &case.k),
            v: case.view(gpu, &case.v),
            out,
            bias: gpu.upload(bias).pointer,
            bias_head: bias_head as i64,
            bias_query: bias_query as i32,
            queries: case.queries as i32,
            keys: case.keys as i32,
            dim: case.dim as i32,
            scale: case.scale,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AttentionSm90 {
    q: TensorMap,
    k: TensorMap,
    v: TensorMap,
    out: Output,
    bias: u64,
    queries: i32,
    keys: i32,
    dim: i32,
    scale: f32,
}

impl AttentionSm90 {
    fn new(gpu: &Gpu, case: &Case, out: Output, bias: &[f32]) -> Self {
        let Case { batch, heads, queries, keys, dim, width, .. } = *case;
        let map = |x: &[f32], rows: usize| {
            let dims = [dim, rows, heads, batch].map(|d| d as u64);
            let strides = [width, dim, rows * width].map(|s| 2 * s as u64);
            tensor_map(gpu, MAP_OF_BF16, case.view(gpu, x).data, &dims, &strides, &[64, 128, 1, 1])
        };
        Self {
            q: map(&case.q, queries),
            k: map(&case.k, keys),
            v: map(&case.v, keys),
            out,
            bias: gpu.upload(bias).pointer,
            queries: queries as i32,
            keys: keys as i32,
            dim: dim as i32,
            scale: case.scale,
        }
    }
}

/// What is computed: sizes, inputs as bf16 holds them, and their buffers.
struct Case {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    dim: usize,
    /// Of a row of q, k, v and the result, at least heads·dim.
    width: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    scale: f32,
    /// Every so manyth query is looked at.
    every: usize,
}

impl Case {
    fn new(random: &mut ChaCha8Rng, [batch, heads, queries, keys, dim]: [usize; 5]) -> Self {
        let width = heads * dim + 8 * random.random_range(0..3);
        let [q, k, v] = [queries, keys, keys].map(|rows| rounded(&normal(random, batch * rows * width)));
        Self { batch, heads, queries, keys, dim, width, q, k, v, scale: 1.0 / (dim as f32).sqrt(), every: 1 }
    }

    fn view(&self, gpu: &Gpu, x: &[f32]) -> View {
        let rows = x.len() / self.width / self.batch;
        let data = gpu.upload(&to_bf16(x)).pointer;
        View { data, batch: (rows * self.width) as i64, row: self.width as i64, head: self.dim as i64 }
    }

    fn output(&self, gpu: &Gpu) -> (Buffer, Output) {
        let buffer = gpu.empty::<u16>(self.batch * self.queries * self.width);
        let batch = (self.queries * self.width) as i64;
        (buffer, Output { data: buffer.pointer, batch, row: self.width as i64, head: self.dim as i64 })
    }

    /// The root mean square of what is off, over that of what is right. `bias(head, query, key)`, −∞ for what is not seen.
    fn error(&self, gpu: &Gpu, out: Buffer, bias: impl Fn(usize, usize, usize, usize) -> f32) -> f64 {
        let found: Vec<u16> = gpu.download(out);
        let at = |rows: usize, b: usize, h: usize, row: usize| ((b * rows + row) * self.width) + h * self.dim;
        let (mut off, mut all) = (0.0, 1e-30);
        for b in 0..self.batch {
            for h in 0..self.heads {
                for i in (0..self.queries).step_by(self.every) {
                    let q = &self.q[at(self.queries, b, h, i)..][..self.dim];
                    let scores: Vec<f64> = (0..self.keys)
                        .map(|j| {
                            let k = &self.k[at(self.keys, b, h, j)..][..self.dim];
                            let product: f64 = q.iter().zip(k).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                            product * f64::from(self.scale) + f64::from(bias(b, h, i, j))
                        })
                        .collect();
                    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let largest = if largest.is_finite() { largest } else { 0.0 };
                    let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                    let total = weights.iter().sum::<f64>().max(1e-300);
                    let mut sum = vec![0f64; self.dim];
                    for (j, w) in weights.iter().enumerate() {
                        let v = &self.v[at(self.keys, b, h, j)..][..self.dim];
                        sum.iter_mut().zip(v).for_each(|(s, v)| *s += w * f64::from(*v));
                    }
                    let found = &found[at(self.queries, b, h, i)..][..self.dim];
                    for (sum, &found) in sum.iter().zip(found) {
                        let (expected, found) = (sum / total, f64::from(from_bf16(found)));
                        assert!(found.is_finite(), "query {i} of head {h}: {found}, not {expected}");
                        off += (found - expected).powi(2);
                        all += expected * expected;
                    }
                }
            }
        }
        // What lies between the heads' channels and the end of a row is nobody's.
        let used = self.heads * self.dim;
        assert!(found.chunks(self.width).all(|row| row[used..].iter().all(|&x| x == 0xffff)), "written beside");
        (off / all).sqrt()
    }
}

fn sizes(random: &mut ChaCha8Rng, round: usize, dim: usize) -> [usize; 5] {
    let mut any = |most: usize| random.random_range(1..=most);
    let keys = [any(3), 128, any(64), any(300)][round % 4];
    [any(2), any(2), any(140), keys, dim]
}

/// Prints the rate of a kernel that took so long for a case, of its products.
fn report(name: &str, case: &Case, seconds: f64) {
    let Case { batch, heads, queries, keys, dim, .. } = *case;
    let operations = 4.0 * (batch * heads * queries * keys * dim) as f64;
    println!(
        "{name}: {:.1} T/s, {:.3} ms, {heads} heads of {queries} × {keys}",
        operations / seconds * 1e-12,
        seconds * 1e3
    );
}

/// What measurements are made with: a head count and a number of tokens for which the card is full.
fn large(random: &mut ChaCha8Rng) -> Case {
    Case { every: 4001, ..Case::new(random, [1, 8, 16384, 16384, 128]) }
}

/// bf16 results are off by 2^-9 of themselves at most, weights likewise.
const BF16: f64 = 0.006;

#[test]
fn bf16_attention_is_softmax_attention() {
    let (gpu, mut random) = (Gpu::new(), random());
    for (name, most, block, threads, shared) in [
        ("sd_attention_d64", 64, 128, 128, 40960),
        ("sd_attention_d128", 128, 128, 128, 81920),
        ("sd_attention_d384", 384, 64, 128, 98304),
        ("sd_attention_d64_bias", 64, 128, 256, 40960),
        ("sd_attention_d128_bias", 128, 128, 256, 81920),
    ] {
        for round in 0..5 {
            let dim = if round == 0 { most } else { 8 * random.random_range(1..=most / 8) };
            let sizes = sizes(&mut random, round, dim);
            let case = Case::new(&mut random, sizes);
            let Case { batch, heads, queries, keys, .. } = case;
            let per_key = round % 2 == 0;
            let mut bias = normal(&mut random, if per_key { keys } else { heads * queries * keys });
            if round == 2 {
                bias.iter_mut().step_by(2).for_each(|b| *b = f32::NEG_INFINITY);
            }
            let (bias_head, bias_query) = if per_key { (0, 0) } else { (queries * keys, keys) };
            let (buffer, out) = case.output(&gpu);
            let params = Attention::new(&gpu, &case, out, &bias, bias_head, bias_query);
            let grid = [queries.div_ceil(block) as u32, heads as u32, batch as u32];
            gpu.launch(name, grid, threads, shared, &params).expect(name);
            let biased = name.ends_with("bias");
            let error = case.error(
                &gpu,
                buffer,
                |_, h, i, j| {
                    if biased { bias[h * bias_head + i * bias_query + j] } else { 0.0 }
                },
            );
            assert!(error < BF16, "{name}: {error} for {:?}", [batch, heads, queries, keys, dim]);
            assert!(gpu.real || call!(gpu, sdEmulatedBankConflicts()) == 0, "bank conflicts of {name}");
        }
    }
}

/// A map of `dims` (innermost first) with boxes and the 128-byte swizzle; strides in bytes from the second dimension on.
fn tensor_map(gpu: &Gpu, kind: c_int, data: u64, dims: &[u64], strides: &[u64], boxes: &[u32]) -> TensorMap {
    let (mut map, ones) = (TensorMap([0; 16]), [1u32; 5]);
    let code = call!(
        gpu,
        cuTensorMapEncodeTiled(
            *mut TensorMap = &mut map,
            c_int = kind,
            u32 = dims.len() as u32,
            *mut c_void = data as *mut c_void,
            *const u64 = dims.as_ptr(),
            *const u64 = strides.as_ptr(),
            *const u32 = boxes.as_ptr(),
            *const u32 = ones.as_ptr(),
            c_int = 0,
            c_int = 3,
            c_int = 0,
            c_int = 0
        )
    );
    assert_eq!(code, 0);
    map
}

const MAP_OF_BYTES: c_int = 0;
const MAP_OF_BF16: c_int = 9;

#[test]
fn hopper_attention_is_softmax_attention() {
    let (gpu, mut random) = (Gpu::new(), random());
    for name in ["sd_attention_sm90", "sd_attention_sm90_bias"] {
        for round in 0..6 {
            let dim = if round < 3 { 128 } else { 8 * random.random_range(1..=16) };
            let mut sizes = sizes(&mut random, round, dim);
            sizes[3] *= 1 + round / 3;
            let case = Case::new(&mut random, sizes);
            let Case { batch, heads, queries, keys, .. } = case;
            let bias = normal(&mut random, keys);
            let (buffer, out) = case.output(&gpu);
            let params = AttentionSm90::new(&gpu, &case, out, &bias);
            let grid = [queries.div_ceil(128) as u32, heads as u32, batch as u32];
            gpu.launch(name, grid, 384, 163_912, &params).expect(name);
            let biased = name.ends_with("bias");
            let error = case.error(&gpu, buffer, |_, _, _, j| if biased { bias[j] } else { 0.0 });
            assert!(error < BF16, "{name}: {error} for {sizes:?}");
        }
    }
}

// ---- 8 bits -------------------------------------------------------------------------------------------------------------

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
struct Blocks {
    list: u64,
    count: u64,
    stride: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Attention8bit {
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
struct Attention8bitSm90 {
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
struct Quantised {
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
    fn new(case: &Case, at: &Quantised, out: Output, blocks: Blocks) -> Self {
        let [q8, k8, v8, q_step, k_step, v_step] =
            [at.q8, at.k8, at.v8, at.q_step, at.k_step, at.v_step].map(|b| b.pointer);
        let [queries, keys, padded_queries, padded_keys] =
            [case.queries, case.keys, at.padded[0], at.padded[1]].map(|n| n as i32);
        let v = at.v;
        Self { q8, q_step, k8, k_step, v8, v_step, v, out, blocks, queries, keys, padded_queries, padded_keys }
    }
}

impl Attention8bitSm90 {
    fn new(gpu: &Gpu, case: &Case, at: &Quantised, out: Output, blocks: Blocks) -> Self {
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

fn quantise(gpu: &Gpu, random: &mut ChaCha8Rng, case: &Case, v_largest: f32) -> Quantised {
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

#[test]
#[ignore = "a measurement, and for a real GPU: SD_GPU_IMAGES"]
fn rates_of_attention() {
    let (gpu, mut random) = (Gpu::new(), random());
    let case = large(&mut random);
    let [at, at_f16] = [448.0, 2.25].map(|v_largest| quantise(&gpu, &mut random, &case, v_largest));
    let (buffer, out) = case.output(&gpu);
    let grid = [case.queries.div_ceil(128) as u32, case.heads as u32, 1];
    let all = Blocks { list: 0, count: 0, stride: 0 };
    let bias = vec![0.0; case.keys];
    let (plain, hopper) = (Attention::new(&gpu, &case, out, &bias, 0, 0), AttentionSm90::new(&gpu, &case, out, &bias));
    let (of_8_bits, hopper_8) =
        (Attention8bit::new(&case, &at, out, all), Attention8bitSm90::new(&gpu, &case, &at, out, all));
    let check = |name: &str, seconds: f64, most: f64| {
        report(name, &case, seconds);
        let error = case.error(&gpu, buffer, |_, _, _, _| 0.0);
        assert!(error < most, "{name}: {error}");
    };
    let name = "sd_attention_d128";
    check(name, gpu.seconds(name, grid, 128, 81920, &plain), BF16);
    let name = "sd_attention_8bit_bf16";
    check(name, gpu.seconds(name, grid, 128, 65536, &of_8_bits), 0.03);
    if gpu.capability() >= 89 {
        let name = "sd_attention_8bit_e4m3";
        check(name, gpu.seconds(name, grid, 256, 40960, &of_8_bits), 0.07);
        let (name, params) = ("sd_attention_8bit_e4m3_f16", Attention8bit::new(&case, &at_f16, out, all));
        check(name, gpu.seconds(name, grid, 256, 40960, &params), 0.07);
    }
    if gpu.capability() == 90 {
        let name = "sd_attention_sm90";
        check(name, gpu.seconds(name, grid, 384, 163_912, &hopper), BF16);
        let name = "sd_attention_8bit_sm90";
        check(name, gpu.seconds(name, grid, 384, 147_592, &hopper_8), 0.07);
    }
}
