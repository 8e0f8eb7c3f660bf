//! bf16 throughout.

use super::*;

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Attention {
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
    pub(super) fn new(gpu: &Gpu, case: &Case, out: Output, bias: &[f32], bias_head: usize, bias_query: usize) -> Self {
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
pub(super) struct AttentionSm90 {
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
    pub(super) fn new(gpu: &Gpu, case: &Case, out: Output, bias: &[f32]) -> Self {
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
