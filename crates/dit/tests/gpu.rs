//! The transformer on a GPU: an emulated one, or a real one with `STEADYDANCE_TEST_GPU=1`.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Tensor};
use dit::{
    Attention, Chunking, Conditioning, Config, Dit, GROUPS, Guide, Inputs, PassShape, PoseInputs, Step, VaceConfig,
    VaceInputs, gpu_activation_bytes, manifest, no_tap, not_told,
};
use kernels::Compute;
use kernels::cuda::{Code, Driver, Gpu, GpuOptions};
use kernels::quant::{Encoding, Scaling, Target, encode};
use libloading::Library;
use offload::{CudaMemory, Network, Placed, Residence};
use weights::{Matrix, RandomWeights, Resident, TensorSource, TensorSpec};

/// The emulated GPU's settings are of the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// `None` where there is none, not even an emulated one. That one does nothing before it is waited for, so that whatever is not
/// waited for shows.
fn open() -> Option<Gpu> {
    let options = GpuOptions { budget_bytes: Some(1 << 30), ..GpuOptions::default() };
    if std::env::var("STEADYDANCE_TEST_GPU").is_ok_and(|v| v == "1") {
        return Some(Gpu::open(&options).unwrap());
    }
    let path = emulated_gpu::library()?;
    let options = GpuOptions { code: Code::Images(&[b"emulated"]), ..options };
    let gpu = Gpu::open_with(&Driver::load_from(path).unwrap(), &options).unwrap();
    // SAFETY: it is loaded already, and the function takes and gives an integer.
    unsafe {
        let library = Library::new(path).unwrap();
        library.get::<unsafe extern "C" fn(usize) -> usize>(b"sdEmulatedLazyStreams").unwrap()(1);
    }
    Some(gpu)
}

fn gpu() -> Option<(Gpu, MutexGuard<'static, ()>)> {
    let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    Some((open()?, alone))
}

/// Random weights whose matrices have this form; `None` is bf16.
struct Held(Option<Target>);

impl TensorSource for Held {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        RandomWeights::new(5).tensor(name, shape, dtype, device)
    }

    fn matrix(&self, name: &str, shape: &[usize], _: Option<DType>, device: &Device) -> Result<Matrix> {
        let Some(target) = self.0 else { return Ok(self.tensor(name, shape, Some(DType::BF16), device)?.into()) };
        let values = self.tensor(name, shape, Some(DType::F32), device)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(encode(&values, [shape[0], shape[1]], target).map_err(|e| e.into_candle())?.into())
    }
}

fn rows_of(encoding: Encoding) -> Option<Target> {
    Some(Target { encoding, scaling: Scaling::Rows, rotation: None })
}

fn on_host(config: &Config, form: Option<Target>) -> Dit {
    Dit::new(config, Arc::new(Resident::new(Arc::new(Held(form)), Device::Cpu, None))).unwrap()
}

fn placed(config: &Config, source: impl TensorSource + 'static, residence: Residence, gpu: &Gpu) -> Dit {
    let manifest = manifest(config).unwrap();
    let network = Network { source: Arc::new(source), manifest: &manifest, groups: GROUPS, dtype: None };
    let placed = Placed::new(network, residence, Arc::new(CudaMemory::new(gpu.clone()))).unwrap();
    assert!(placed.gpu().is_some());
    Dit::new(config, Arc::new(placed)).unwrap()
}

fn on_gpu(config: &Config, form: Option<Target>, residence: Residence, gpu: &Gpu) -> Dit {
    placed(config, Held(form), residence, gpu).on_gpu(gpu.clone(), Attention::Bf16).unwrap()
}

/// 108 tokens, and with the appended frames 180: more than runs must have at least.
const LATENT: [usize; 4] = [16, 3, 12, 12];

