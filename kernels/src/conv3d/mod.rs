//! Convolutions over video `[B, C, T, H, W]`: causal in time with explicit history, and the spatial forms around
//! resampling; the RMS norm over channels that stands before them.
//!
//! `T` counts frames; time is never padded behind. A frame-by-frame run that hands the last frames of each layer's
//! input back as `history` gives bit for bit what one call over the whole sequence gives.

mod channel_norm;
mod cpu;
pub mod reference;
mod simd;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor};

pub use channel_norm::channel_rms_norm;
use cpu::Packed;

/// What happens to height and width. Kernels that look at neighbours pad with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Spatial {
    /// Stride 1, `k/2` zeros on all four sides (square kernels, k odd): `H×W → H×W`.
    Same,
    /// One zero column to the right and one zero row below, nothing left or above, stride 2, 3×3 only:
    /// `H×W → ⌊H/2⌋×⌊W/2⌋`.
    Halve,
    /// Every pixel is repeated 2×2, then as [`Same`](Self::Same): `H×W → 2H×2W`.
    Double,
}

/// How a filter is moved over a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Frames in front of the input: the history, and zero frames before it as far as it is shorter. At most kT − 1.
    pub frames_before: usize,
    /// Step between output frames, 1 or more. Output frame j sees frames `j·stride .. j·stride + kT` of the input with
    /// the frames before it.
    pub temporal_stride: usize,
    /// Height and width.
    pub spatial: Spatial,
}

impl Geometry {
    /// Stride 1 in time and space, with as many frames in front as keep the number of frames.
    pub fn causal(kernel_frames: usize) -> Self {
        Self { frames_before: kernel_frames.saturating_sub(1), temporal_stride: 1, spatial: Spatial::Same }
    }
}

/// Weights `[O, I, kT, kH, kW]` and a bias `[O]`, in f32. On the host they are brought into the kernel's order at the
/// first use; one copy is kept.
#[derive(Debug, Clone)]
pub struct Filter {
    dims: [usize; 5],
    bias: Tensor,
    weight: Arc<Mutex<Weight>>,
}

#[derive(Debug)]
enum Weight {
    Plain(Tensor),
    Packed(Arc<Packed>),
}

impl Filter {
    /// From `weight` `[O, I, kT, kH, kW]`, or `[O, I, kH, kW]` for one frame, and `bias` `[O]`, both f32.
    ///
    /// # Errors
    /// Shapes or types that do not fit.
    pub fn new(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let dims = match *weight.dims() {
            [o, i, t, h, w] => [o, i, t, h, w],
            [o, i, h, w] => [o, i, 1, h, w],
            _ => candle_core::bail!("conv3d: weight {:?}; expected 4 or 5 dimensions", weight.dims()),
        };
        if bias.dims() != [dims[0]] || dims.contains(&0) {
            candle_core::bail!("conv3d: weight {:?} and bias {:?} do not fit", weight.dims(), bias.dims());
        }
        if weight.dtype() != DType::F32 || bias.dtype() != DType::F32 {
            candle_core::bail!("conv3d: weights are {:?} and {:?}; expected F32", weight.dtype(), bias.dtype());
        }
        // Views only: what is made to learn a network's shapes has no memory behind it.
        let weight = if weight.rank() == 4 { weight.unsqueeze(2)? } else { weight.clone() };
        Ok(Self { dims, bias: bias.clone(), weight: Arc::new(Mutex::new(Weight::Plain(weight))) })
    }

    /// `[O, I, kT, kH, kW]`.
    pub fn dims(&self) -> [usize; 5] {
        self.dims
    }

    fn packed(&self) -> Result<Arc<Packed>> {
        let mut weight = self.lock();
        if let Weight::Plain(plain) = &*weight {
            let packed = Packed::new(plain, &self.bias)?;
            *weight = Weight::Packed(Arc::new(packed));
        }
        match &*weight {
            Weight::Packed(packed) => Ok(packed.clone()),
            Weight::Plain(_) => candle_core::bail!("conv3d: weights were not packed"),
        }
    }

