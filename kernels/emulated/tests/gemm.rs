//! gemm.cu and gemm_sm90.cu: matrix products and what follows them.

mod driver;

use driver::{Gpu, assert_near, bf16, call, from_bf16, from_e4m3, normal, random, rounded, to_bf16};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Gemm {
    x: u64,
    w: u64,
    y: u64,
    x_scale: u64,
    w_scale: u64,
    bias: u64,
    gate: u64,
    residual: u64,
    x_stride: i64,
    w_stride: i64,
    y_stride: i64,
    gate_stride: i64,
    rows_of_gate: i32,
    m: i32,
    n: i32,
    k: i32,
    activation: i32,
    y_is_f32: i32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Format {
    Bf16,
    Int8,
    E4m3,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    format: Format,
    shape: [usize; 3],
    /// Numbers between rows.
    gap: usize,
    scales: bool,
    bias: bool,
    activation: i32,
    residual: bool,
    f32_output: bool,
}

/// A matrix as it is stored, and its numbers.
fn matrix(random: &mut ChaCha8Rng, format: Format, count: usize) -> (Vec<u8>, Vec<f32>) {
    match format {
        Format::Bf16 => {
            let numbers = normal(random, count);
            (to_bf16(&numbers).into_iter().flat_map(u16::to_le_bytes).collect(), rounded(&numbers))
        }
        Format::Int8 => {
            let bytes: Vec<u8> = (0..count).map(|_| random.random()).collect();
            let numbers = bytes.iter().map(|&b| f32::from(b as i8)).collect();
            (bytes, numbers)
        }
        Format::E4m3 => {
            let bytes: Vec<u8> =
                (0..count).map(|_| random.random_range(0u8..0x7f) & 0x5f | random.random::<u8>() & 128).collect();
            let numbers = bytes.iter().map(|&b| from_e4m3(b)).collect();
            (bytes, numbers)
        }
    }
}

/// How a kernel is launched.
type Launch = dyn Fn(&Gpu, Gemm);

fn check(gpu: &Gpu, case: Case, launch: &Launch) {
    let Case { format, shape: [m, n, k], gap, scales, bias, activation, residual, f32_output } = case;
    let random = &mut random();
    let what = format!("{case:?}");
    let stride = k + gap;
    let bytes = if format == Format::Bf16 { 2 } else { 1 };
    let (x_bytes, x) = matrix(random, format, m * stride);
    let (w_bytes, w) = matrix(random, format, n * stride);
    let y_stride = n + gap;
    let mut vector = |count: usize, yes: bool, otherwise: f32| {
        if yes { normal(random, count) } else { vec![otherwise; count] }
    };
    // 8-bit numbers are brought near one, so that activations have something to bend.
    let size = match format {
        Format::Bf16 => 1.0,
        Format::Int8 => 1.0 / 5000.0,
        Format::E4m3 => 1.0,
    };
    let (x_scale, w_scale) = (vector(m, scales, 1.0), vector(n, scales, 1.0));
    let w_scale: Vec<f32> =
        if scales { w_scale.iter().map(|s| s * size / (k as f32).sqrt()).collect() } else { w_scale };
    let (bias_values, gate) = (vector(n, bias, 0.0), vector(m.div_ceil(3) * n, residual, 1.0));
    let mut old = vector(m * y_stride, residual, 0.0);
    if !f32_output {
        old = rounded(&old);
    }
    // What terms amount to before they cancel.
    let (mut expected, mut terms) = (Vec::with_capacity(m * n), 0f64);
    for i in 0..m {
        for j in 0..n {
            let products = (0..k).map(|l| f64::from(x[i * stride + l]) * f64::from(w[j * stride + l]));
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size): (f64, f64), p| (sum + p, size + p.abs()));
            let scale = f64::from(x_scale[i]) * f64::from(w_scale[j]);
            let (bias, gate) = (f64::from(bias_values[j]), f64::from(gate[i / 3 * n + j]));
            let old = f64::from(old[i * y_stride + j]);
            terms = terms.max(old.abs() + gate.abs() * (size * scale.abs() + bias.abs()));
            let mut v = sum * scale + bias;
            v = match activation {
                1 => 0.5 * v * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v * v * v)).tanh()),
                2 => v / (1.0 + (-v).exp()),
                _ => v,
            };
            expected.push(old + gate * v);
        }
    }
    let upload_y = |y: &[f32]| if f32_output { gpu.upload(y) } else { gpu.upload(&to_bf16(y)) };
    let y = if residual { upload_y(&old) } else { gpu.empty::<u8>(m * y_stride * if f32_output { 4 } else { 2 }) };
    let present = |yes: bool, values: &[f32]| if yes { gpu.upload(values).pointer } else { 0 };
    // Rows end where the matrix does: what is read behind them is not there.
    let end = |bytes_of: &[u8]| bytes_of[..bytes_of.len() - gap * bytes].to_vec();
    let params = Gemm {
        x: gpu.upload(&end(&x_bytes)).pointer,
        w: gpu.upload(&end(&w_bytes)).pointer,
        y: y.pointer,
        x_scale: present(scales, &x_scale),
        w_scale: present(scales, &w_scale),
        bias: present(bias, &bias_values),
        gate: present(residual, &gate),
        residual: if residual { y.pointer } else { 0 },
        x_stride: stride as i64,
        w_stride: stride as i64,
        y_stride: y_stride as i64,
        gate_stride: n as i64,
        rows_of_gate: 3,
        m: m as i32,
        n: n as i32,
        k: k as i32,
        activation,
        y_is_f32: f32_output.into(),
    };
    launch(gpu, params);
    let rows = |all: Vec<f32>| -> Vec<f32> { all.chunks(y_stride).flat_map(|row| row[..n].to_vec()).collect() };
    let found =
        if f32_output { gpu.download::<f32>(y) } else { gpu.download::<u16>(y).into_iter().map(from_bf16).collect() };
    if gap > 0 && !residual {
        assert!(found.chunks(y_stride).all(|row| row[n..].iter().all(|v| v.is_nan())), "{what}: writes between rows");
    }
    // Tensor cores keep some 14 bits of sums of e4m3, and cut those of bf16 off.
    let sums = match format {
        Format::E4m3 if gpu.real => 1e-3,
        Format::Bf16 if gpu.real => 1e-5,
        _ => 1e-6,
    };
    let largest = expected.iter().fold(0f64, |most, v| most.max(v.abs()));
    assert_near(&rows(found), &expected, sums * terms / largest, if f32_output { 2e-5 } else { 0.004 }, &what);
}

