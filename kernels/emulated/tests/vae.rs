//! conv3d.cu and vae_norm.cu against their definitions in f64, on fresh numbers.

mod driver;

use driver::{Gpu, assert_near, call, from_bf16, normal, random, rounded, to_bf16};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Conv3d {
    x: u64,
    /// The frame before the last one before `x`, and that one.
    history: [u64; 2],
    weight: u64,
    bias: u64,
    residual: u64,
    out: u64,
    planes: u64,
    batch: i32,
    frames: i32,
    height: i32,
    width: i32,
    in_channels: i32,
    out_channels: i32,
    out_frames: i32,
    out_height: i32,
    out_width: i32,
    kernel_frames: i32,
    kernel_size: i32,
    frames_before: i32,
    history_frames: i32,
    temporal_stride: i32,
    spatial: i32,
    split: i32,
}

const HALVE: i32 = 1;
const DOUBLE: i32 = 2;

fn case(random: &mut ChaCha8Rng) -> Conv3d {
    let kernel_frames = *[1, 3].choose(random).expect("some");
    let spatial = random.random_range(0..3);
    let kernel_size = if spatial == HALVE { 3 } else { *[1, 3].choose(random).expect("some") };
    let frames_before = random.random_range(0..kernel_frames);
    let temporal_stride = random.random_range(1..=2);
    let frames = random.random_range(1..4).max(kernel_frames - frames_before);
    let (height, width) = (random.random_range(2..9), random.random_range(2..12));
    let (out_height, out_width) = match spatial {
        HALVE => (height / 2, width / 2),
        DOUBLE => (2 * height, 2 * width),
        _ => (height, width),
    };
    let split = random.random_range(1..=2);
    let out_channels = if split == 2 {
        16 * random.random_range(1..10)
    } else {
        *[3, 8, 16, 50, 64, 96, 104, 200].choose(random).expect("some")
    };
    Conv3d {
        x: 0,
        history: [0; 2],
        weight: 0,
        bias: 0,
        residual: 0,
        out: 0,
        planes: 0,
        batch: random.random_range(1..=2),
        frames,
        height,
        width,
        in_channels: 8 * random.random_range(1..8),
        out_channels,
        out_frames: (frames_before + frames - kernel_frames) / temporal_stride + 1,
        out_height,
        out_width,
        kernel_frames,
        kernel_size,
        frames_before,
        history_frames: random.random_range(0..=frames_before),
        temporal_stride,
        spatial,
        split,
    }
}

/// The result, channels last, by the definition. `history` has its frames behind each other, oldest first.
fn expected(p: &Conv3d, [x, history, weight, bias, residual]: [&[f32]; 5]) -> Vec<f64> {
    let doubled = i32::from(p.spatial == DOUBLE);
    let (step, before) = if p.spatial == HALVE { (2, 0) } else { (1, p.kernel_size / 2) };
    let channels = p.in_channels as usize;
    let parts = p.out_channels / p.split;
    let mut out = vec![f64::NAN; (p.batch * p.out_frames * p.out_height * p.out_width * p.out_channels) as usize];
    for b in 0..p.batch {
        for t in 0..p.out_frames {
            for row in 0..p.out_height {
                for column in 0..p.out_width {
                    for o in 0..p.out_channels {
                        let mut sum = f64::from(bias[o as usize]);
                        for dt in 0..p.kernel_frames {
                            let frame = t * p.temporal_stride - p.frames_before + dt;
                            let (images, image) = if frame >= 0 {
                                (x, b * p.frames + frame)
                            } else if frame + p.history_frames >= 0 {
                                (history, (frame + p.history_frames) * p.batch + b)
                            } else {
                                continue;
                            };
                            for dy in 0..p.kernel_size {
                                for dx in 0..p.kernel_size {
                                    let (y, x) = (row * step - before + dy, column * step - before + dx);
                                    if y < 0 || x < 0 || y >= p.height << doubled || x >= p.width << doubled {
                                        continue;
                                    }
                                    let pixel = (image * p.height + (y >> doubled)) * p.width + (x >> doubled);
                                    let element =
                                        ((o * p.kernel_frames + dt) * p.kernel_size + dy) * p.kernel_size + dx;
                                    let pixel = &images[pixel as usize * channels..][..channels];
                                    let weight = &weight[element as usize * channels..][..channels];
                                    sum += pixel.iter().zip(weight).map(|(a, b)| f64::from(a * b)).sum::<f64>();
                                }
                            }
                        }
                        let frame = (b * p.out_frames + t) * p.split + o / parts;
                        let at = (((frame * p.out_height + row) * p.out_width + column) * parts + o % parts) as usize;
                        out[at] = sum + f64::from(residual[at]);
                    }
                }
            }
        }
    }
    out
}