fn waves(shape: &[usize], phase: f32) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> =
        (0..count).map(|i| (i as f32 * 0.37 + phase).sin() + 0.3 * (i as f32 * 0.011 * phase).cos()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn prepared(net: &Dit, phase: f32) -> Conditioning {
    let config = net.config();
    let [_, f, h, w] = LATENT;
    let inputs = Inputs {
        text_embeds: Some(waves(&[11, config.text_dim], phase)),
        ref_image_embeds: config.has_image_context().then(|| waves(&[1, 257, config.clip_dim], phase + 1.0)),
        image_latents: config.has_image_context().then(|| waves(&[20, f, h, w], phase + 2.0)),
        pose: config.is_steadydancer().then(|| PoseInputs {
            pose_latents: waves(&[16, f, h, w], phase + 3.0),
            ref_latents: waves(&[36, 1, h, w], phase + 4.0),
            pose_ref_latents: waves(&[16, 1, h, w], phase + 5.0),
            pose_image_embeds: waves(&[1, 257, config.clip_dim], phase + 6.0),
        }),
        vace: config.vace.is_some().then(|| VaceInputs { context: waves(&[96, f, h, w], phase + 7.0), scale: 0.8 }),
    };
    net.prepare(&inputs, &mut no_tap).unwrap()
}

fn forward(net: &Dit, conds: &[&Conditioning], chunking: Chunking) -> Vec<Vec<f32>> {
    let all = net.forward_branches(&waves(&LATENT, 9.0), 700.0, conds, chunking, &mut no_tap).unwrap();
    all.iter().map(|t| t.flatten_all().unwrap().to_vec1().unwrap()).collect()
}

fn alone(net: &Dit, chunking: Chunking) -> Vec<f32> {
    forward(net, &[&prepared(net, 0.5)], chunking).remove(0)
}

fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let apart = norm(&mut got.iter().zip(want).map(|(g, w)| f64::from(g - w)));
    apart / norm(&mut want.iter().map(|w| f64::from(*w)))
}

fn plain(model_type: &str, in_dim: usize) -> Config {
    Config { model_type: model_type.into(), in_dim, in_dim_c: None, ..Config::tiny() }
}

#[test]
fn a_gpu_computes_what_the_host_does() {
    let Some((gpu, _alone)) = gpu() else { return };
    let vace = Some(VaceConfig { vace_layers: vec![0], vace_in_dim: 96 });
    let vace = Config { vace, ..plain("vace", 16) };
    // Inputs are rounded to bf16, or to the 8 bits of their matrix; the host takes them as they are.
    let cases = [
        (Config::tiny(), None, 0.01),
        (plain("t2v", 16), None, 0.01),
        (plain("i2v", 36), None, 0.01),
        (vace, None, 0.01),
        (Config::tiny(), rows_of(Encoding::I8), 0.03),
        (Config::tiny(), rows_of(Encoding::F8E4M3), 0.06),
    ];
    for (config, form, tolerance) in cases {
        let want = alone(&on_host(&config, form), Chunking::Whole);
        let net = on_gpu(&config, form, Residence::WHOLE, &gpu);
        let got = alone(&net, Chunking::Whole);
        let error = relative_error(&got, &want);
        println!("{} {form:?}: {error:e}", config.label());
        assert!(error < tolerance && error > 0.0, "{} {form:?}: {error:e}", config.label());
    }
}

#[test]
fn neither_runs_nor_branches_nor_residence_change_a_bit() {
    let Some((gpu, _alone)) = gpu() else { return };
    let config = Config::tiny();
    for form in [None, rows_of(Encoding::I8)] {
        let net = on_gpu(&config, form, Residence::WHOLE, &gpu);
        let conds = [0.5, 2.0].map(|phase| prepared(&net, phase));
        let want = forward(&net, &[&conds[0]], Chunking::Whole);
        assert!(forward(&net, &[&conds[0]], Chunking::Whole) == want, "repeated");
        for chunking in [Chunking::FeedForward { tokens: 130 }, Chunking::Minimal { tokens: 130 }] {
            assert!(forward(&net, &[&conds[0]], chunking) == want, "{chunking:?}");
        }
        let together = forward(&net, &[&conds[1], &conds[0]], Chunking::Whole);
        assert!(together[1] == want[0] && together[0] != want[0], "branches");
        let by_matrix = Residence { by_matrix: true, ..Residence::STREAMED };
        for residence in [Residence::STREAMED, Residence { ring: 1, ahead: false, ..by_matrix }] {
            let net = on_gpu(&config, form, residence, &gpu);
            assert!(alone(&net, Chunking::Whole) == want[0], "{residence:?}");
        }
    }
}