fn mma_kernel(format: Format) -> &'static str {
    match format {
        Format::Bf16 => "sd_gemm_bf16",
        Format::Int8 => "sd_gemm_int8",
        Format::E4m3 => "sd_gemm_e4m3",
    }
}

fn mma(format: Format) -> Box<Launch> {
    Box::new(move |gpu, params| {
        let tiles = (params.m as u32).div_ceil(128) * (params.n as u32).div_ceil(128);
        gpu.launch(mma_kernel(format), [tiles, 1, 1], 128, 49152, &params).expect("runs");
        if !gpu.real {
            assert_eq!(call!(gpu, sdEmulatedBankConflicts()), 0, "of fragments");
        }
    })
}

/// What `cuTensorMapEncodeTiled` makes.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct TensorMap([u64; 16]);

#[repr(C)]
#[derive(Clone, Copy)]
struct GemmSm90 {
    x: TensorMap,
    w: TensorMap,
    product: Gemm,
}

/// A map of a matrix: boxes of 128 bytes by so many rows.
fn map(gpu: &Gpu, format: Format, pointer: u64, [rows, columns, stride]: [i64; 3], box_rows: u32) -> TensorMap {
    let mut map = TensorMap([0; 16]);
    let (kind, bytes) = if format == Format::Bf16 { (9, 2) } else { (0, 1) };
    let (dims, strides) = ([columns as u64, rows as u64], [stride as u64 * bytes]);
    let (size, steps) = ([128 / bytes as u32, box_rows], [1u32, 1]);
    let code = call!(
        gpu,
        cuTensorMapEncodeTiled(
            *mut TensorMap = &mut map,
            i32 = kind,
            u32 = 2,
            u64 = pointer,
            *const u64 = dims.as_ptr(),
            *const u64 = strides.as_ptr(),
            *const u32 = size.as_ptr(),
            *const u32 = steps.as_ptr(),
            i32 = 0,
            i32 = 3,
            i32 = 2,
            i32 = 0
        )
    );
    assert_eq!(code, 0);
    map
}

