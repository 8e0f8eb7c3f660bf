//! The layers that dominate the person detector (YOLOX-L) and the pose network (RTMPose-L), by name; the same table as
//! `benches/peers/conv2d_onnxruntime.py`. `cargo bench -p steadydance-kernels --bench conv2d -- head_80`.

use std::time::Instant;

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kernels::conv2d::{Activation, DepthwiseFilter, Filter, Input, Part, conv2d, depthwise};

const SHAPES: &str = include_str!("conv2d_shapes.csv");

fn convolutions(c: &mut Criterion) {
    let mut group = c.benchmark_group("conv2d");
    for line in SHAPES.lines().skip(1) {
        let mut fields = line.split(',');
        let name = fields.next().unwrap();
        let sizes: Vec<usize> = fields.map(|f| f.parse().unwrap()).collect();
        let [batch, height, width, inputs, outputs, size, stride, groups] = sizes[..] else { panic!("{line}") };
        let randn =
            |shape: &[usize], deviation: f64| Tensor::randn(0f32, deviation as f32, shape, &Device::Cpu).unwrap();
        let inner = inputs / groups * size * size;
        let (x, bias) = (randn(&[batch, height, width, inputs], 1.0), randn(&[outputs], 1.0));
        let weight = randn(&[outputs, inputs / groups, size, size], (inner as f64).powf(-0.5));
        let positions = batch * height.div_ceil(stride) * width.div_ceil(stride);
        group.throughput(Throughput::Elements((2 * positions * inner * outputs) as u64));
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let id = BenchmarkId::new(name, threads);
            let run: Box<dyn Fn() -> Tensor + Sync> = if groups == 1 {
                let filter = Filter::new(&weight, &bias, stride, Activation::Silu).unwrap();
                let x = x.clone();
                Box::new(move || conv2d(&filter, Input { parts: &[Part::plain(&x)], residual: None }).unwrap())
            } else {
                let filter = DepthwiseFilter::new(&weight, &bias, Activation::Silu).unwrap();
                let x = x.clone();
                Box::new(move || depthwise(&filter, &x).unwrap())
            };
            let time = |count: u64| {
                let start = Instant::now();
                for _ in 0..count {
                    run();
                }
                start.elapsed()
            };
            group.bench_function(id, |b| b.iter_custom(|count| pool.install(|| time(count))));
        }
    }
}

criterion_group!(benches, convolutions);
criterion_main!(benches);
