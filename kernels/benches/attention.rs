//! Attention of the networks by name, in every kind of numbers, against the peak of one kind's own instruction and against
//! scores in memory. `cargo bench -p steadydance-kernels --bench attention -- wan13_self`; with `-- table` and names, one
//! table of medians instead.

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput};
use kernels::Compute;
use kernels::attention::{Attention, Bias, materialised};
use rayon::ThreadPool;

const SHAPES: &str = include_str!("attention_shapes.csv");

struct Shape<'a> {
    name: &'a str,
    sizes: [usize; 5],
    bias: &'a str,
}

impl Shape<'_> {
    fn all() -> Vec<Shape<'static>> {
        let shape = |line: &'static str| {
            let fields: Vec<&str> = line.split(',').collect();
            let sizes: Vec<usize> = fields[1..6].iter().map(|f| f.parse().unwrap()).collect();
            Shape { name: fields[0], sizes: sizes.try_into().unwrap(), bias: fields[6] }
        };
        SHAPES.lines().skip(1).map(shape).collect()
    }

    fn operations(&self) -> f64 {
        let [batch, heads, queries, keys, width] = self.sizes;
        4.0 * (batch * heads * queries) as f64 * (keys * width) as f64
    }

    /// q, k, v as views of `[B, L, H, D]`, and a bias.
    fn inputs(&self) -> ([Tensor; 3], Option<Tensor>) {
        let [batch, heads, queries, keys, width] = self.sizes;
        let randn = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
        let part = |tokens| randn(&[batch, tokens, heads, width]).transpose(1, 2).unwrap();
        let bias = match self.bias {
            "scores" => Some(randn(&[heads, queries, keys])),
            "keys" => Some(randn(&[keys])),
            _ => None,
        };
        ([part(queries), part(keys), part(keys)], bias)
    }

    fn how<'a>(&self, bias: Option<&'a Tensor>, compute: Compute) -> Attention<'a> {
        let bias = match bias {
            None => Bias::None,
            Some(bias) if self.bias == "scores" => Bias::Scores(bias),
            Some(bias) => Bias::Keys(bias),
        };
        Attention { scale: (self.sizes[4] as f64).sqrt().recip(), bias, compute }
    }
}

const COMPUTES: [Compute; 3] = [Compute::F32, Compute::Bf16, Compute::Int8];

fn pool(threads: usize) -> ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// Half of some runs take less: of at least two, and of as many more as two seconds hold.
fn median(pool: &ThreadPool, run: impl Fn() + Sync) -> f64 {
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 2 || (times.len() < 15 && start.elapsed() < Duration::from_secs(2)) {
        let start = Instant::now();
        pool.install(&run);
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[(times.len() - 1) / 2]
}

/// ‖x − y‖ / ‖y‖
fn distance(x: &Tensor, y: &Tensor) -> f32 {
    let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    norm(&(x - y).unwrap()) / norm(y)
}

/// 10⁹ operations a second that the products of attention could have in f32, bf16, and int8, whose scores are int8 and whose
/// values bf16: half of each.
fn peaks(pool: &ThreadPool) -> [f64; 3] {
    let peak = pool.install(kernels::peak::probe);
    let bf16 = peak.bf16_gflops.unwrap_or(peak.f32_gflops);
    [peak.f32_gflops, bf16, 2.0 / (peak.int8_gops.unwrap_or(bf16).recip() + bf16.recip())]
}

fn table(names: &[String]) {
    let pools = [pool(1), pool(2)];
    let peaks = peaks(&pools[1]);
    println!("peak GFLOP/s of two threads: f32 {:.0}, bf16 {:.0}, int8 {:.0}", peaks[0], peaks[1], peaks[2]);
    println!("| shape | compute | ms | GFLOP/s | of peak | 2 threads / 1 | × materialised | off f32 |");
    println!("|---|---|---|---|---|---|---|---|");
    for shape in Shape::all().iter().filter(|s| names.is_empty() || names.iter().any(|n| s.name.contains(n))) {
        let ([q, k, v], bias) = shape.inputs();
        let old = shape.how(bias.as_ref(), Compute::F32);
        let old = median(&pools[1], || drop(materialised::attend(&q, &k, &v, &old).unwrap()));
        let exact = shape.how(bias.as_ref(), Compute::F32).apply(&q, &k, &v).unwrap();
        for (compute, peak) in COMPUTES.into_iter().zip(peaks) {
            let how = shape.how(bias.as_ref(), compute);
            let off = distance(&how.apply(&q, &k, &v).unwrap(), &exact);
            let [one, two] = [0, 1].map(|p| median(&pools[p], || drop(how.apply(&q, &k, &v).unwrap())));
            let rate = shape.operations() / two / 1e9;
            let (name, share) = (shape.name, 100.0 * rate / peak);
            println!(
                "| {name} | {compute:?} | {:.2} | {rate:.0} | {share:.0} % | {:.2} | {:.2} | {off:.1e} |",
                1e3 * two,
                one / two,
                old / two
            );
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if arguments.first().is_some_and(|a| a == "table") {
        return table(&arguments[1..]);
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("attention");
    for shape in Shape::all() {
        let ([q, k, v], bias) = shape.inputs();
        group.throughput(Throughput::Elements(shape.operations() as u64));
        for threads in [1, 2] {
            let pool = pool(threads);
            for compute in COMPUTES {
                let how = shape.how(bias.as_ref(), compute);
                let id = BenchmarkId::new(shape.name, format!("{compute:?}/{threads}"));
                group.bench_function(id, |b| {
                    b.iter_custom(|count| {
                        pool.install(|| {
                            let start = Instant::now();
                            for _ in 0..count {
                                how.apply(&q, &k, &v).unwrap();
                            }
                            start.elapsed()
                        })
                    });
                });
            }
        }
    }
    group.finish();
    criterion.final_summary();
}
