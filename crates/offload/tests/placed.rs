//! Blocks of a small network under every residence: the same numbers, counted memory, and everything in its order.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use candle_core::{DType, Device, Result, Tensor};
use kernels::cuda::{Code, Driver, Gpu, GpuMatrix, GpuOptions, GpuScales, GpuTensor};
use kernels::linear::{Matrix, linear};
use kernels::quant::{QuantMatrix, Scales};
use libloading::Library;
use offload::{
    Bus, Counts, CudaMemory, DeviceError, DeviceMemory, Fault, Happening, Network, Placed, Residence, Traffic,
    VirtualDevice,
};
use proptest::prelude::*;
use weights::{Checkpoint, CheckpointSource, Manifest, RandomWeights, TensorSource, WeightSource, Weights};

const BLOCKS: usize = 6;
const WIDTH: usize = 32;

/// `ffn`, `norm` and `out` of every block, and `head` outside of them.
fn manifest() -> Manifest {
    Manifest::record(|w| {
        w.matrix((WIDTH, WIDTH), "head.weight")?;
        for i in 0..BLOCKS {
            let w = w.pp(format!("blocks.{i}"));
            w.matrix((2 * WIDTH, WIDTH), "ffn.weight")?;
            w.tensor(WIDTH, "norm.weight")?;
            w.matrix((WIDTH, 2 * WIDTH), "out.weight")?;
        }
        Ok(())
    })
    .unwrap()
}

/// A device of any kind, whose memory is counted.
trait Counted: DeviceMemory {
    fn counts(&self) -> Counts;
}

impl Counted for VirtualDevice {
    fn counts(&self) -> Counts {
        self.counts()
    }
}

impl Counted for CudaMemory {
    /// Once nothing is on its way.
    fn counts(&self) -> Counts {
        self.gpu().unwrap().synchronise().unwrap();
        self.counts()
    }
}

/// A real GPU with `STEADYDANCE_TEST_GPU=1`, else an emulated one that does nothing before it is waited for; `None` where
/// there is neither.
fn gpu() -> Option<Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    let open = || {
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
            library.get::<unsafe extern "C" fn(i32) -> i32>(b"sdEmulatedLazyStreams").unwrap()(1);
        }
        Some(gpu)
    };
    GPU.get_or_init(open).clone()
}

/// Numbers of a GPU's tensor in memory of their own, copied when the GPU comes to it.
fn own(gpu: &Gpu, tensor: &GpuTensor) -> GpuTensor {
    let copy = GpuTensor::empty(gpu, tensor.shape(), tensor.dtype()).unwrap();
    tensor.copy_to_rows(gpu, &copy, 0).unwrap();
    copy
}

/// As [`own`], of a matrix.
fn own_matrix(gpu: &Gpu, matrix: &GpuMatrix) -> GpuMatrix {
    let scales = match matrix.scales() {
        GpuScales::Rows(scales) => GpuScales::Rows(own(gpu, scales)),
        other => other.clone(),
    };
    GpuMatrix::new(matrix.encoding(), matrix.shape(), own(gpu, matrix.bytes()), scales, matrix.rotation()).unwrap()
}

fn to_host(gpu: &Gpu, matrix: &GpuMatrix) -> Matrix {
    let bytes = matrix.bytes().download(gpu).unwrap().to_vec1::<u8>().unwrap();
    let scales = match matrix.scales() {
        GpuScales::None => Scales::None,
        GpuScales::Rows(scales) => Scales::Rows(scales.download(gpu).unwrap().to_vec1().unwrap()),
        GpuScales::Blocks { .. } => panic!("no scales of blocks here"),
    };
    let matrix = QuantMatrix::new(matrix.encoding(), matrix.shape(), Bytes::from(bytes), scales, matrix.rotation());
    matrix.unwrap().into()
}

/// A block's `norm`, `ffn` and `out`.
type Block = (Tensor, Matrix, Matrix);

fn block(x: &Tensor, (norm, ffn, out): Block) -> Result<Tensor> {
    let inner = linear(&x.broadcast_mul(&norm)?, &ffn, None)?.tanh()?;
    drop(ffn);
    x + linear(&inner, &out, None)?
}

fn head(x: &Tensor, head: &Matrix) -> Result<Vec<f32>> {
    linear(x, head, None)?.flatten_all()?.to_vec1()
}

