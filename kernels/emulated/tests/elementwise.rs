//! elementwise.cu and step.cu.

mod driver;

use driver::{Gpu, assert_near, from_bf16, normal, random, rounded, to_bf16};

#[repr(C)]
#[derive(Clone, Copy)]
struct GatedAdd {
    x: u64,
    y: u64,
    gate: u64,
    gate_stride: i64,
    rows_of_gate: i32,
    rows: i32,
    columns: i32,
    y_is_f32: i32,
}

#[test]
fn gated_residuals() {
    let (gpu, mut random) = (Gpu::new(), random());
    for (rows, columns) in [(1, 8), (5, 64), (7, 520), (3, 5120)] {
        for (kernel, x_wide, y_wide, gated) in [
            ("sd_gated_add_f32", true, false, true),
            ("sd_gated_add_bf16", false, false, true),
            ("sd_gated_add_f32", true, true, false),
        ] {
            let fit = |x: Vec<f32>, wide: bool| if wide { x } else { rounded(&x) };
            let (x, y) =
                (fit(normal(&mut random, rows * columns), x_wide), fit(normal(&mut random, rows * columns), y_wide));
            let gate = normal(&mut random, rows.div_ceil(2) * columns);
            let expected: Vec<f64> = (0..rows * columns)
                .map(|i| {
                    let gate = if gated { gate[i / columns / 2 * columns + i % columns] } else { 1.0 };
                    f64::from(x[i]) + f64::from(gate) * f64::from(y[i])
                })
                .collect();
            let put = |x: &[f32], wide: bool| if wide { gpu.upload(x) } else { gpu.upload(&to_bf16(x)) };
            let (on_x, on_y, on_gate) = (put(&x, x_wide), put(&y, y_wide), gpu.upload(&gate));
            let params = GatedAdd {
                x: on_x.pointer,
                y: on_y.pointer,
                gate: if gated { on_gate.pointer } else { 0 },
                gate_stride: columns as i64,
                rows_of_gate: 2,
                rows: rows as i32,
                columns: columns as i32,
                y_is_f32: y_wide.into(),
            };
            gpu.launch(kernel, [(rows * columns).div_ceil(2048) as u32, 1, 1], 256, 0, &params).expect("runs");
            let found = if x_wide {
                gpu.download(on_x)
            } else {
                gpu.download::<u16>(on_x).into_iter().map(from_bf16).collect()
            };
            assert_near(&found, &expected, 1e-6, if x_wide { 1e-6 } else { 0.004 }, kernel);
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Map {
    x: u64,
    y: u64,
    n: i64,
    operation: i32,
}

fn activation(x: f64, operation: i32) -> f64 {
    match operation {
        1 => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
        2 => x / (1.0 + (-x).exp()),
        3 => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        4 => x / (1.0 + (-1.702 * x).exp()),
        _ => x,
    }
}

/// Its Taylor series, and ±1 where that is as good.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Glu {
    x: u64,
    gated: u64,
    y: u64,
    x_stride: i64,
    gated_stride: i64,
    y_stride: i64,
    rows: i32,
    columns: i32,
    operation: i32,
}

#[test]
fn gated_linear_units() {
    let (gpu, mut random) = (Gpu::new(), random());
    for (rows, columns) in [(1, 8), (5, 136), (3, 1024)] {
        // Halves of one product.
        let both = rounded(&normal(&mut random, rows * 2 * columns));
        let at = |i: usize, half: usize| f64::from(both[i / columns * 2 * columns + half * columns + i % columns]);
        let expected: Vec<f64> = (0..rows * columns).map(|i| activation(at(i, 0), 1) * at(i, 1)).collect();
        let (x, y) = (gpu.upload(&to_bf16(&both)), gpu.empty::<u16>(rows * columns));
        let params = Glu {
            x: x.pointer,
            gated: x.pointer + 2 * columns as u64,
            y: y.pointer,
            x_stride: 2 * columns as i64,
            gated_stride: 2 * columns as i64,
            y_stride: columns as i64,
            rows: rows as i32,
            columns: columns as i32,
            operation: 1,
        };
        gpu.launch("sd_glu_bf16", [(rows * columns).div_ceil(2048) as u32, 1, 1], 256, 0, &params).expect("runs");
        let found: Vec<f32> = gpu.download::<u16>(y).into_iter().map(from_bf16).collect();
        assert_near(&found, &expected, 1e-6, 0.004, "glu");
    }
}

#[test]
fn activations_and_conversions() {
    let (gpu, mut random) = (Gpu::new(), random());
    for n in [1, 7, 8, 2049, 5003] {
        let mut x: Vec<f32> = normal(&mut random, n).iter().map(|x| 4.0 * x).collect();
        x[0] = -120.0;
        for operation in 0..5 {
            for (from, to) in [(32, 32), (32, 16), (16, 32), (16, 16)] {
                let x = if from == 32 { x.clone() } else { rounded(&x) };
                let expected: Vec<f64> = x.iter().map(|&x| activation(f64::from(x), operation)).collect();
                let on_x = if from == 32 { gpu.upload(&x) } else { gpu.upload(&to_bf16(&x)) };
                let y = gpu.empty::<u8>(n * to / 8);
                let params = Map { x: on_x.pointer, y: y.pointer, n: n as i64, operation };
                let name = |bits: usize| if bits == 32 { "f32" } else { "bf16" };
                let kernel = format!("sd_map_{}_{}", name(from), name(to));
                gpu.launch(&kernel, [n.div_ceil(2048) as u32, 1, 1], 256, 0, &params).expect("runs");
                let found: Vec<f32> = if to == 32 {
                    gpu.download(y)
                } else {
                    gpu.download::<u16>(y).into_iter().map(from_bf16).collect()
                };
                assert_near(
                    &found,
                    &expected,
                    3e-7,
                    // The device's exponential is off by a few units in the last place.
                    if to == 16 {
                        0.004
                    } else if gpu.real {
                        1e-5
                    } else {
                        1e-6
                    },
                    &format!("{kernel}, {operation}"),
                );
            }
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Patch {
    x: u64,
    y: u64,
    channels: i32,
    frames: i32,
    height: i32,
    width: i32,
    token_stride: i64,
    x_is_f32: i32,
    side: i32,
}

#[test]
fn patches_go_to_tokens_and_back() {
    let (gpu, mut random) = (Gpu::new(), random());
    for [channels, frames, height, width, side] in
        [[1, 1, 2, 2, 2], [3, 2, 4, 6, 2], [16, 3, 8, 10, 2], [16, 3, 8, 10, 1], [3, 2, 5, 7, 1]]
    {
        let n = channels * frames * height * width;
        let (x, stride) = (normal(&mut random, n), side * side * channels + 8);
        let tokens = frames * height * width / (side * side);
        // Column of a number in a token: (channel, y, x) in, (y, x, channel) out.
        let at = |i: usize, out: bool| {
            let (column, row, frame, channel) =
                (i % width, i / width % height, i / width / height % frames, i / width / height / frames);
            let token = (frame * (height / side) + row / side) * (width / side) + column / side;
            let (y, x) = (row % side, column % side);
            token * stride + if out { (y * side + x) * channels + channel } else { (channel * side + y) * side + x }
        };
        let params = |x: u64, y: u64, x_is_f32: i32| Patch {
            x,
            y,
            channels: channels as i32,
            frames: frames as i32,
            height: height as i32,
            width: width as i32,
            token_stride: stride as i64,
            x_is_f32,
            side: side as i32,
        };
        let grid = [n.div_ceil(256) as u32, 1, 1];
        let (latents, rows) = (gpu.upload(&x), gpu.upload(&vec![0u16; tokens * stride]));
        gpu.launch("sd_patchify", grid, 256, 0, &params(latents.pointer, rows.pointer, 1)).expect("runs");
        let mut expected = vec![0u16; tokens * stride];
        to_bf16(&x).iter().enumerate().for_each(|(i, &x)| expected[at(i, false)] = x);
        assert_eq!(gpu.download::<u16>(rows), expected);

        let mut rows = vec![0f32; tokens * stride];
        rounded(&x).iter().enumerate().for_each(|(i, &x)| rows[at(i, true)] = x);
        for wide in [true, false] {
            let on_rows = if wide { gpu.upload(&rows) } else { gpu.upload(&to_bf16(&rows)) };
            let back = gpu.empty::<f32>(n);
            gpu.launch("sd_unpatchify", grid, 256, 0, &params(on_rows.pointer, back.pointer, wide.into()))
                .expect("runs");
            assert_eq!(gpu.download::<f32>(back), rounded(&x));
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Combine {
    x: [u64; 8],
    y: u64,
    rounded: u64,
    n: i64,
    factor: [f32; 8],
    terms: i32,
}

#[test]
fn sums_of_branches() {
    let (gpu, mut random) = (Gpu::new(), random());
    for (terms, n) in [(1, 5), (3, 1000), (8, 257)] {
        let x: Vec<Vec<f32>> = (0..terms).map(|_| normal(&mut random, n)).collect();
        let factor: [f32; 8] = normal(&mut random, 8).try_into().expect("eight");
        let expected: Vec<f64> =
            (0..n).map(|i| (0..terms).map(|t| f64::from(factor[t]) * f64::from(x[t][i])).sum()).collect();
        let mut on_x = [0; 8];
        let buffers: Vec<_> = x.iter().map(|x| gpu.upload(x)).collect();
        buffers.iter().zip(&mut on_x).for_each(|(b, p)| *p = b.pointer);
        let half = gpu.empty::<u16>(n);
        // In place: the result is where the first was.
        let params =
            Combine { x: on_x, y: buffers[0].pointer, rounded: half.pointer, n: n as i64, factor, terms: terms as i32 };
        gpu.launch("sd_combine", [n.div_ceil(256) as u32, 1, 1], 256, 0, &params).expect("runs");
        let found = gpu.download::<f32>(buffers[0]);
        assert_near(&found, &expected, 1e-6, 1e-6, "combine");
        assert_eq!(gpu.download::<u16>(half), to_bf16(&found));
    }
}
