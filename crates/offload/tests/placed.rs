//! Blocks of a small network under every residence: the same numbers, counted memory, and everything in its order.

use std::sync::Arc;
use std::time::Duration;

use candle_core::{DType, Device, Result, Tensor};
use kernels::linear::linear;
use offload::{Bus, DeviceError, DeviceMemory, Fault, Happening, Network, Placed, Residence, Traffic, VirtualDevice};
use proptest::prelude::*;
use weights::{Checkpoint, CheckpointSource, Manifest, RandomWeights, TensorSource, WeightSource};

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

/// Two passes over all blocks and the head.
fn compute(placed: &Placed, pause: Duration) -> Result<Vec<f32>> {
    let mut x = Tensor::arange(0f32, (9 * WIDTH) as f32, &Device::Cpu)?.sin()?.reshape((9, WIDTH))?;
    for _ in 0..2 {
        for i in 0..BLOCKS {
            let w = placed.group(&format!("blocks.{i}"))?;
            let (norm, ffn) = (w.tensor(WIDTH, "norm.weight")?, w.matrix((2 * WIDTH, WIDTH), "ffn.weight")?);
            let out = w.matrix((WIDTH, 2 * WIDTH), "out.weight")?;
            drop(w);
            std::thread::sleep(pause);
            let inner = linear(&x.broadcast_mul(&norm)?, &ffn, None)?.tanh()?;
            drop(ffn);
            x = (x + linear(&inner, &out, None)?)?;
        }
    }
    let head = placed.group("")?.matrix((WIDTH, WIDTH), "head.weight")?;
    linear(&x, &head, None)?.flatten_all()?.to_vec1()
}

fn network(source: Arc<dyn TensorSource>, manifest: &Manifest) -> Network<'_> {
    Network { source, manifest, groups: &["blocks"], dtype: None }
}

fn placed(residence: Residence, device: Arc<VirtualDevice>) -> Result<Placed> {
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

fn devices(budget: u64) -> [Arc<VirtualDevice>; 2] {
    [VirtualDevice::host(budget), VirtualDevice::card(budget, FAST)].map(Arc::new)
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
                    for device in devices(u64::MAX) {
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
    let reads = |residence, device: Arc<VirtualDevice>| {
        let placed = placed(residence, device).unwrap();
        compute(&placed, Duration::ZERO).unwrap();
        placed.traffic().clone()
    };
    let [host, card] = devices(u64::MAX);
    assert_eq!(reads(Residence::WHOLE, host.clone()).reads(), BLOCKS as u64);
    // One more may be on its way to a next pass.
    let streamed = reads(Residence::STREAMED, host).reads();
    assert!((12..=13).contains(&streamed), "{streamed}");
    let pinned = reads(Residence { pinned_bytes: u64::MAX, ..Residence::STREAMED }, card.clone());
    assert_eq!(pinned.reads(), BLOCKS as u64);
    assert!(pinned.copied_bytes() >= 12 * BLOCK);
    let half = reads(Residence { resident: 3, ..Residence::STREAMED }, card);
    assert!((9..=10).contains(&half.reads()), "{}", half.reads());
}

#[test]
fn the_next_block_is_on_its_way_before_the_one_at_work_is_done() {
    for bus in [None, Some(Bus { bytes_per_second: BLOCK as f64 / 0.002 })] {
        let device = Arc::new(match bus {
            None => VirtualDevice::host(u64::MAX),
            Some(bus) => VirtualDevice::card(u64::MAX, bus),
        });
        let placed = placed(Residence { pinned_bytes: u64::MAX, ..Residence::STREAMED }, device).unwrap();
        compute(&placed, Duration::from_millis(20)).unwrap();
        let log = placed.traffic().log();
        let begins = if bus.is_some() { Happening::CopyBegins } else { Happening::ReadBegins };
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
    let mut failures = 0;
    for k in 0..40 {
        for fault in [Fault::Allocation(k), Fault::Copy(k)] {
            for ahead in [true, false] {
                let device = Arc::new(VirtualDevice::card(u64::MAX, FAST).with(fault));
                let placed = placed(Residence { ahead, ..residence }, device.clone()).unwrap();
                match compute(&placed, Duration::ZERO) {
                    Ok(got) => assert!(got == want),
                    Err(error) => {
                        failures += 1;
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
    assert!(failures > 20, "{failures}");
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
    for device in devices(u64::MAX) {
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
        by_matrix: bool, host: bool) {
        let source = RandomWeights::new(5);
        let device = devices(u64::MAX)[usize::from(!host)].clone();
        let residence = Residence { resident, ring, pinned_bytes: 3 * BLOCK, ahead: true, by_matrix };
        let placed = placed(residence, device.clone()).unwrap();
        for block in order {
            let name = format!("blocks.{block}");
            let got = placed.group(&name).unwrap().matrix((2 * WIDTH, WIDTH), "ffn.weight").unwrap();
            let want = source.matrix(&format!("{name}.ffn.weight"), &[2 * WIDTH, WIDTH], None, &Device::Cpu).unwrap();
            let values = |m: &weights::Matrix| m.to_tensor(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            prop_assert_eq!(values(&got), values(&want));
        }
        prop_assert!(device.counts().peak_bytes <= placed.device_bytes());
    }
}
