//! A checkpoint of full size without its weights: writes SteadyDancer-14B as scaled fp8 with random numbers (16.4 GB), and
//! reads any checkpoint tensor by tensor, with the time, the memory, and the speed of `cat` in the same run.
//!
//! `cargo run --release --example full_size -- write steadydancer-fp8.safetensors`
//! `cargo run --release --example full_size -- read steadydancer-fp8.safetensors`
//! `cargo run --release --example full_size -- stream steadydancer-fp8.safetensors`
//!
//! `stream` brings all blocks through two staging buffers, as a run does whose memory does not hold them, and computes nothing.

use std::borrow::Cow;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use offload::{Bus, DeviceMemory, Network, Placed, Residence, VirtualDevice};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::{Dtype, View};
use weights::{Checkpoint, CheckpointSource, WeightSource};

/// Numbers that are made when they are written, so that 16 GB take no memory.
struct Random {
    dtype: Dtype,
    shape: Vec<usize>,
    seed: u64,
}

impl View for &Random {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0; self.data_len()];
        ChaCha8Rng::seed_from_u64(self.seed).fill_bytes(&mut bytes);
        match self.dtype {
            // Neither not-a-number (0x7f, 0xff) nor infinities: one bit of the exponent less.
            Dtype::F8_E4M3 => bytes.iter_mut().for_each(|b| *b &= 0xbf),
            Dtype::F16 => bytes.chunks_exact_mut(2).for_each(|b| b[1] &= 0xbf),
            _ => bytes.copy_from_slice(&0.01f32.to_le_bytes()),
        }
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

fn write(path: &Path) -> anyhow::Result<()> {
    let manifest = dit::manifest(&dit::Config::steadydancer_14b())?;
    let mut tensors = vec![("scaled_fp8".to_owned(), Random { dtype: Dtype::F8_E4M3, shape: vec![0], seed: 0 })];
    for (seed, spec) in manifest.tensors().enumerate() {
        let quantised = spec.name.starts_with("blocks.") && spec.shape.len() == 2;
        let dtype = if quantised { Dtype::F8_E4M3 } else { Dtype::F16 };
        tensors.push((spec.name.clone(), Random { dtype, shape: spec.shape.clone(), seed: seed as u64 }));
        if let (true, Some(layer)) = (quantised, spec.name.strip_suffix("weight")) {
            tensors.push((format!("{layer}scale_weight"), Random { dtype: Dtype::F32, shape: vec![], seed: 0 }));
        }
    }
    let began = Instant::now();
    safetensors::serialize_to_file(tensors.iter().map(|(name, tensor)| (name, tensor)), None, path)?;
    let bytes = fs::metadata(path)?.len();
    println!("{}: {} tensors, {bytes} bytes in {:.1} s", path.display(), tensors.len(), began.elapsed().as_secs_f64());
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    let network = steadydance::inspect(path)?.network;
    let label = network.map_or_else(|| "no known network".to_owned(), |n| n.label);
    println!("inspected in {:.3} s: {label}", began.elapsed().as_secs_f64());
    let checkpoint = Checkpoint::open(path)?;
    let before = offload::peak_rss_bytes().unwrap_or_default();
    let largest = checkpoint.entries().map(|e| e.stored_bytes()).max().unwrap_or_default();
    for round in 1..=3 {
        let ours = || -> anyhow::Result<f64> {
            let began = Instant::now();
            for entry in checkpoint.entries().filter(|e| e.is_loadable()) {
                // As a network asks: quantised matrices as they are, everything else as floats.
                if checkpoint.matrix(&entry.name, &entry.shape)?.is_none() {
                    checkpoint.load(&entry.name, &entry.shape, None, &Device::Cpu)?;
                }
            }
            Ok(began.elapsed().as_secs_f64())
        };
        let (cat, ours) = (cat(&checkpoint)?, ours()?);
        let speed = |seconds: f64| checkpoint.stored_bytes() as f64 / seconds / 1e9;
        println!(
            "round {round}: cat {:.2} GB/s, tensor by tensor {:.2} GB/s, ratio {:.2}",
            speed(cat),
            speed(ours),
            cat / ours
        );
    }
    let growth = offload::peak_rss_bytes().unwrap_or_default().saturating_sub(before);
    println!("largest tensor {largest} bytes; peak RSS grew by {growth}, {:.2} of it", growth as f64 / largest as f64);
    Ok(())
}

/// Seconds that `cat` takes for the file.
fn cat(checkpoint: &Checkpoint) -> anyhow::Result<f64> {
    let began = Instant::now();
    let files = checkpoint.files().filter(|f| f.extension().is_some_and(|e| e != "json"));
    anyhow::ensure!(Command::new("cat").args(files).stdout(Stdio::null()).status()?.success(), "cat failed");
    Ok(began.elapsed().as_secs_f64())
}

fn stream(path: &Path) -> anyhow::Result<()> {
    const GIB: f64 = (1u64 << 30) as f64;
    let config = dit::Config::steadydancer_14b();
    let (manifest, checkpoint) = (dit::manifest(&config)?, Checkpoint::open(path)?);
    let before = offload::peak_rss_bytes().unwrap_or_default();
    for round in 1..=3 {
        let seconds = cat(&checkpoint)?;
        let cat = checkpoint.stored_bytes() as f64 / seconds / 1e9;
        println!("round {round}: cat {cat:.2} GB/s");
        let pcie4 = Bus { bytes_per_second: 25e9 };
        let host = VirtualDevice::host(6 << 30);
        let card = VirtualDevice::card(6 << 30, pcie4);
        for (what, memory) in [("host memory", Arc::new(host)), ("a virtual card behind 25 GB/s", Arc::new(card))] {
            let source = Arc::new(CheckpointSource(checkpoint.clone()));
            let network = Network { source, manifest: &manifest, groups: dit::GROUPS, dtype: None };
            let placed = Placed::new(network, Residence::STREAMED, memory.clone() as Arc<dyn DeviceMemory>)?;
            for pass in ["numbers looked through", "again"] {
                let (began, bytes) = (Instant::now(), placed.traffic().bytes());
                for block in 0..config.num_layers {
                    drop(placed.group(&format!("blocks.{block}"))?);
                }
                let read = (placed.traffic().bytes() - bytes) as f64 / began.elapsed().as_secs_f64() / 1e9;
                println!("  into {what}, {pass}: {read:.2} GB/s, {:.2} of cat", read / cat);
            }
            let counts = memory.counts();
            let [device, pinned] = [counts.peak_bytes, counts.pinned_peak_bytes].map(|b| b as f64 / GIB);
            println!("  {device:.2} GiB of the device's memory, {pinned:.2} GiB pinned");
        }
    }
    let peak = offload::peak_rss_bytes().unwrap_or_default();
    println!("peak RSS {:.2} GiB, {:.2} before the first pass", peak as f64 / GIB, before as f64 / GIB);
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [what, path] if what == "write" => write(Path::new(path)),
        [what, path] if what == "read" => read(Path::new(path)),
        [what, path] if what == "stream" => stream(Path::new(path)),
        _ => anyhow::bail!("usage: full_size write|read|stream FILE"),
    }
}