/// With the sizes of its tiles.
fn wgmma_kernel(format: Format) -> (&'static str, u32, u32) {
    match format {
        Format::Bf16 => ("sd_gemm_sm90_bf16", 128, 256),
        Format::Int8 => ("sd_gemm_sm90_int8", 128, 256),
        Format::E4m3 => ("sd_gemm_sm90_e4m3", 256, 128),
    }
}

fn on_hopper(gpu: &Gpu, format: Format, product: Gemm) -> GemmSm90 {
    let (_, rows, columns) = wgmma_kernel(format);
    let [m, n, k] = [product.m, product.n, product.k].map(i64::from);
    GemmSm90 {
        x: map(gpu, format, product.x, [m, k, product.x_stride], rows),
        w: map(gpu, format, product.w, [n, k, product.w_stride], columns),
        product,
    }
}

fn wgmma(format: Format) -> Box<Launch> {
    let (kernel, rows, columns) = wgmma_kernel(format);
    Box::new(move |gpu, product| {
        let tiles = (product.m as u32).div_ceil(rows) * (product.n as u32).div_ceil(columns);
        // Fewer blocks than tiles: they go round.
        let grid = [tiles.div_ceil(2), 1, 1];
        gpu.launch(kernel, grid, 384, 196_672, &on_hopper(gpu, format, product)).expect("runs");
    })
}

const PLAIN: Case = Case {
    format: Format::Bf16,
    shape: [128, 128, 64],
    gap: 0,
    scales: false,
    bias: false,
    activation: 0,
    residual: false,
    f32_output: true,
};

/// Sizes around the tiles, odd ones, more k than stages, more tiles than a group.
fn shapes(format: Format) -> Vec<[usize; 3]> {
    let k = if format == Format::Bf16 { 8 } else { 16 };
    vec![
        [1, 1, k],
        [128, 128, 16 * k],
        [127, 129, 3 * k],
        [5, 260, 9 * k],
        [131, 7, 33 * k],
        [1100, 130, 2 * k],
        [64, 72, 40 * k],
    ]
}

fn check_format(format: Format, launch: &Launch) {
    let gpu = Gpu::new();
    let eight_bit = format != Format::Bf16;
    for (i, shape) in shapes(format).into_iter().enumerate() {
        let case = Case { format, shape, scales: eight_bit, ..PLAIN };
        check(&gpu, case, launch);
        // Everything else, in turns.
        let case = Case {
            gap: if i % 2 == 0 { 16 } else { 0 },
            bias: true,
            activation: (i % 3) as i32,
            f32_output: i % 2 == 1,
            ..case
        };
        check(&gpu, case, launch);
        check(&gpu, Case { residual: true, scales: true, ..case }, launch);
        check(&gpu, Case { residual: true, f32_output: i % 2 == 0, ..case }, launch);
    }
}

#[test]
fn bf16_with_mma() {
    check_format(Format::Bf16, &*mma(Format::Bf16));
}

#[test]
fn int8_with_mma() {
    check_format(Format::Int8, &*mma(Format::Int8));
}

#[test]
fn e4m3_with_mma() {
    check_format(Format::E4m3, &*mma(Format::E4m3));
}

