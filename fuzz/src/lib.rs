//! What all targets do with a file.

use candle_core::{DType, Device};
use weights::Checkpoint;

/// Opens a file and reads all that can be read. `magic` is put before what the fuzzer made, so that it need not be found.
pub fn use_up(magic: &[u8], data: &[u8]) {
    let Some(checkpoint) = open(magic, data) else { return };
    for entry in checkpoint.entries() {
        let rows = entry.shape.first().copied().unwrap_or(1);
        let columns = entry.shape.iter().skip(1).product();
        checkpoint.matrix(&entry.name, &[rows, columns]).map_or_else(of_candle, drop);
        checkpoint.load(&entry.name, &entry.shape, Some(DType::F32), &Device::Cpu).map_or_else(of_candle, drop);
    }
    checkpoint.sha256();
}

/// Opens a file that begins with `magic`.
pub fn open(magic: &[u8], data: &[u8]) -> Option<Checkpoint> {
    Checkpoint::from_bytes("fuzzed", [magic, data].concat()).map_err(one_line).ok()
}

/// What an error says may hold nothing of the file that would break the line or steer the terminal.
pub fn one_line(error: impl std::fmt::Display) {
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
