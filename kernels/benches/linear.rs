//! Linears of the models by name, in each kind of numbers.
//!
//! `cargo bench -p steadydance-kernels --bench linear` lets criterion compare runs;
//! `… --bench linear -- table [shape] [way]` prints rates as fractions of the machine's peak: medians of rounds in which all
//! ways, one thread and all threads, and the peak take turns. The last columns count the processor's time instead of the
//! clock's (Linux), which what else the machine does changes less.

use std::time::Instant;

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput};
use kernels::Compute;
use kernels::linear::{Matrix, linear};
use kernels::peak::{Peak, probe};
use kernels::quant::{Encoding, QuantMatrix, Scales, Scaling, Target, encode};
use rayon::{ThreadPool, ThreadPoolBuilder};

const SHAPES: &str = include_str!("linear_shapes.csv");

struct Shape {
    name: &'static str,
    tokens: usize,
    inputs: usize,
    outputs: usize,
}

impl Shape {
    fn all() -> impl Iterator<Item = Self> {
        SHAPES.lines().skip(1).map(|line| {
            let mut fields = line.split(',');
            let name = fields.next().unwrap();
            let sizes: Vec<usize> = fields.map(|f| f.parse().unwrap()).collect();
            let [tokens, inputs, outputs] = sizes[..] else { panic!("{line}") };
            Self { name, tokens, inputs, outputs }
        })
    }

    fn operations(&self) -> f64 {
        2.0 * (self.tokens * self.inputs * self.outputs) as f64
    }
}

struct Way {
    name: &'static str,
    compute: Compute,
    matrix: Matrix,
}

/// What a matrix is held as and multiplied in, as far as names contain `filter`.
fn ways(shape: &Shape, filter: &str) -> Vec<Way> {
    let i8 = |rotation| Target { encoding: Encoding::I8, scaling: Scaling::Rows, rotation };
    [
        ("BF16 f32", Compute::F32, Encoding::BF16.into()),
        ("BF16 bf16", Compute::Bf16, Encoding::BF16.into()),
        ("F16 bf16", Compute::Bf16, Encoding::F16.into()),
        ("F8_E4M3 bf16", Compute::Bf16, Encoding::F8E4M3.into()),
        ("Q8_0 bf16", Compute::Bf16, Encoding::Q8_0.into()),
        ("Q4_K bf16", Compute::Bf16, Encoding::Q4K.into()),
        ("I8 bf16", Compute::Bf16, i8(None)),
        ("I8 int8", Compute::Int8, i8(None)),
        ("I8_H256 int8", Compute::Int8, i8(Some(256))),
    ]
    .into_iter()
    .filter(|(name, ..)| name.contains(filter))
    .filter_map(|(name, compute, target)| {
        let matrix = Matrix::from(random(shape, target)?).with_compute(compute);
        Some(Way { name, compute, matrix })
    })
    .collect()
}

/// A random matrix; `None` if rows are no whole blocks. Rows repeat, since the search for scales takes its time.
fn random(shape: &Shape, target: Target) -> Option<QuantMatrix> {
    const ROWS: usize = 64;
    let block = target.encoding.block().max(target.rotation.unwrap_or(1));
    if !shape.inputs.is_multiple_of(block) {
        return None;
    }
    let values: Vec<f32> = randn(ROWS, shape.inputs).flatten_all().unwrap().to_vec1().unwrap();
    let some = encode(&values, [ROWS, shape.inputs], target).unwrap();
    let row_bytes = some.bytes().len() / ROWS;
    let bytes: Vec<u8> = some.bytes().iter().copied().cycle().take(shape.outputs * row_bytes).collect();
    let scales = match some.scales() {
        Scales::Rows(scales) => Scales::Rows(scales.iter().copied().cycle().take(shape.outputs).collect()),
        scales => scales.clone(),
    };
    let of = [shape.outputs, shape.inputs];
    Some(QuantMatrix::new(target.encoding, of, bytes.into(), scales, target.rotation).unwrap())
}

