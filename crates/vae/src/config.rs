use serde::{Deserialize, Serialize};

use crate::VaeError;

/// Latent mean per channel of Wan 2.1.
const MEAN: [f64; 16] = [
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922,
    -0.9497, 0.2503, -0.2921,
];

/// Latent standard deviation per channel of Wan 2.1.
const STD: [f64; 16] = [
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253,
    2.8251, 1.9160,
];

/// Sizes of the VAE. Reads its own fields and those of diffusers' `AutoencoderKLWan` config; absent ones are Wan 2.1's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Channels at full resolution.
    #[serde(alias = "base_dim")]
    pub dim: usize,
    /// Latent channels.
    pub z_dim: usize,
    /// Channels of each encoder stage as multiples of `dim`; the decoder goes the other way. Between stages height and
    /// width are halved.
    pub dim_mult: Vec<usize>,
    /// Residual blocks of an encoder stage; the decoder has one more.
    pub num_res_blocks: usize,
    /// Whether time is halved as well, for each step between encoder stages.
    #[serde(alias = "temperal_downsample")]
    pub temporal_downsample: Vec<bool>,
    /// Latent mean per channel: normalised = (raw − mean)/std.
    #[serde(alias = "latents_mean")]
    pub mean: Vec<f64>,
    /// Latent standard deviation per channel.
    #[serde(alias = "latents_std")]
    pub std: Vec<f64>,
}

impl Default for Config {
    fn default() -> Self {
        Self::wan21()
    }
}

impl Config {
    /// The released Wan 2.1 VAE (also of Wan 2.2's A14B models): 126,892,531 parameters.
    pub fn wan21() -> Self {
        Self {
            dim: 96,
            z_dim: 16,
            dim_mult: vec![1, 2, 4, 4],
            num_res_blocks: 2,
            temporal_downsample: vec![false, true, true],
            mean: MEAN.to_vec(),
            std: STD.to_vec(),
        }
    }

    /// The same network with eight base channels, for tests and the demo model.
    pub fn tiny() -> Self {
        Self { dim: 8, ..Self::wan21() }
    }

    /// The same network with latents as the convolutions leave them, not normalised.
    pub fn raw_latents(self) -> Self {
        Self { mean: vec![0.0; self.z_dim], std: vec![1.0; self.z_dim], ..self }
    }

    /// Reads the sizes off the shapes of tensors under canonical names; either half alone is enough.
    ///
    /// # Errors
    /// [`VaeError::NotAVae`] when the shapes are not those of a Wan 2.1 VAE.
    pub fn detect(shape: impl Fn(&str) -> Option<Vec<usize>>) -> Result<Self, VaeError> {
        let dimension = |name: &str, axis: usize| shape(name).and_then(|s| s.get(axis).copied());
        let not = |problem: String| VaeError::NotAVae { problem };
        let encoder = dimension("encoder.conv1.weight", 0);
        let (prefix, dim) = match (encoder, dimension("decoder.head.0.gamma", 0)) {
            (Some(dim), _) => ("encoder.downsamples", dim),
            (None, Some(dim)) => ("decoder.upsamples", dim),
            (None, None) => {
                return Err(not("it has neither encoder.conv1.weight nor decoder.head.0.gamma".to_owned()));
            }
        };
        // One (channels, residual blocks, halves time) per stage; the last has no resampling behind it.
        let mut stages = vec![(0usize, 0usize, false)];
        for n in 0.. {
            let Some(stage) = stages.last_mut() else { break };
            if let Some(channels) = dimension(&format!("{prefix}.{n}.residual.2.weight"), 0) {
                *stage = (channels, stage.1 + 1, false);
            } else if dimension(&format!("{prefix}.{n}.resample.1.weight"), 0).is_some() {
                stage.2 = shape(&format!("{prefix}.{n}.time_conv.weight")).is_some();
                stages.push((0, 0, false));
            } else {
                break;
            }
        }
        let mut temporal_downsample: Vec<bool> = stages[..stages.len() - 1].iter().map(|s| s.2).collect();
        let mut blocks = stages[0].1;
        let z_dim = if encoder.is_some() {
            dimension("encoder.head.2.weight", 0).map(|c| c / 2)
        } else {
            stages.reverse();
            temporal_downsample.reverse();
            blocks = blocks.saturating_sub(1);
            dimension("decoder.conv1.weight", 1)
        };
        if let Some(stage) = stages.iter().find(|s| s.1 != stages[0].1 || s.0 == 0 || dim == 0 || s.0 % dim != 0) {
            return Err(not(format!("a stage of {} block(s) has {} channels over a base of {dim}", stage.1, stage.0)));
        }
        let z_dim = z_dim.unwrap_or(0);
        if z_dim != MEAN.len() {
            return Err(not(format!("it has {z_dim} latent channels where Wan 2.1 has {}", MEAN.len())));
        }
        let config = Self {
            dim,
            dim_mult: stages.iter().map(|s| s.0 / dim).collect(),
            num_res_blocks: blocks,
            temporal_downsample,
            ..Self::wan21()
        };
        config.check().map_err(|e| not(e.to_string()))?;
        Ok(config)
    }

    /// Pixels of a latent pixel, each way (8).
    pub fn spatial_stride(&self) -> usize {
        1 << self.temporal_downsample.len()
    }

    /// Frames of a latent frame after the first (4).
    pub fn temporal_stride(&self) -> usize {
        1 << self.temporal_downsample.iter().filter(|t| **t).count()
    }

    /// Channels of encoder stage `stage`.
    pub(crate) fn channels(&self, stage: usize) -> usize {
        self.dim * self.dim_mult[stage]
    }

