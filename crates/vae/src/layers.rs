//! The two halves as tables of layers. The network is built from them and its memory is predicted from them.

use crate::Config;

/// What a layer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A causal convolution with a k×k×k kernel.
    Conv(usize),
    Residual,
    Attention,
    SpatialDown,
    TemporalDown,
    TemporalUp,
    SpatialUp,
    /// Norm, SiLU and a causal 3×3×3 convolution.
    Head,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Prefix of its tensors.
    pub name: String,
    pub kind: Kind,
    pub in_channels: usize,
    pub out_channels: usize,
    /// Its input is H/shrink × W/shrink.
    pub shrink: usize,
}

struct Table {
    layers: Vec<Layer>,
    channels: usize,
    shrink: usize,
}

impl Table {
    fn add(&mut self, name: impl Into<String>, kind: Kind, out_channels: usize) {
        let (in_channels, shrink) = (self.channels, self.shrink);
        self.layers.push(Layer { name: name.into(), kind, in_channels, out_channels, shrink });
        self.channels = out_channels;
        match kind {
            Kind::SpatialDown => self.shrink *= 2,
            Kind::SpatialUp => self.shrink /= 2,
            _ => {}
        }
    }

    fn middle(&mut self, half: &str) {
        for (i, kind) in [Kind::Residual, Kind::Attention, Kind::Residual].into_iter().enumerate() {
            self.add(format!("{half}.middle.{i}"), kind, self.channels);
        }
    }
}

/// Pixels → mean and log-variance of the latents.
pub(crate) fn encoder(config: &Config) -> Vec<Layer> {
    let mut table = Table { layers: Vec::new(), channels: 3, shrink: 1 };
    table.add("encoder.conv1", Kind::Conv(3), config.dim);
    let mut n = 0;
    for stage in 0..config.dim_mult.len() {
        for _ in 0..config.num_res_blocks {
            table.add(format!("encoder.downsamples.{n}"), Kind::Residual, config.channels(stage));
            n += 1;
        }
        if let Some(temporal) = config.temporal_downsample.get(stage) {
            table.add(format!("encoder.downsamples.{n}.resample.1"), Kind::SpatialDown, table.channels);
            if *temporal {
                table.add(format!("encoder.downsamples.{n}.time_conv"), Kind::TemporalDown, table.channels);
            }
            n += 1;
        }
    }
    table.middle("encoder");
    table.add("encoder.head", Kind::Head, 2 * config.z_dim);
    table.add("conv1", Kind::Conv(1), 2 * config.z_dim);
    table.layers
}

/// Raw latents → pixels.
pub(crate) fn decoder(config: &Config) -> Vec<Layer> {
    let stages = config.dim_mult.len();
    let mut table = Table { layers: Vec::new(), channels: config.z_dim, shrink: config.spatial_stride() };
    table.add("conv2", Kind::Conv(1), config.z_dim);
    table.add("decoder.conv1", Kind::Conv(3), config.channels(stages - 1));
    table.middle("decoder");
    let mut n = 0;
    for stage in (0..stages).rev() {
        for _ in 0..=config.num_res_blocks {
            table.add(format!("decoder.upsamples.{n}"), Kind::Residual, config.channels(stage));
            n += 1;
        }
        if stage > 0 {
            if config.temporal_downsample[stage - 1] {
                table.add(format!("decoder.upsamples.{n}.time_conv"), Kind::TemporalUp, table.channels);
            }
            table.add(format!("decoder.upsamples.{n}.resample.1"), Kind::SpatialUp, table.channels / 2);
            n += 1;
        }
    }
    table.add("decoder.head", Kind::Head, 3);
    table.layers
}