/// Two passes over all blocks and the head. A GPU is given all of its work before any of it is waited for.
fn compute(placed: &Placed, pause: Duration) -> Result<Vec<f32>> {
    let mut x = Tensor::arange(0f32, (9 * WIDTH) as f32, &Device::Cpu)?.sin()?.reshape((9, WIDTH))?;
    let passes = || (0..2).flat_map(|_| 0..BLOCKS);
    let Some(gpu) = placed.gpu().cloned() else {
        for i in passes() {
            let w = placed.group(&format!("blocks.{i}"))?;
            let (norm, ffn) = (w.tensor(WIDTH, "norm.weight")?, w.matrix((2 * WIDTH, WIDTH), "ffn.weight")?);
            let out = w.matrix((WIDTH, 2 * WIDTH), "out.weight")?;
            drop(w);
            std::thread::sleep(pause);
            x = block(&x, (norm, ffn, out))?;
        }
        return head(&x, &placed.group("")?.matrix((WIDTH, WIDTH), "head.weight")?);
    };
    let mut copies = Vec::new();
    for i in passes() {
        let w = placed.group(&format!("blocks.{i}"))?;
        let matrix =
            |w: &Weights, shape, name| Ok::<_, candle_core::Error>(own_matrix(&gpu, &w.gpu_matrix(shape, name)?));
        let norm = own(&gpu, &w.gpu_tensor(WIDTH, "norm.weight")?);
        let (ffn, out) = (matrix(&w, (2 * WIDTH, WIDTH), "ffn.weight")?, matrix(&w, (WIDTH, 2 * WIDTH), "out.weight")?);
        copies.push((norm, ffn, out));
        std::thread::sleep(pause);
    }
    let last = placed.group("")?.gpu_matrix((WIDTH, WIDTH), "head.weight")?;
    for (norm, ffn, out) in copies {
        x = block(&x, (norm.download(&gpu)?, to_host(&gpu, &ffn), to_host(&gpu, &out)))?;
    }
    head(&x, &to_host(&gpu, &last))
}

fn network(source: Arc<dyn TensorSource>, manifest: &Manifest) -> Network<'_> {
    Network { source, manifest, groups: &["blocks"], dtype: None }
}

fn placed(residence: Residence, device: Arc<dyn Counted>) -> Result<Placed> {
    Placed::with_traffic(
        network(Arc::new(RandomWeights::new(5)), &manifest()),
        residence,
        device,
        Arc::new(Traffic::logged()),
    )
}

/// Bytes of a block's slab: bf16 matrices, f32 norm, each at a multiple of 256.
const BLOCK: u64 = 2 * (2 * WIDTH * WIDTH * 2) as u64 + 256;
const HEAD: u64 = (WIDTH * WIDTH * 2) as u64;
const FAST: Bus = Bus { bytes_per_second: f64::INFINITY };

/// One of each kind without a fault.
fn devices() -> Vec<Arc<dyn Counted>> {
    faulty(None)
}

/// A host, a card, and a GPU where there is one.
fn faulty(fault: Option<Fault>) -> Vec<Arc<dyn Counted>> {
    let virtual_ones = [VirtualDevice::host(u64::MAX), VirtualDevice::card(u64::MAX, FAST)];
    let mut all: Vec<Arc<dyn Counted>> = Vec::new();
    for device in virtual_ones {
        all.push(Arc::new(if let Some(fault) = fault { device.with(fault) } else { device }));
    }
    if let Some(gpu) = gpu() {
        let memory = CudaMemory::new(gpu);
        all.push(Arc::new(if let Some(fault) = fault { memory.with(fault) } else { memory }));
    }
    all
}

fn whole() -> Vec<f32> {
    compute(&placed(Residence::WHOLE, Arc::new(VirtualDevice::host(u64::MAX))).unwrap(), Duration::ZERO).unwrap()
}

#[test]
fn every_residence_gives_the_same_bits_within_what_it_says() {
    let want = whole();
    for resident in [0, 1, 3, 5, 6, usize::MAX] {
        for ring in 1..=3 {
            for (pinned, ahead) in [(0, true), (0, false), (2 * BLOCK, true), (u64::MAX, true), (u64::MAX, false)] {
                for by_matrix in [false, true] {
                    for device in devices() {
                        let residence = Residence { resident, ring, pinned_bytes: pinned, ahead, by_matrix };
                        let placed = placed(residence, device.clone()).unwrap();
                        let promised = placed.device_bytes() + HEAD;
                        assert!(compute(&placed, Duration::ZERO).unwrap() == want, "{residence:?}");
                        let counts = device.counts();
                        assert!(counts.peak_bytes <= promised, "{residence:?}: {counts:?}, not {promised}");
                        if resident >= BLOCKS {
                            assert_eq!(counts.peak_bytes, promised, "{residence:?}");
                        }
                        let staging = if device.is_host() { 0 } else { 2 * BLOCK };
                        let moved = (BLOCKS - resident.min(BLOCKS)) as u64 * BLOCK;
                        assert!(counts.pinned_peak_bytes <= staging + pinned.min(moved), "{residence:?}: {counts:?}");
                        drop(placed);
                        assert_eq!((device.counts().used_bytes, device.counts().pinned_bytes), (0, 0));
                    }
                }
            }
        }
    }
}