    /// Checks that the lists fit each other.
    ///
    /// # Errors
    /// [`VaeError::Config`] or [`VaeError::Value`].
    pub fn check(&self) -> Result<(), VaeError> {
        let stages = self.dim_mult.len();
        for (field, found, expected) in [
            ("temporal_downsample", self.temporal_downsample.len(), stages.max(1) - 1),
            ("mean", self.mean.len(), self.z_dim),
            ("std", self.std.len(), self.z_dim),
        ] {
            if found != expected {
                return Err(VaeError::Config { field, found, expected });
            }
        }
        let value = |field, found: String, expected| Err(VaeError::Value { field, found, expected });
        if self.dim == 0 || self.dim > 4096 {
            return value("dim", self.dim.to_string(), "1 to 4096");
        }
        if self.z_dim == 0 || self.z_dim > 4096 {
            return value("z_dim", self.z_dim.to_string(), "1 to 4096");
        }
        if !(1..=8).contains(&stages) || self.dim_mult.iter().any(|m| !(1..=64).contains(m)) {
            return value("dim_mult", format!("{:?}", self.dim_mult), "1 to 8 factors from 1 to 64");
        }
        if !(1..=64).contains(&self.num_res_blocks) {
            return value("num_res_blocks", self.num_res_blocks.to_string(), "1 to 64");
        }
        if self.dim_mult[1..].iter().any(|m| !(self.dim * m).is_multiple_of(2)) {
            return value("dim", self.dim.to_string(), "an even number of channels before each upsampling");
        }
        if self.std.iter().any(|s| !s.is_finite() || *s <= 0.0) || self.mean.iter().any(|m| !m.is_finite()) {
            return value("mean and std", format!("{:?}, {:?}", self.mean, self.std), "finite, std above 0");
        }
        Ok(())
    }

    /// Checks that a GPU has kernels for these sizes.
    ///
    /// # Errors
    /// [`VaeError::Gpu`].
    pub fn check_gpu(&self) -> Result<(), VaeError> {
        const ATTENTION: usize = 384;
        const MOST: usize = 1024;
        let channels = self.dim_mult.iter().map(|m| self.dim.saturating_mul(*m));
        let fits = |n: &usize| n.is_multiple_of(8) && (8..=MOST).contains(n);
        let middle = self.dim_mult.last().map(|m| self.dim.saturating_mul(*m));
        let wide = middle.filter(|n| *n > ATTENTION);
        let wrong = channels.chain([self.z_dim]).find(|n| !fits(n)).or(wide);
        // Before each upsampling channels are halved.
        let halved = self.dim_mult.iter().skip(1).map(|m| self.dim.saturating_mul(*m) / 2).find(|n| !fits(n));
        match wrong.or(halved) {
            Some(found) => Err(VaeError::Gpu { found, attention: ATTENTION }),
            None => Ok(()),
        }
    }

    /// Checks the size of a video before anything is computed.
    ///
    /// # Errors
    /// [`VaeError::FrameCount`] unless `frames` is 4·n+1, [`VaeError::Size`] unless `height` and `width` (pixels) are
    /// positive multiples of 8.
    pub fn check_video(&self, frames: usize, height: usize, width: usize) -> Result<(), VaeError> {
        self.check_size(height, width)?;
        let stride = self.temporal_stride();
        if frames == 0 || !(frames - 1).is_multiple_of(stride) {
            let nearest = (frames.saturating_sub(1) + stride / 2) / stride * stride + 1;
            return Err(VaeError::FrameCount { found: frames, stride, nearest });
        }
        Ok(())
    }

    pub(crate) fn check_size(&self, height: usize, width: usize) -> Result<(), VaeError> {
        let stride = self.spatial_stride();
        let nearest = |n: usize| ((n + stride / 2) / stride).max(1) * stride;
        if [height, width].iter().any(|n| *n == 0 || !n.is_multiple_of(stride)) {
            let (nearest_height, nearest_width) = (nearest(height), nearest(width));
            return Err(VaeError::Size { height, width, stride, nearest_height, nearest_width });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_do_not_fit_say_what_would() {
        let config = Config::wan21();
        assert_eq!(config.check_video(1, 8, 16), Ok(()));
        assert_eq!(config.check_video(81, 480, 832), Ok(()));
        let message = |frames, height, width| config.check_video(frames, height, width).unwrap_err().to_string();
        assert!(message(80, 480, 832).contains("80 frames; expected 4·n+1, nearest 81"));
        assert!(message(0, 480, 832).contains("nearest 1"));
        assert!(message(6, 480, 832).contains("nearest 5"));
        assert!(message(81, 481, 830).contains("830×481; width and height must be multiples of 8, nearest 832×480"));
        assert!(message(81, 0, 8).contains("nearest 8×8"));
    }

    #[test]
    fn a_contradictory_configuration_is_an_error() {
        let ok = Config::tiny();
        assert_eq!(ok.check(), Ok(()));
        for wrong in [
            Config { dim: 0, ..ok.clone() },
            Config { dim_mult: vec![], ..ok.clone() },
            Config { dim_mult: vec![1, 2], ..ok.clone() },
            Config { num_res_blocks: 0, ..ok.clone() },
            Config { std: vec![0.0; 16], ..ok.clone() },
            Config { mean: vec![0.0; 15], ..ok.clone() },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn reads_the_configs_of_both_projects() {
        let theirs = r#"{"_class_name": "AutoencoderKLWan", "base_dim": 96, "temperal_downsample": [false, true, true],
            "latents_mean": [0.5], "latents_std": [2.0], "z_dim": 1}"#;
        let config: Config = serde_json::from_str(theirs).unwrap();
        assert_eq!((config.dim, config.z_dim, config.mean), (96, 1, vec![0.5]));
        let text = serde_json::to_string(&Config::tiny()).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), Config::tiny());
    }
}
