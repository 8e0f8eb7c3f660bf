//! What all targets do with a file.

use candle_core::{DType, Device};
use weights::Checkpoint;

/// Opens a file and reads all that can be read. `magic` is put before what the fuzzer made, so that it need not be found.
pub fn use_up(magic: &[u8], data: &[u8]) {
    let Some(checkpoint) = open(magic, data) else { return };
    for entry in checkpoint.entries() {
        let rows = entry.shape.first().copied().unwrap_or(1);
        let columns = entry.shape.iter().skip(1).product();
        let _ = checkpoint.matrix(&entry.name, &[rows, columns]);
        let _ = checkpoint.load(&entry.name, &entry.shape, Some(DType::F32), &Device::Cpu);
    }
    checkpoint.sha256();
}

/// Opens a file that begins with `magic`.
pub fn open(magic: &[u8], data: &[u8]) -> Option<Checkpoint> {
    Checkpoint::from_bytes("fuzzed", [magic, data].concat()).ok()
}