#[test]
fn what_stays_is_read_once_and_what_is_pinned_too() {
    let reads = |residence, device: Arc<dyn Counted>| {
        let placed = placed(residence, device).unwrap();
        compute(&placed, Duration::ZERO).unwrap();
        placed.traffic().clone()
    };
    for device in devices() {
        assert_eq!(reads(Residence::WHOLE, device.clone()).reads(), BLOCKS as u64);
        // One more may be on its way to a next pass.
        let streamed = reads(Residence::STREAMED, device.clone()).reads();
        assert!((12..=13).contains(&streamed), "{streamed}");
        let half = reads(Residence { resident: 3, ..Residence::STREAMED }, device.clone());
        assert!((9..=10).contains(&half.reads()), "{}", half.reads());
        if !device.is_host() {
            let pinned = reads(Residence { pinned_bytes: u64::MAX, ..Residence::STREAMED }, device);
            assert_eq!(pinned.reads(), BLOCKS as u64);
            assert!(pinned.copied_bytes() >= 12 * BLOCK);
        }
    }
}

#[test]
fn the_next_block_is_on_its_way_before_the_one_at_work_is_done() {
    let slow = Bus { bytes_per_second: BLOCK as f64 / 0.002 };
    for device in devices().into_iter().chain([Arc::new(VirtualDevice::card(u64::MAX, slow)) as Arc<dyn Counted>]) {
        let begins = if device.is_host() { Happening::ReadBegins } else { Happening::CopyBegins };
        let placed = placed(Residence { pinned_bytes: u64::MAX, ..Residence::STREAMED }, device).unwrap();
        compute(&placed, Duration::from_millis(20)).unwrap();
        let log = placed.traffic().log();
        for turn in 1..2 * BLOCKS {
            let nth = |what, block: usize, turn: usize| {
                let unit = format!("blocks.{block}");
                let mut found = log.iter().enumerate().filter(|(_, r)| r.unit == unit && r.what == what);
                found.nth(turn).map(|(at, _)| at).unwrap()
            };
            // The second pass wraps to block 0.
            let (block, pass) = (turn % BLOCKS, turn / BLOCKS);
            let (begins, asked) = (nth(begins, block, pass), nth(Happening::Asked, block, pass));
            assert!(begins < asked, "block {block} of pass {pass}: {begins} {asked}");
        }
    }
}

#[test]
fn wherever_memory_or_a_copy_fails_it_is_an_error_and_the_next_try_gives_the_same() {
    let want = whole();
    let residence = Residence { resident: 2, pinned_bytes: 2 * BLOCK, ..Residence::STREAMED };
    let mut failures = [0; 3];
    for k in 0..40 {
        for fault in [Fault::Allocation(k), Fault::Copy(k)] {
            for (ahead, kind) in [(true, 1), (false, 1), (true, 2), (false, 2)] {
                let Some(device) = faulty(Some(fault)).into_iter().nth(kind) else { continue };
                let placed = placed(Residence { ahead, ..residence }, device.clone()).unwrap();
                match compute(&placed, Duration::ZERO) {
                    Ok(got) => assert!(got == want),
                    Err(error) => {
                        failures[kind] += 1;
                        let inside = DeviceError::inside(&error).unwrap_or_else(|| panic!("{error}"));
                        assert!(!inside.to_string().contains('\n'));
                        // The fault is over: the same weights serve again.
                        assert!(compute(&placed, Duration::ZERO).unwrap() == want, "{fault:?}");
                    }
                }
                drop(placed);
                assert_eq!((device.counts().used_bytes, device.counts().pinned_bytes), (0, 0), "{fault:?}");
            }
        }
    }
    assert!(failures[1] > 20 && (failures[2] > 20 || gpu().is_none()), "{failures:?}");
}