#[test]
fn a_step_is_guided_where_it_is_computed() {
    let Some((gpu, _alone)) = gpu() else { return };
    let config = plain("t2v", 16);
    let net = on_gpu(&config, None, Residence::WHOLE, &gpu);
    let conds = [0.5, 2.0, 3.0].map(|phase| prepared(&net, phase));
    let each = forward(&net, &conds.each_ref(), Chunking::Whole);
    let latents = waves(&LATENT, 9.0);
    let factors = [3.0, -2.5, 0.5];
    let want: Vec<f32> = (0..each[0].len()).map(|i| (0..3).map(|b| factors[b] as f32 * each[b][i]).sum()).collect();
    let not_asked: &dyn Fn(&[Tensor]) -> Result<Tensor> = &|_| candle_core::bail!("the host is not asked");
    let mut bits = Vec::new();
    let told = Cell::new(0);
    let count = |blocks| {
        told.set(told.get() + blocks);
        Ok(())
    };
    // Branches together or one after another, as a plan says.
    for together in [1, 2, 3] {
        let passes: Vec<Vec<&Conditioning>> = conds.chunks(together).map(|part| part.iter().collect()).collect();
        let chunking = Chunking::Whole;
        let step = Step { latents: &latents, timestep: 700.0, passes: &passes, chunking, done: &count };
        let guide = Guide { factors: &factors, combine: not_asked };
        let got: Vec<f32> = net.guided(&step, &guide, &mut no_tap).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert!(relative_error(&got, &want) < 1e-6, "{together} together");
        bits.push(got);
        let few = Guide { factors: &factors[1..], combine: not_asked };
        assert!(net.guided(&step, &few, &mut no_tap).is_err());
        // Of six blocks for a branch each, or fewer for several, the last four are not waited for.
        assert_eq!(told.take(), if together == 1 { 2 } else { 0 });
        let enough = |_| candle_core::bail!("enough");
        let stopped = net.guided(&Step { done: &enough, ..step }, &guide, &mut no_tap);
        assert!(together > 1 || stopped.unwrap_err().to_string().contains("enough"));
    }
    assert!(bits[0] == bits[1] && bits[0] == bits[2]);

    // Conditions stay where they were prepared.
    let host = on_host(&config, None);
    let elsewhere = prepared(&host, 0.5);
    for (net, cond) in [(&net, &elsewhere), (&host, &conds[0])] {
        let error = net.forward(&latents, 700.0, cond, &mut no_tap).unwrap_err();
        assert!(error.to_string().contains("prepared on"), "{error}");
    }
}

#[test]
fn attention_in_eight_bits_is_near_and_the_same_everywhere() {
    let Some((gpu, _alone)) = gpu() else { return };
    let config = Config { dim: 256, ffn_dim: 256, ..Config::tiny() };
    let net = |residence| {
        let net = placed(&config, Held(None), residence, &gpu);
        net.on_gpu(gpu.clone(), Attention::Int8).unwrap()
    };
    let whole = net(Residence::WHOLE);
    let got = alone(&whole, Chunking::Whole);
    let error = relative_error(&got, &alone(&on_host(&config, None), Chunking::Whole));
    println!("8 bits: {error:e}");
    assert!(error < 0.015, "{error:e}");
    assert!(got != alone(&on_gpu(&config, None, Residence::WHOLE, &gpu), Chunking::Whole), "it makes a difference");
    assert!(alone(&whole, Chunking::Whole) == got, "repeated");
    assert!(alone(&whole, Chunking::Minimal { tokens: 130 }) == got, "runs");
    assert!(alone(&net(Residence::STREAMED), Chunking::Whole) == got, "streamed");

    let narrow = placed(&Config::tiny(), Held(None), Residence::WHOLE, &gpu);
    let error = narrow.on_gpu(gpu.clone(), Attention::Int8).err().unwrap().to_string();
    assert!(error.contains("128") && error.contains("64"), "{error}");
}

/// Weights that are in the GPU's memory.
const HELD: [&str; 4] = ["blocks.", "patch_embedding", "condition_embedding_align", "head"];