#[test]
fn bf16_with_wgmma() {
    check_format(Format::Bf16, &*wgmma(Format::Bf16));
}

#[test]
fn int8_with_wgmma() {
    check_format(Format::Int8, &*wgmma(Format::Int8));
}

#[test]
fn e4m3_with_wgmma() {
    check_format(Format::E4m3, &*wgmma(Format::E4m3));
}

#[test]
#[ignore = "a measurement, and for a real GPU: SD_GPU_IMAGES"]
fn rates_of_products() {
    let gpu = Gpu::new();
    let processors = {
        let mut value = 0;
        call!(gpu, cuDeviceGetAttribute(*mut i32 = &mut value, i32 = 16, i32 = 0));
        value as u32
    };
    // Of a block of the 14-billion transformer at 480 x 832, 81 frames.
    let m = 32_760;
    for (n, k) in [(5120, 5120), (13_824, 5120), (5120, 13_824)] {
        for format in [Format::Bf16, Format::Int8, Format::E4m3] {
            let bytes = if format == Format::Bf16 { 2 } else { 1 };
            // A few numbers again and again: what they are does not matter but for heat, and these are not zeros.
            let (few, _) = matrix(&mut random(), format, 1 << 20);
            let fill = |count: usize| gpu.upload(&few.iter().copied().cycle().take(count * bytes).collect::<Vec<u8>>());
            let (x, w, y) = (fill(m * k), fill(n * k), gpu.empty::<u16>(m * n));
            let scales = gpu.upload(&vec![1e-3f32; m]);
            let product = Gemm {
                x: x.pointer,
                w: w.pointer,
                y: y.pointer,
                x_scale: scales.pointer,
                w_scale: scales.pointer,
                bias: scales.pointer,
                x_stride: k as i64,
                w_stride: k as i64,
                y_stride: n as i64,
                rows_of_gate: 1,
                m: m as i32,
                n: n as i32,
                k: k as i32,
                ..Gemm::default()
            };
            let report = |kernel: &str, seconds: f64| {
                let rate = 2e-12 * (m * n) as f64 * k as f64 / seconds;
                println!("{kernel} [{m}, {k}] x [{n}, {k}]: {:.3} ms, {rate:.0} T/s", seconds * 1e3);
            };
            let (kernel, tiles) = (mma_kernel(format), (m.div_ceil(128) * n.div_ceil(128)) as u32);
            if format != Format::E4m3 || gpu.capability() >= 89 {
                report(kernel, gpu.seconds(kernel, [tiles, 1, 1], 128, 49152, &product));
            }
            if gpu.capability() == 90 {
                let (kernel, ..) = wgmma_kernel(format);
                report(
                    kernel,
                    gpu.seconds(kernel, [processors, 1, 1], 384, 196_672, &on_hopper(&gpu, format, product)),
                );
            }
            for buffer in [x, w, y] {
                call!(gpu, cuMemFree_v2(u64 = buffer.pointer));
            }
        }
    }
}

#[test]
fn results_are_rounded_to_the_nearest() {
    // 1 + 2^-8 lies between two bf16 numbers: ties go to even.
    assert_eq!((bf16(1.0 + 1.0 / 256.0), bf16(1.0 + 3.0 / 256.0)), (0x3f80, 0x3f82));
    let gpu = Gpu::new();
    let (x, w) =
        (gpu.upload(&to_bf16(&[1.0; 8])), gpu.upload(&to_bf16(&[1.0, 0.003_906_25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])));
    let y = gpu.empty::<u16>(1);
    let params = Gemm {
        x: x.pointer,
        w: w.pointer,
        y: y.pointer,
        x_stride: 8,
        w_stride: 8,
        y_stride: 1,
        rows_of_gate: 1,
        m: 1,
        n: 1,
        k: 8,
        ..Gemm::default()
    };
    mma(Format::Bf16)(&gpu, params);
    assert_eq!(gpu.download::<u16>(y), [0x3f80]);
}