/// The network as a file of bf16.
fn file(folder: &tempfile::TempDir) -> std::path::PathBuf {
    let (source, path) = (RandomWeights::new(5), folder.path().join("m.safetensors"));
    let tensor = |spec: &weights::TensorSpec| {
        (spec.name.clone(), source.tensor(&spec.name, &spec.shape, Some(DType::BF16), &Device::Cpu).unwrap())
    };
    let tensors = manifest().tensors().map(tensor).collect();
    weights::save_safetensors(&path, &tensors, &std::collections::BTreeMap::new()).unwrap();
    path
}

#[test]
fn blocks_of_a_file_are_read_without_its_map_and_a_file_that_changes_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder);
    let manifest = manifest();
    let open = |residence, device| {
        let source = Arc::new(CheckpointSource(Checkpoint::open(&path).unwrap()));
        Placed::new(network(source, &manifest), residence, device).unwrap()
    };
    let want = whole();
    for device in devices() {
        assert!(compute(&open(Residence::STREAMED, device.clone()), Duration::ZERO).unwrap() == want);
        assert!(
            compute(&open(Residence { by_matrix: true, ..Residence::STREAMED }, device), Duration::ZERO).unwrap()
                == want
        );
    }
    let host = Arc::new(VirtualDevice::host(u64::MAX));
    let (streamed, whole) = (open(Residence::STREAMED, host.clone()), open(Residence::WHOLE, host));
    for placed in [&streamed, &whole] {
        assert!(compute(placed, Duration::ZERO).unwrap() == want);
    }
    // Another file under its name does not matter: the one that was opened is still there.
    let other = folder.path().join("other");
    std::fs::write(&other, vec![0u8; 40_000]).unwrap();
    let kept = folder.path().join("kept");
    std::fs::rename(&path, &kept).unwrap();
    std::fs::rename(&other, &path).unwrap();
    assert!(compute(&streamed, Duration::ZERO).unwrap() == want);
    // The file itself cut short does.
    std::fs::File::options().write(true).open(&kept).unwrap().set_len(20_000).unwrap();
    // What was read ahead is right; what is read now is refused.
    let error = (0..3).find_map(|_| compute(&streamed, Duration::ZERO).err()).unwrap();
    let error = weights::WeightsError::from_candle(error).unwrap().to_string();
    assert!(error.contains("was written to or cut short while it was in use"), "{error}");
    assert!(compute(&whole, Duration::ZERO).unwrap() == want);
}

#[test]
fn a_number_that_is_not_finite_is_found_in_every_residence() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 6;
    bytes[at..at + 2].copy_from_slice(&[0xc0, 0x7f]);
    std::fs::write(&path, bytes).unwrap();
    let manifest = manifest();
    for residence in [Residence::WHOLE, Residence::STREAMED, Residence { by_matrix: true, ..Residence::STREAMED }] {
        let source = Arc::new(CheckpointSource(Checkpoint::open(&path).unwrap()));
        let device = Arc::new(VirtualDevice::host(u64::MAX));
        let placed = Placed::new(network(source, &manifest), residence, device).unwrap();
        for _ in 0..2 {
            let error = weights::WeightsError::from_candle(compute(&placed, Duration::ZERO).unwrap_err()).unwrap();
            assert!(error.to_string().contains("non-finite"), "{error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever is asked for in whatever order, it is what it is, within the promise.
    #[test]
    fn any_order_of_blocks(order in prop::collection::vec(0..BLOCKS, 1..40), resident in 0usize..7, ring in 1usize..4,
        by_matrix: bool, kind in 0usize..3) {
        let source = RandomWeights::new(5);
        let Some(device) = devices().into_iter().nth(kind) else { return Ok(()) };
        let residence = Residence { resident, ring, pinned_bytes: 3 * BLOCK, ahead: true, by_matrix };
        let placed = placed(residence, device.clone()).unwrap();
        for block in order {
            let name = format!("blocks.{block}");
            let (group, shape) = (placed.group(&name).unwrap(), (2 * WIDTH, WIDTH));
            let got = match device.gpu() {
                Some(gpu) => to_host(gpu, &group.gpu_matrix(shape, "ffn.weight").unwrap()),
                None => group.matrix(shape, "ffn.weight").unwrap(),
            };
            let want = source.matrix(&format!("{name}.ffn.weight"), &[2 * WIDTH, WIDTH], None, &Device::Cpu).unwrap();
            let values = |m: &weights::Matrix| m.to_tensor(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            prop_assert_eq!(values(&got), values(&want));
        }
        prop_assert!(device.counts().peak_bytes <= placed.device_bytes());
    }
}