#[test]
fn predictions_of_memory_hold_and_are_not_wasteful() {
    let Some((_, _alone)) = gpu() else { return };
    let config = Config { text_len: 512, dim: 384, ffn_dim: 1024, num_heads: 3, num_layers: 1, ..Config::tiny() };
    let [_, f, h, w] = LATENT;
    for (branches, chunking, attention) in [
        (1, Chunking::Whole, Attention::Bf16),
        (2, Chunking::Whole, Attention::Bf16),
        (1, Chunking::FeedForward { tokens: 130 }, Attention::Int8),
        (1, Chunking::Minimal { tokens: 130 }, Attention::Bf16),
        (1, Chunking::Minimal { tokens: 130 }, Attention::Int8),
    ] {
        // With a pool of its own, whose peak is this pass's.
        let Some(gpu) = open() else { return };
        let net = placed(&config, Held(None), Residence::WHOLE, &gpu).on_gpu(gpu.clone(), attention).unwrap();
        let conds: Vec<Conditioning> = (0..branches).map(|i| prepared(&net, i as f32)).collect();
        forward(&net, &conds.iter().collect::<Vec<_>>(), chunking);
        let weights = manifest(&config).unwrap();
        // What is held there: the block, and what stands before and after it, whose matrices are bf16.
        let held = |name: &str| HELD.iter().any(|prefix| name.starts_with(prefix));
        let bytes = |t: &TensorSpec| if t.matrix || t.name.ends_with("weight") { 2 } else { 4 } * t.elements();
        let held: usize = weights.tensors().filter(|t| held(&t.name)).map(bytes).sum();
        let measured = gpu.pool().counts().peak_bytes - held as u64;
        let shape = PassShape {
            latent: [f, h, w],
            image_tokens: 257,
            text_tokens: 12,
            conditions: branches,
            branches,
            chunking,
            compute: Compute::F32,
            attention,
        };
        let predicted = gpu_activation_bytes(&config, &shape);
        println!("{branches} {chunking:?} {attention:?}: measured {measured}, predicted {predicted}");
        assert!(predicted >= measured && predicted <= measured + measured / 2 + (1 << 20), "{measured} {predicted}");
    }
}

#[test]
fn a_number_that_is_none_is_found_in_its_block() {
    let Some((gpu, _alone)) = gpu() else { return };
    /// The second block adds infinity.
    struct Broken(Held);
    impl TensorSource for Broken {
        fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
            match name {
                "blocks.1.ffn.2.bias" => Tensor::full(f32::INFINITY, shape, device),
                _ => self.0.tensor(name, shape, dtype, device),
            }
        }
        fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix> {
            self.0.matrix(name, shape, dtype, device)
        }
    }
    let config = plain("t2v", 16);
    let net = placed(&config, Broken(Held(None)), Residence::WHOLE, &gpu);
    let net = net.on_gpu(gpu.clone(), Attention::Bf16).unwrap();
    let cond = prepared(&net, 0.5);
    let mut finite = Vec::new();
    let mut look = |name: &str, t: &Tensor| {
        if name.starts_with("block_") {
            finite.push((name.to_owned(), t.sum_all()?.to_scalar::<f32>()?.is_finite()));
        }
        Ok(())
    };
    net.forward_branches(&waves(&LATENT, 9.0), 700.0, &[&cond], Chunking::Whole, &mut look).unwrap();
    let want = [("block_0".to_owned(), true), ("block_1".to_owned(), false)];
    assert_eq!(finite, want);

    // A step as a whole finds it too.
    let latents = waves(&LATENT, 9.0);
    let passes = [vec![&cond]];
    let step = Step { latents: &latents, timestep: 700.0, passes: &passes, chunking: Chunking::Whole, done: &not_told };
    let guide = Guide { factors: &[1.0], combine: &|_| candle_core::bail!("the host is not asked") };
    let mut finite = Vec::new();
    let mut look = |name: &str, t: &Tensor| {
        if name.starts_with("block_") {
            finite.push((name.to_owned(), t.sum_all()?.to_scalar::<f32>()?.is_finite()));
        }
        Ok(())
    };
    net.guided(&step, &guide, &mut look).unwrap();
    assert_eq!(finite, want);
}
