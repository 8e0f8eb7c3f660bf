//! One function for each family of kernels: it checks shapes, makes room for the result, and gives the compute stream the call.
//!
//! Nothing here waits for the GPU. Floats are bf16 unless said otherwise, sums and statistics f32. Each kernel does what the
//! `reference` of its name in this crate says.

mod attention;
mod attention_int8;
mod columns;
mod conv3d;
mod dequantise;
mod elementwise;
mod linear;
mod look_up;
mod pictures;
mod rows;
mod step;
mod vae;

use super::error::{CudaError, Result};
use super::{GpuDtype, GpuTensor};

pub use attention::{FRAME_HEAD, Heads, attention, attention_over_frames, attention_with_offsets};
pub use attention_int8::{INT8_HEAD, Int8Keys, ValueSums, attention_int8, attention_int8_bytes};
pub use columns::Columns;
pub use conv3d::{ConvInput, ConvOutput, GpuFilter, conv3d};
pub use dequantise::dequantise;
pub use elementwise::{Activation, convert, gated_add_in_place, glu_in_place, map, map_in_place};
pub use linear::{InputForm, Terms, decoded_bytes, input_form, linear, linear_rounded};
pub use look_up::{Indices, look_up};
pub use pictures::{DepthwiseWeights, JoinPart, depthwise, join, max_pool, means, picture, windows};
pub use rows::{
    Modulation, Norm, Rope, Rounded, RowOutput, RowWork, layer_norm_modulate, rms_norm_rope_in_place, rows,
    rows_in_place,
};
pub use step::{combine, combine_into, patchify_into, unpatchify};
pub use vae::{channel_norm, channels_last};

/// A number that kernels take as 32 bits.
fn int(operation: &'static str, n: usize) -> Result<i32> {
    i32::try_from(n).or_else(|_| CudaError::arguments(operation, format!("{n} is more than kernels count to")))
}

/// As [`int`], for grids.
fn blocks(operation: &'static str, n: usize) -> Result<u32> {
    Ok(int(operation, n)?.unsigned_abs())
}

/// Where a tensor begins; 0 of none.
fn address_of(tensor: Option<&GpuTensor>) -> u64 {
    tensor.map_or(0, GpuTensor::address)
}

/// Whether a tensor is of one of these kinds.
fn check_dtype(operation: &'static str, tensor: &GpuTensor, allowed: &[GpuDtype]) -> Result<()> {
    match allowed.contains(&tensor.dtype()) {
        true => Ok(()),
        false => CudaError::arguments(operation, format!("{tensor:?} where {allowed:?} is needed")),
    }
}

/// Whether 16 bytes can be read at once from its beginning on.
fn check_aligned(operation: &'static str, tensor: &GpuTensor) -> Result<()> {
    match tensor.address().is_multiple_of(16) {
        true => Ok(()),
        false => CudaError::arguments(operation, format!("{tensor:?} begins at no multiple of 16 bytes")),
    }
}
