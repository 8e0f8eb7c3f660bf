//! norm.cu: kernels that see a whole row.

mod driver;

use driver::{Gpu, assert_near, from_bf16, from_e4m3, normal, random, rounded, to_bf16};
use rand::RngExt;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Rows {
    x: u64,
    y: u64,
    y_scale: u64,
    plain: u64,
    scale: u64,
    shift: u64,
    cos: u64,
    sin: u64,
    x_stride: i64,
    y_stride: i64,
    modulation_stride: i64,
    rows_of_modulation: i32,
    rope_rows: i32,
    head_width: i32,
    rows: i32,
    columns: i32,
    eps: f32,
    scale_offset: f32,
    rotate: i32,
    output: i32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Norm {
    None,
    Layer,
    Rms,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
struct Case {
    norm: Norm,
    wide_input: bool,
    rows: usize,
    columns: usize,
    modulated: bool,
    rope: usize,
    rotate: bool,
    output: i32,
}

fn rotate(x: &mut [f64]) {
    let mut distance = x.len() / 4;
    while distance > 0 {
        for i in (0..x.len()).filter(|i| (i / distance).is_multiple_of(4)) {
            let [a, b, c, d] = std::array::from_fn(|k| x[i + k * distance]);
            let sum = a + b + c + d;
            (x[i], x[i + distance]) = (sum - 2.0 * d, sum - 2.0 * c);
            (x[i + 2 * distance], x[i + 3 * distance]) = (sum - 2.0 * b, sum - 2.0 * a);
        }
        distance /= 4;
    }
    let factor = (x.len() as f64).sqrt();
    x.iter_mut().for_each(|x| *x /= factor);
}

fn check(gpu: &Gpu, case: Case) {
    let Case { norm, wide_input, rows, columns, modulated, rope, rotate: rotated, output } = case;
    let random = &mut random();
    let what = format!("{case:?}");
    // Rows lie in wider ones, and there is something between them.
    let stride = columns + 16;
    let mut x: Vec<f32> = normal(random, rows * stride).iter().map(|x| 3.0 * x + 0.5).collect();
    if !wide_input {
        x = rounded(&x);
    }
    let groups = rows.div_ceil(2);
    let (scale, shift) = (normal(random, groups * columns), normal(random, groups * columns));
    let angles: Vec<f32> = (0..rows.div_ceil(2) * (rope / 2)).map(|_| random.random_range(0.0f32..7.0)).collect();
    let (cos, sin): (Vec<f32>, Vec<f32>) =
        (angles.iter().map(|a| a.cos()).collect(), angles.iter().map(|a| a.sin()).collect());

    let mut expected = Vec::new();
    let mut plain = Vec::new();
    for r in 0..rows {
        let x: Vec<f64> = x[r * stride..][..columns].iter().map(|&x| f64::from(x)).collect();
        let mean = if norm == Norm::Layer { x.iter().sum::<f64>() / columns as f64 } else { 0.0 };
        let square = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / columns as f64;
        let factor = if norm == Norm::None { 1.0 } else { 1.0 / (square + 1e-6).sqrt() };
        let mut y: Vec<f64> = x.iter().map(|x| (x - mean) * factor).collect();
        if modulated {
            for (c, y) in y.iter_mut().enumerate() {
                let at = r / 2 * columns + c;
                *y = *y * (1.0 + f64::from(scale[at])) + f64::from(shift[at]);
            }
        }
        if rope > 0 {
            for pair in 0..columns / 2 {
                let at = r % rows.div_ceil(2) * (rope / 2) + pair % (rope / 2);
                let (c, s, re, im) = (f64::from(cos[at]), f64::from(sin[at]), y[2 * pair], y[2 * pair + 1]);
                (y[2 * pair], y[2 * pair + 1]) = (re * c - im * s, re * s + im * c);
            }
        }
        plain.extend_from_slice(&y);
        if rotated {
            y.chunks_mut(256).for_each(rotate);
        }
        expected.extend(y);
    }

    let element = if output == 0 {
        4
    } else if output == 1 {
        2
    } else {
        1
    };
    let on_x = if wide_input { gpu.upload(&x) } else { gpu.upload(&to_bf16(&x)) };
    let (on_y, on_scale) = (gpu.empty::<u8>(rows * columns * element), gpu.empty::<f32>(rows));
    let on_plain = gpu.empty::<u16>(rows * columns);
    let (scale, shift, cos, sin) = (
        gpu.upload(&scale),
        gpu.upload(&shift),
        gpu.upload(&[&cos[..], &[0.0]].concat()),
        gpu.upload(&[&sin[..], &[0.0]].concat()),
    );
    let present = |yes: bool, pointer: u64| if yes { pointer } else { 0 };
    let params = Rows {
        x: on_x.pointer,
        y: on_y.pointer,
        y_scale: on_scale.pointer,
        plain: present(output >= 2, on_plain.pointer),
        scale: present(modulated, scale.pointer),
        shift: present(modulated, shift.pointer),
        cos: present(rope > 0, cos.pointer),
        sin: sin.pointer,
        x_stride: stride as i64,
        y_stride: columns as i64,
        modulation_stride: columns as i64,
        rows_of_modulation: 2,
        rope_rows: rows.div_ceil(2) as i32,
        head_width: rope as i32,
        rows: rows as i32,
        columns: columns as i32,
        eps: 1e-6,
        scale_offset: 1.0,
        rotate: rotated.into(),
        output,
    };
    let family = match norm {
        Norm::None => "sd_rows",
        Norm::Layer => "sd_layer_norm",
        Norm::Rms => "sd_rms_norm",
    };
    let width = if columns <= 2048 {
        "2k"
    } else if columns <= 5120 {
        "5k"
    } else {
        "14k"
    };
    let kernel = format!("{family}_{}_{width}", if wide_input { "f32" } else { "bf16" });
    gpu.launch(&kernel, [rows as u32, 1, 1], 128, 0, &params).expect(&what);

    match output {
        0 => assert_near(&gpu.download::<f32>(on_y), &expected, 2e-6, 2e-6, &what),
        1 => {
            let found: Vec<f32> = gpu.download::<u16>(on_y).into_iter().map(from_bf16).collect();
            assert_near(&found, &expected, 1e-5, 0.004, &what);
        }
        _ => {
            let (bytes, scales) = (gpu.download::<u8>(on_y), gpu.download::<f32>(on_scale));
            for (r, scale) in scales.iter().enumerate() {
                let expected = &expected[r * columns..][..columns];
                let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
                let (most, step) = if output == 2 { (127.0, 0.5) } else { (448.0, 1.0) };
                assert!((f64::from(*scale) * most / largest - 1.0).abs() < 1e-4, "{what}: scale {scale} of row {r}");
                for (c, expected) in expected.iter().enumerate() {
                    let byte = bytes[r * columns + c];
                    let q = if output == 2 { f64::from(byte as i8) } else { f64::from(from_e4m3(byte)) };
                    let wanted = expected / f64::from(*scale);
                    // Half a step, and a little for the sums' rounding; e4m3 has 3 bits behind the first.
                    let allowed = if output == 2 { step * 1.01 } else { wanted.abs() / 16.0 * 1.01 + 0.001 };
                    assert!((q - wanted).abs() <= allowed, "{what}: row {r}, column {c}: {q}, not {wanted}");
                }
            }
            let found: Vec<f32> = gpu.download::<u16>(on_plain).into_iter().map(from_bf16).collect();
            assert_near(&found, &plain, 1e-5, 0.004, &what);
        }
    }
}

const PLAIN: Case = Case {
    norm: Norm::Layer,
    wide_input: true,
    rows: 3,
    columns: 256,
    modulated: true,
    rope: 0,
    rotate: false,
    output: 1,
};

#[test]
fn layer_norm_with_modulation() {
    let gpu = Gpu::new();
    for columns in [8, 136, 1536, 2048, 2056, 5120, 5128, 14336] {
        for wide_input in [true, false] {
            check(&gpu, Case { columns, wide_input, ..PLAIN });
            check(&gpu, Case { columns, wide_input, output: 0, modulated: columns % 16 == 8, ..PLAIN });
        }
    }
}

#[test]
fn eight_bit_rows_with_and_without_rotation() {
    let gpu = Gpu::new();
    for (columns, rotate) in [(256, true), (512, false), (1536, true), (5120, true), (264, false), (13824, true)] {
        for output in [2, 3] {
            for norm in [Norm::Layer, Norm::None] {
                check(
                    &gpu,
                    Case {
                        norm,
                        columns,
                        rotate,
                        output,
                        modulated: norm == Norm::Layer,
                        wide_input: columns < 600,
                        ..PLAIN
                    },
                );
            }
        }
    }
}

#[test]
fn rotated_rows_as_floats_lie_in_order() {
    check(&Gpu::new(), Case { norm: Norm::None, modulated: false, columns: 768, rotate: true, output: 0, ..PLAIN });
}

#[test]
fn rms_norm_with_rotary_embedding() {
    let gpu = Gpu::new();
    for (columns, rope) in [(256, 128), (384, 64), (1536, 128), (5120, 128), (5120, 0), (80, 80)] {
        for wide_input in [true, false] {
            check(
                &gpu,
                Case {
                    norm: Norm::Rms,
                    wide_input,
                    rows: 5,
                    columns,
                    modulated: false,
                    rope,
                    rotate: false,
                    output: 1,
                },
            );
        }
    }
}

#[test]
fn rows_of_zeros_and_rows_with_nan_have_their_scales() {
    let gpu = Gpu::new();
    let mut x = vec![0f32; 3 * 64];
    x[64 + 5] = f32::NAN;
    x[128..].fill(1e-45);
    for output in [2, 3] {
        let (on_x, y, scale) = (gpu.upload(&x), gpu.empty::<u8>(3 * 64), gpu.empty::<f32>(3));
        let params = Rows {
            x: on_x.pointer,
            y: y.pointer,
            y_scale: scale.pointer,
            x_stride: 64,
            y_stride: 64,
            rows_of_modulation: 3,
            rows: 3,
            columns: 64,
            output,
            ..Rows::default()
        };
        gpu.launch("sd_rows_f32_2k", [3, 1, 1], 128, 0, &params).expect("runs");
        let scales = gpu.download::<f32>(scale);
        assert!(scales[0] == 0.0 && scales[1].is_nan() && scales[2] == 0.0, "{scales:?}");
        assert!(gpu.download::<u8>(y).iter().all(|&q| q == 0));
    }
}