/// `[B, O, T', H', W']` → `[B, T', H', W', O]`.
fn channels_last(p: &Conv3d, planes: &[f32]) -> Vec<f32> {
    let (channels, volume) = (p.out_channels as usize, (p.out_frames * p.out_height * p.out_width) as usize);
    let at = |i: usize| planes[(i / channels / volume * channels + i % channels) * volume + i / channels % volume];
    (0..planes.len()).map(at).collect()
}

#[test]
fn convolutions_are_those_of_the_definition() {
    let (gpu, mut random) = (Gpu::new(), random());
    for round in 0..36 {
        let mut p = case(&mut random);
        // Every sixth is one of few channels that gives planes.
        let planes = round % 6 == 3;
        if planes {
            p.split = 1;
        }
        let (name, columns, shared) =
            [("sd_conv3d_n16", 16, 27648), ("sd_conv3d_n64", 64, 36864), ("sd_conv3d_n96", 96, 43008)][round % 3];
        let area = p.height * p.width * p.in_channels;
        let elements = p.kernel_frames * p.kernel_size * p.kernel_size * p.in_channels;
        let positions = p.batch * p.out_frames * p.out_height * p.out_width;
        let count = (positions * p.out_channels) as usize;
        let mut fresh = |n: i32| rounded(&normal(&mut random, n as usize));
        let x = fresh(p.batch * p.frames * area);
        let history = fresh((p.batch * p.history_frames * area).max(8));
        let weight = fresh(p.out_channels * elements);
        let (bias, added) = (fresh(p.out_channels), round % 2 == 0);
        let history_there = gpu.upload(&to_bf16(&history)).pointer;
        let before = |n: i32| history_there + 2 * ((p.history_frames - n) * p.batch * area) as u64;
        p.history = [2, 1].map(|n| if n <= p.history_frames { before(n) } else { 0 });
        let residual = if added { fresh(count as i32) } else { vec![0.0; count] };
        p.x = gpu.upload(&to_bf16(&x)).pointer;
        p.weight = gpu.upload(&to_bf16(&weight)).pointer;
        p.bias = gpu.upload(&bias).pointer;
        p.residual = if added { gpu.upload(&to_bf16(&residual)).pointer } else { 0 };
        let out = gpu.empty::<u16>(count);
        let in_planes = gpu.empty::<f32>(count);
        (p.out, p.planes) = if planes { (0, in_planes.pointer) } else { (out.pointer, 0) };
        let grid = [(positions as u32).div_ceil(128), (p.out_channels as u32).div_ceil(columns), 1];
        gpu.launch(name, grid, 128, shared, &p).expect(name);
        let found: Vec<f32> = match planes {
            true => channels_last(&p, &gpu.download::<f32>(in_planes)),
            false => gpu.download::<u16>(out).into_iter().map(from_bf16).collect(),
        };
        assert!(gpu.real || call!(gpu, sdEmulatedBankConflicts()) == 0, "bank conflicts of {name}");
        let expected = expected(&p, [&x, &history, &weight, &bias, &residual]);
        // Rounding to bf16, and sums in another order.
        let rounding = if planes { 1e-5 } else { 1.0 / 256.0 };
        assert_near(&found, &expected, 1e-5, rounding, &format!("{name} {p:?}"));
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Norm {
    x: u64,
    y: u64,
    gain: u64,
    positions: i64,
    channels: i32,
    silu: i32,
}

#[test]
fn the_norm_over_channels_is_that_of_the_definition() {
    let (gpu, mut random) = (Gpu::new(), random());
    for channels in [8, 16, 24, 96, 192, 384, 776, 1024] {
        for silu in [false, true] {
            let positions = random.random_range(1..100);
            let mut x = rounded(&normal(&mut random, positions * channels));
            x[..channels].fill(0.0);
            let gain = normal(&mut random, channels);
            let out = gpu.empty::<u16>(x.len());
            let lanes = (channels / 8).next_power_of_two().min(32);
            let params = Norm {
                x: gpu.upload(&to_bf16(&x)).pointer,
                y: out.pointer,
                gain: gpu.upload(&gain).pointer,
                positions: positions as i64,
                channels: channels as i32,
                silu: i32::from(silu),
            };
            gpu.launch("sd_vae_norm", [(positions * lanes).div_ceil(256) as u32, 1, 1], 256, 0, &params).expect("norm");
            let expected: Vec<f64> = x
                .chunks(channels)
                .flat_map(|row| {
                    let norm = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt().max(1e-12);
                    row.iter().zip(&gain).map(move |(&v, &g)| {
                        let y = f64::from(v) / norm * (channels as f64).sqrt() * f64::from(g);
                        if silu { y / (1.0 + (-y).exp()) } else { y }
                    })
                })
                .collect();
            let found: Vec<f32> = gpu.download::<u16>(out).into_iter().map(from_bf16).collect();
            assert_near(&found, &expected, 1e-6, 1.0 / 256.0, &format!("{channels} channels"));
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Planes {
    planes: u64,
    pixels: u64,
    area: i64,
    channels: i32,
    width: i32,
}

#[test]
fn planes_become_pixels() {
    let (gpu, mut random) = (Gpu::new(), random());
    for _ in 0..3 {
        let [batch, area, channels] = [2usize, 300, 20].map(|most| random.random_range(1..=most));
        let width = channels.next_multiple_of(8);
        let x = rounded(&normal(&mut random, batch * channels * area));
        let pixels = gpu.empty::<u16>(batch * area * width);
        let params = Planes {
            planes: gpu.upload(&x).pointer,
            pixels: pixels.pointer,
            area: area as i64,
            channels: channels as i32,
            width: width as i32,
        };
        let grid = [area.div_ceil(256) as u32, batch as u32, 1];
        gpu.launch("sd_vae_to_pixels", grid, 256, 0, &params).expect("to pixels");
        let found: Vec<f32> = gpu.download::<u16>(pixels).into_iter().map(from_bf16).collect();
        for (i, &found) in found.iter().enumerate() {
            let (b, place, c) = (i / width / area, i / width % area, i % width);
            assert_eq!(found, if c < channels { x[(b * channels + c) * area + place] } else { 0.0 });
        }
    }
}

#[test]
#[ignore = "a measurement, and for a real GPU: SD_GPU_IMAGES"]
fn rates_of_convolutions() {
    let (gpu, mut random) = (Gpu::new(), random());
    for (channels, height, width) in [(96, 480, 832), (192, 240, 416), (384, 120, 208)] {
        let frames = 4;
        let positions = frames * height * width;
        let x = to_bf16(&normal(&mut random, ((frames + 2) * height * width * channels) as usize));
        let weight = to_bf16(&normal(&mut random, (27 * channels * channels) as usize));
        let x = gpu.upload(&x).pointer;
        let frame = 2 * (height * width * channels) as u64;
        let params = Conv3d {
            x: x + 2 * frame,
            history: [x, x + frame],
            weight: gpu.upload(&weight).pointer,
            bias: gpu.upload(&vec![0f32; channels as usize]).pointer,
            residual: 0,
            out: gpu.empty::<u16>((positions * channels) as usize).pointer,
            planes: 0,
            batch: 1,
            frames,
            height,
            width,
            in_channels: channels,
            out_channels: channels,
            out_frames: frames,
            out_height: height,
            out_width: width,
            kernel_frames: 3,
            kernel_size: 3,
            frames_before: 2,
            history_frames: 2,
            temporal_stride: 1,
            spatial: 0,
            split: 1,
        };
        let grid = [(positions as u32).div_ceil(128), channels as u32 / 96, 1];
        let seconds = gpu.seconds("sd_conv3d_n96", grid, 128, 43008, &params);
        let operations = 54.0 * f64::from(channels * channels) * f64::from(positions);
        println!(
            "sd_conv3d_n96: {:.1} T/s, {:.3} ms, {channels} channels",
            operations / seconds * 1e-12,
            seconds * 1e3
        );
    }
}
