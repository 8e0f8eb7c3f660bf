//! Convolutions that remember: they see no later frame than the one they compute, and the last ones before it.

use candle_core::Result;
use kernels::conv3d::{Geometry, Spatial};

use crate::backend::{Backend, Input};

/// The last frames that a convolution has seen, one by one, oldest first. Empty before the first.
#[derive(Debug)]
pub(crate) struct History<F> {
    frames: Vec<F>,
}

impl<F> Default for History<F> {
    fn default() -> Self {
        Self { frames: Vec::new() }
    }
}

impl<F: Clone> History<F> {
    /// The frames, oldest first.
    pub fn frames(&self) -> &[F] {
        &self.frames
    }

    /// Adds the frames of `x` and forgets all but the last `keep`.
    pub fn push<B: Backend<Frames = F>>(&mut self, backend: &B, x: &F, keep: usize) -> Result<()> {
        let count = backend.count(x)?;
        for t in count.saturating_sub(keep)..count {
            let frame = backend.frame(x, t)?;
            self.frames.push(if count == 1 { frame } else { backend.alone(frame)? });
        }
        self.frames.drain(..self.frames.len().saturating_sub(keep));
        Ok(())
    }
}

/// A filter of `kernel_frames` frames.
#[derive(Debug)]
pub(crate) struct Causal<B: Backend> {
    pub filter: B::Filter,
    pub kernel_frames: usize,
}

impl<B: Backend> Causal<B> {
    /// As many frames as there are in `x`, which follow those in `history`, with `residual` added. `history` is moved on to the last
    /// kT − 1 frames.
    pub fn forward(
        &self,
        backend: &B,
        x: &B::Frames,
        history: &mut History<B::Frames>,
        residual: Option<&B::Frames>,
    ) -> Result<B::Frames> {
        let geometry = Geometry::causal(self.kernel_frames);
        let y = backend.convolve(&self.filter, geometry, Input { x, history: history.frames(), residual })?;
        history.push(backend, x, geometry.frames_before)?;
        Ok(y)
    }

    /// The same weights at a temporal stride of two and without zero frames: output j sees frames 2j .. 2j + kT of `history` and `x`
    /// together. `None` while they are too few for one output; `history` is moved on to the frames that the next output needs.
    pub fn forward_stride2(
        &self,
        backend: &B,
        x: &B::Frames,
        history: &mut History<B::Frames>,
    ) -> Result<Option<B::Frames>> {
        let have = history.frames.len() + backend.count(x)?;
        if have < self.kernel_frames {
            history.push(backend, x, have)?;
            return Ok(None);
        }
        let geometry = Geometry { frames_before: history.frames.len(), temporal_stride: 2, spatial: Spatial::Same };
        let input = Input { x, history: history.frames(), residual: None };
        let y = backend.convolve(&self.filter, geometry, input)?;
        history.push(backend, x, have - 2 * backend.count(&y)?)?;
        Ok(Some(y))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::{Device, Tensor};
    use weights::{RandomWeights, Weights};

    use super::*;
    use crate::backend::{Host, Output};

    fn causal(kernel: [usize; 3]) -> Causal<Host> {
        let weights = Weights::new(Arc::new(RandomWeights::new(3)), Device::Cpu, None);
        let [kernel_frames, height, width] = kernel;
        let filter = Host.filter(&[3, 2, kernel_frames, height, width], Output::Inner, &weights).unwrap();
        Causal { filter, kernel_frames }
    }

    fn frames(count: usize) -> Tensor {
        let values: Vec<f32> = (0..2 * count * 12).map(|i| (i as f32).sin()).collect();
        Tensor::from_vec(values, (1, 2, count, 3, 4), &Device::Cpu).unwrap()
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn history_is_the_last_frames_whatever_the_chunks() {
        let x = frames(6);
        for sizes in [&[6][..], &[1, 1, 1, 1, 1, 1], &[4, 2], &[5, 1]] {
            let mut history = History::default();
            let mut start = 0;
            for size in sizes {
                history.push(&Host, &x.narrow(2, start, *size).unwrap(), 2).unwrap();
                start += size;
            }
            let kept: Vec<Vec<f32>> = history.frames().iter().map(values).collect();
            assert_eq!(kept, [4, 5].map(|t| values(&x.narrow(2, t, 1).unwrap())), "{sizes:?}");
        }
    }

    #[test]
    fn stride_two_waits_for_its_frames() {
        let (conv, x) = (causal([3, 1, 1]), frames(7));
        let whole = conv.forward_stride2(&Host, &x, &mut History::default()).unwrap().unwrap();
        assert_eq!(whole.dims(), [1, 3, 3, 3, 4]);
        let mut history = History::default();
        let mut parts = Vec::new();
        for t in 0..7 {
            let y = conv.forward_stride2(&Host, &x.narrow(2, t, 1).unwrap(), &mut history).unwrap();
            assert_eq!(y.is_some(), t >= 2 && t % 2 == 0, "frame {t}");
            parts.extend(y);
        }
        assert_eq!(values(&Tensor::cat(&parts, 2).unwrap()), values(&whole));
        assert_eq!(history.frames().len(), 1);
    }

    #[test]
    fn a_causal_convolution_in_parts_is_the_whole() {
        let (conv, x) = (causal([3, 3, 3]), frames(5));
        let whole = conv.forward(&Host, &x, &mut History::default(), None).unwrap();
        let mut history = History::default();
        let parts = [(0, 1), (1, 3), (4, 1)].map(|(start, count)| {
            conv.forward(&Host, &x.narrow(2, start, count).unwrap(), &mut history, None).unwrap()
        });
        assert_eq!(values(&Tensor::cat(&parts, 2).unwrap()), values(&whole));
    }
}