fn randn(rows: usize, columns: usize) -> Tensor {
    Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu).unwrap()
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// Seconds that this process's threads have been computing.
fn busy() -> f64 {
    let times = std::fs::read_dir("/proc/self/task").into_iter().flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    times.sum::<f64>() / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn peak_of(peak: &Peak, compute: Compute) -> f64 {
    match compute {
        Compute::F32 => peak.f32_gflops,
        Compute::Bf16 => peak.bf16_gflops.unwrap_or(f64::NAN),
        Compute::Int8 => peak.int8_gops.unwrap_or(f64::NAN),
    }
}

fn bits(product: &Tensor) -> Vec<u32> {
    product.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Prints the table for shapes and ways whose names contain these.
fn table(shape: &str, way: &str) {
    const ROUNDS: usize = 5;
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let (one, many) = (pool(1), pool(all));
    let titles = ["ms", "GFLOP/s", "peak", "scaling", "busy: 1", "all"].map(|title| format!("{title:>9}")).concat();
    println!("{:17} {:13} {titles}", "shape", "way");
    for shape in Shape::all().filter(|s| s.name.contains(shape)) {
        let x = randn(shape.tokens, shape.inputs);
        let ways = ways(&shape, way);
        let run = |pool: &ThreadPool, way: &Way| {
            let (start, before) = (Instant::now(), busy());
            let product = pool.install(|| linear(&x, &way.matrix, None).unwrap());
            ([start.elapsed().as_secs_f64(), busy() - before], product)
        };
        let (mut seconds, mut peaks) = (vec![[const { Vec::new() }; 4]; ways.len()], Vec::new());
        for round in 0..=ROUNDS {
            peaks.push(many.install(probe));
            for (way, seconds) in ways.iter().zip(&mut seconds) {
                let (slow, fast) = (run(&one, way), run(&many, way));
                if round == 0 {
                    assert!(bits(&slow.1) == bits(&fast.1), "{}: threads show", way.name);
                    continue;
                }
                let [one, many] = [slow.0, fast.0];
                seconds.iter_mut().zip([one[0], many[0], one[1], many[1]]).for_each(|(all, s)| all.push(s));
            }
        }
        for (way, seconds) in ways.iter().zip(seconds) {
            let [slow, fast, busy_one, busy_all] = seconds.map(median);
            let peak = median(peaks.iter().map(|peak| peak_of(peak, way.compute)).collect());
            let rate = |seconds: f64| shape.operations() / seconds / 1e9;
            let percent = |rate: f64| 100.0 * rate / peak;
            let (one, both) = (percent(rate(busy_one)) * all as f64, percent(rate(busy_all)) * all as f64);
            println!(
                "{:17} {:13} {:9.3}{:9.1}{:8.1}%{:9.2}{one:8.1}%{both:8.1}%",
                shape.name,
                way.name,
                1e3 * fast,
                rate(fast),
                percent(rate(fast)),
                slow / fast
            );
        }
        let peak = peaks[peaks.len() / 2];
        println!("{:17} {peak:.1?}", shape.name);
    }
}

fn linears(c: &mut Criterion) {
    for shape in Shape::all() {
        let x = randn(shape.tokens, shape.inputs);
        let mut group = c.benchmark_group(format!("linear/{}", shape.name));
        group.sample_size(10).throughput(Throughput::Elements(shape.operations() as u64));
        for way in ways(&shape, "") {
            group.bench_function(BenchmarkId::from_parameter(way.name), |b| {
                b.iter(|| linear(&x, &way.matrix, None).unwrap());
            });
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if let Some("table") = arguments.first().map(String::as_str) {
        let argument = |i: usize| arguments.get(i).map_or("", String::as_str);
        return table(argument(1), argument(2));
    }
    let mut criterion = Criterion::default().configure_from_args();
    linears(&mut criterion);
    criterion.final_summary();
}