    fn plain(&self) -> Result<Tensor> {
        match &*self.lock() {
            Weight::Plain(plain) => Ok(plain.clone()),
            Weight::Packed(_) => candle_core::bail!("conv3d: weights are held for the host; the input is not there"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Weight> {
        // A poisoned lock only means that another thread failed; the state is replaced as a whole.
        self.weight.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The tensors of one convolution.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// `[B, I, T, H, W]`, f32.
    pub x: &'a Tensor,
    /// Frames before `x`, oldest first, each `[B, I, 1, H, W]`; at most [`Geometry::frames_before`].
    pub history: &'a [Tensor],
    /// Added to the result, in its shape.
    pub residual: Option<&'a Tensor>,
}

/// The convolution of `input` with `filter`, bias added → `[B, O, T', H', W']` f32 with
/// `T' = (T + frames_before − kT)/temporal_stride + 1`.
///
/// On the host each output is one sum in one order (input channel, then kT, kH, kW), so neither tiles nor threads nor
/// the cut into calls show in it; zero frames cost nothing.
///
/// # Errors
/// Shapes that do not fit, or too few frames for one output.
pub fn conv3d(filter: &Filter, geometry: Geometry, input: Input) -> Result<Tensor> {
    let plan = Plan::new(filter, geometry, &input)?;
    match input.x.device() {
        Device::Cpu => cpu::conv3d(&*filter.packed()?, &plan, &input, crate::level::Level::detect()),
        _ => reference::conv3d(&filter.plain()?, &filter.bias, geometry, input),
    }
}

/// Sizes of one convolution, checked.
#[derive(Debug, Clone, Copy)]
struct Plan {
    geometry: Geometry,
    /// `[O, I, kT, kH, kW]`.
    filter: [usize; 5],
    batch: usize,
    frames: usize,
    height: usize,
    width: usize,
    out_frames: usize,
    out_height: usize,
    out_width: usize,
}

impl Plan {
    fn new(filter: &Filter, geometry: Geometry, input: &Input) -> Result<Self> {
        let dims = filter.dims;
        let [_, in_channels, kt, kh, kw] = dims;
        let (batch, channels, frames, height, width) = input.x.dims5()?;
        let Geometry { frames_before, temporal_stride, spatial } = geometry;
        if channels != in_channels {
            candle_core::bail!("conv3d: input {:?} has {channels} channels; expected {in_channels}", input.x.dims());
        }
        if kh != kw || kh % 2 == 0 || (spatial == Spatial::Halve && kh != 3) {
            candle_core::bail!("conv3d: a {kh}×{kw} kernel does not go with {spatial:?}; 3×3 does");
        }
        if frames_before >= kt || temporal_stride == 0 || frames_before + frames < kt {
            candle_core::bail!("conv3d: {frames} frames after {frames_before} do not fit {kt} kernel frames");
        }
        if input.history.len() > frames_before {
            candle_core::bail!("conv3d: {} frames of history; at most {frames_before} fit", input.history.len());
        }
        for frame in input.history {
            if frame.dims() != [batch, channels, 1, height, width] {
                candle_core::bail!("conv3d: history {:?} does not fit input {:?}", frame.dims(), input.x.dims());
            }
        }
        let (out_height, out_width) = match spatial {
            Spatial::Same => (height, width),
            Spatial::Halve => (height / 2, width / 2),
            Spatial::Double => (2 * height, 2 * width),
        };
        let out_frames = (frames_before + frames - kt) / temporal_stride + 1;
        let plan = Self { geometry, filter: dims, batch, frames, height, width, out_frames, out_height, out_width };
        if let Some(residual) = input.residual
            && residual.dims() != plan.out_dims()
        {
            candle_core::bail!("conv3d: residual {:?}; the result is {:?}", residual.dims(), plan.out_dims());
        }
        Ok(plan)
    }

    fn out_dims(&self) -> [usize; 5] {
        [self.batch, self.filter[0], self.out_frames, self.out_height, self.out_width]
    }
}
