//! Sizes of one convolution, checked, and its tensors as slices.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor};

use super::{Activation, Input};

/// Sizes that are known to fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub batch: usize,
    /// Of the input, after doubling.
    pub height: usize,
    pub width: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    /// Side of the kernel, odd.
    pub size: usize,
    pub stride: usize,
    pub out_height: usize,
    pub out_width: usize,
    pub activation: Activation,
}

impl Plan {
    /// For a filter of `dims` `[O, I, k, k]`.
    pub(super) fn new(dims: [usize; 4], stride: usize, activation: Activation, input: &Input) -> Result<Self> {
        let [out_channels, in_channels, size, _] = dims;
        let Some(first) = input.parts.first() else {
            candle_core::bail!("conv2d: the input has no parts; expected {in_channels} channels");
        };
        let sides = |x: &Tensor, doubled: bool| -> Result<_> {
            let (batch, height, width, channels) = x.dims4()?;
            let times = if doubled { 2 } else { 1 };
            Ok(([batch, times * height, times * width], channels))
        };
        let (picture, _) = sides(first.x, first.doubled)?;
        let mut channels = 0;
        for part in input.parts {
            let (other, part_channels) = sides(part.x, part.doubled)?;
            if other != picture || part.x.dtype() != DType::F32 {
                let (x, dtype) = (part.x.dims(), part.x.dtype());
                candle_core::bail!("conv2d: part {x:?} {dtype:?} does not fit; expected {picture:?} of F32");
            }
            if let Some(gate) = part.gate
                && (gate.dims() != [picture[0], part_channels] || gate.dtype() != DType::F32)
            {
                candle_core::bail!("conv2d: gate {:?} of part {:?} does not fit", gate.dims(), part.x.dims());
            }
            channels += part_channels;
        }
        if channels != in_channels {
            candle_core::bail!("conv2d: the parts have {channels} channels; expected {in_channels}");
        }
        let [batch, height, width] = picture;
        let (out_height, out_width) = (height.div_ceil(stride), width.div_ceil(stride));
        if let Some(residual) = input.residual
            && (residual.dims() != [batch, out_height, out_width, out_channels] || residual.dtype() != DType::F32)
        {
            let want = [batch, out_height, out_width, out_channels];
            candle_core::bail!("conv2d: residual {:?} {:?}; expected {want:?} F32", residual.dims(), residual.dtype());
        }
        Ok(Self { batch, height, width, in_channels, out_channels, size, stride, out_height, out_width, activation })
    }

    pub(super) fn out_dims(&self) -> [usize; 4] {
        [self.batch, self.out_height, self.out_width, self.out_channels]
    }
}

/// One part of the input as a slice.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    data: &'a [f32],
    /// From one pixel to the next.
    step: usize,
    pub channels: usize,
    /// Of the picture that is kept.
    height: usize,
    width: usize,
    doubled: bool,
    /// `[B, C]`.
    gate: Option<&'a [f32]>,
}

impl<'a> Source<'a> {
    /// `x` must be [`in_rows`].
    pub(super) fn new(x: &'a Slice<'a>, doubled: bool, gate: Option<&'a Slice<'a>>) -> Result<Self> {
        let (_, height, width, channels) = x.layout.shape().dims4()?;
        let step = x.layout.stride()[2];
        Ok(Self { data: x.data, step, channels, height, width, doubled, gate: gate.map(|g| g.data) })
    }

    /// Channels of a pixel of the doubled picture.
    #[inline(always)]
    pub(super) fn pixel(&self, batch: usize, y: usize, x: usize) -> &'a [f32] {
        let shift = usize::from(self.doubled);
        let at = (batch * self.height + (y >> shift)) * self.width + (x >> shift);
        &self.data[at * self.step..][..self.channels]
    }

    /// Factors of the channels.
    #[inline(always)]
    pub(super) fn gate(&self, batch: usize) -> Option<&'a [f32]> {
        self.gate.map(|g| &g[batch * self.channels..][..self.channels])
    }

    /// Whether pixels that stand side by side in a row lie side by side in memory, as they are used.
    pub(super) fn is_dense(&self) -> bool {
        !self.doubled && self.gate.is_none() && self.step == self.channels
    }

    /// `count` values of a row of a dense source, from a pixel's first channel on.
    #[inline(always)]
    pub(super) fn values(&self, batch: usize, y: usize, x: usize, count: usize) -> &'a [f32] {
        &self.data[((batch * self.height + y) * self.width + x) * self.channels..][..count]
    }
}

/// A tensor whose pixels are at one distance from one another, and whose channels lie side by side.
pub(super) fn in_rows(x: &Tensor) -> Result<Tensor> {
    let (_, height, width, channels) = x.dims4()?;
    let [image, row, pixel, channel] = *x.stride() else { return x.contiguous() };
    let fits = channel == 1 && pixel >= channels && row == width * pixel && image == height * row;
    if fits { Ok(x.clone()) } else { x.contiguous() }
}

/// Elements of a tensor on the host.
pub(super) struct Slice<'a> {
    /// From the first element on.
    pub data: &'a [f32],
    pub layout: &'a Layout,
}

impl<'a> Slice<'a> {
    pub(super) fn new((storage, layout): &'a (impl std::ops::Deref<Target = Storage>, &'a Layout)) -> Result<Self> {
        let Storage::Cpu(cpu) = &**storage else {
            candle_core::bail!("conv2d: expected all tensors on the host");
        };
        let data = CpuStorage::as_slice::<f32>(cpu)?;
        Ok(Self { data: &data[layout.start_offset()..], layout })
    }
}
