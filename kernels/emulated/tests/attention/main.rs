//! attention*.cu against softmax attention in f64, on fresh numbers.

mod bf16;
#[path = "../driver/mod.rs"]
mod driver;
mod eight_bits;

use bf16::{Attention, AttentionSm90};
use driver::{Buffer, Gpu, call, from_bf16, normal, random, rounded, to_bf16};
use eight_bits::{Attention8bit, Attention8bitSm90, Blocks, quantise};
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
