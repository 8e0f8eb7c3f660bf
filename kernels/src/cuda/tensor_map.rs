//! What Hopper's copy engine is told of a tensor: which part of which memory a tile is.

use super::GpuDtype;
use super::driver::{Address, Functions};
use super::error::{CudaError, Result};
use super::gpu::Gpu;

/// As the driver makes it; passed to kernels by value.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct TensorMap([u64; 16]);

/// Tiles with 128-byte swizzle of a tensor; zeros where they leave it. Dimensions are innermost first.
pub(crate) struct Tiles<'a> {
    pub address: Address,
    pub dtype: GpuDtype,
    /// How many numbers there are.
    pub dims: &'a [usize],
    /// Bytes from one to the next of each dimension but the first, multiples of 16.
    pub strides: &'a [usize],
    /// Numbers of a tile; 128 bytes of the first dimension.
    pub tile: &'a [u32],
}

impl Gpu {
    /// Describes a tensor to the copy engine.
    ///
    /// # Errors
    /// The driver is too old, or cannot describe such a tensor.
    pub(crate) fn tensor_map(&self, tiles: &Tiles) -> Result<TensorMap> {
        const SWIZZLE_128: i32 = 3;
        const PROMOTE_256: i32 = 3;
        let rank = tiles.dims.len();
        if tiles.strides.len() + 1 != rank || tiles.tile.len() != rank {
            return CudaError::arguments("describe a tensor", format!("{:?} with {:?}", tiles.dims, tiles.strides));
        }
        // As the driver numbers them.
        let dtype = match tiles.dtype {
            GpuDtype::I8 | GpuDtype::U8 => 0,
            GpuDtype::F16 => 6,
            GpuDtype::F32 => 7,
            GpuDtype::Bf16 => 9,
        };
        let dims: Vec<u64> = tiles.dims.iter().map(|n| *n as u64).collect();
        let strides: Vec<u64> = tiles.strides.iter().map(|n| *n as u64).collect();
        let each = vec![1u32; rank];
        let mut map = TensorMap([0; 16]);
        self.context().call("describe a tensor", |f: &Functions| match f.tensor_map {
            // SAFETY: as many dimensions, strides and sides as the rank says, and a map that is aligned as it must be.
            Some(encode) => unsafe {
                let (dims, strides, tile) = (dims.as_ptr(), strides.as_ptr(), tiles.tile.as_ptr());
                let to = (&raw mut map).cast();
                encode(
                    to,
                    dtype,
                    rank as u32,
                    tiles.address,
                    dims,
                    strides,
                    tile,
                    each.as_ptr(),
                    0,
                    SWIZZLE_128,
                    PROMOTE_256,
                    0,
                )
            },
            None => super::driver::NOT_SUPPORTED,
        })?;
        Ok(map)
    }
}
