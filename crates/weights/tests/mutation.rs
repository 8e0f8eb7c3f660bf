//! Files of every format with wrong bytes: never a panic, and no memory that the file does not justify.
//!
//! Alone in its binary, because it counts what is allocated.

use std::alloc::System;
use std::path::PathBuf;
use std::sync::Mutex;

use candle_core::{DType, Device};
use cap::Cap;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use weights::Checkpoint;
use weights::lora::LoraFile;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What is allocated is counted for all threads: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

/// What messages and the readers' own tables may take. A length field that is believed asks for more.
const ALLOWED_BYTES: usize = 1 << 20;

/// A change to a file.
#[derive(Debug, Clone)]
enum Change {
    Flip { at: usize, bits: u8 },
    Set { at: usize, bytes: Vec<u8> },
    Insert { at: usize, bytes: Vec<u8> },
    Remove { at: usize, count: usize },
    Repeat { from: usize, count: usize, to: usize },
    Cut { at: usize },
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0..1usize << 20;
    // Numbers that lengths, counts and offsets go wrong at.
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..9),
        prop::sample::select(vec![0u64, 1, 0x7fff_ffff, 0xffff_ffff, 1 << 40, 1 << 62, u64::MAX])
            .prop_map(|n| n.to_le_bytes().to_vec()),
    ];
    prop_oneof![
        4 => (at.clone(), 1..=255u8).prop_map(|(at, bits)| Change::Flip { at, bits }),
        4 => (at.clone(), bytes.clone()).prop_map(|(at, bytes)| Change::Set { at, bytes }),
        2 => (at.clone(), bytes).prop_map(|(at, bytes)| Change::Insert { at, bytes }),
        2 => (at.clone(), 1..64usize).prop_map(|(at, count)| Change::Remove { at, count }),
        2 => (at.clone(), 1..256usize, at.clone()).prop_map(|(from, count, to)| Change::Repeat { from, count, to }),
        1 => at.prop_map(|at| Change::Cut { at }),
    ]
}

/// Most of what can go wrong does in the first and the last bytes, wherever the file has its head.
fn apply(change: &Change, file: &mut Vec<u8>, head: usize) {
    let place = |at: usize| at % head.min(file.len()).max(1);
    match change {
        _ if file.is_empty() => {}
        Change::Flip { at, bits } => {
            let at = place(*at);
            file[at] ^= bits;
        }
        Change::Set { at, bytes } => {
            let at = place(*at);
            let count = bytes.len().min(file.len() - at);
            file[at..at + count].copy_from_slice(&bytes[..count]);
        }
        Change::Insert { at, bytes } => {
            let at = place(*at);
            file.splice(at..at, bytes.iter().copied());
        }
        Change::Remove { at, count } => {
            let at = place(*at);
            file.drain(at..(at + count).min(file.len()));
        }
        Change::Repeat { from, count, to } => {
            let (from, to) = (place(*from), place(*to));
            let piece = file[from..(from + count).min(file.len())].to_vec();
            file.splice(to..to, piece);
        }
        Change::Cut { at } => file.truncate(place(*at)),
    }
}

/// Opens within the memory that the file justifies, and reads all that can be read.
fn use_up(label: &str, bytes: Vec<u8>) {
    let size = bytes.len();
    ALLOCATOR.set_limit(ALLOCATOR.allocated() + ALLOWED_BYTES + 64 * size).unwrap();
    let opened = Checkpoint::from_bytes(label, bytes);
    ALLOCATOR.set_limit(usize::MAX).unwrap();
    let checkpoint = match opened {
        Ok(checkpoint) => checkpoint,
        Err(error) => return one_line(error),
    };
    for entry in checkpoint.entries() {
        // The densest form has 21 bits for 8 numbers. What follows may need memory for each number.
        assert!(entry.elements() <= 4 * size || !entry.is_loadable(), "{entry:?} of a file of {size} bytes");
        let rows = entry.shape.first().copied().unwrap_or(1);
        let columns = entry.shape.iter().skip(1).product();
        checkpoint.matrix(&entry.name, &[rows, columns]).map_or_else(of_candle, drop);
        checkpoint.load(&entry.name, &entry.shape, None, &Device::Cpu).map_or_else(of_candle, drop);
        checkpoint.load(&entry.name, &entry.shape, Some(DType::F32), &Device::Cpu).map_or_else(of_candle, drop);
    }
    checkpoint.sha256();
    LoraFile::read(checkpoint).map_or_else(one_line, drop);
}

fn one_line(error: impl std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
}

fn of_candle(error: candle_core::Error) {
    match weights::WeightsError::from_candle(error) {
        Ok(ours) => one_line(ours),
        // With `RUST_BACKTRACE`, candle's own go on with the trace.
        Err(other) => one_line(other.to_string().split("\n   0: ").next().unwrap_or_default()),
    }
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

/// Changes a file many times over; the first `head` bytes of it are its head.
fn mutate(name: &str, head: usize, cases: u32) {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let whole = fixture(name);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(change(), 1..6), |changes| {
            let mut file = whole.clone();
            // A zip archive has its directory at its end.
            let backwards = file.starts_with(b"PK") && changes.len() % 2 == 0;
            if backwards {
                file.reverse();
            }
            changes.iter().for_each(|change| apply(change, &mut file, head));
            if backwards {
                file.reverse();
            }
            use_up(name, file);
            Ok(())
        })
        .unwrap();
}

#[test]
fn safetensors_headers() {
    mutate("formats/comfy_quant.safetensors", 1500, 3000);
    mutate("formats/turbo.safetensors", 500, 500);
    mutate("formats/fp8_plain.safetensors", 700, 500);
}

#[test]
fn gguf_heads() {
    mutate("formats/blocks.gguf", 1700, 3000);
}

#[test]
fn zip_pickles() {
    mutate("formats/protocol2.pth", 1500, 4000);
    mutate("formats/protocol4.pth", 1500, 4000);
}

#[test]
fn legacy_pickles() {
    mutate("formats/legacy.pth", 1300, 8000);
}

#[test]
fn lora_keys() {
    mutate("lora/kohya.safetensors", 2000, 1000);
    mutate("lora/lorahyphen.safetensors", 2000, 500);
}
