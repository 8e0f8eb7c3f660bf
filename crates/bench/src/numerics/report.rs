//! What was found, as a table.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Limit, NumericsModel, NumericsOptions};
use crate::Environment;
use crate::gpu::OpenGpu;

/// What [`NumericsReport::format`] says.
const FORMAT: &str = "steadydance-numerics-report";

/// How far each precision is from f32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NumericsReport {
    /// `steadydance-numerics-report`.
    pub format: String,
    /// Of the format, 1.
    pub version: u32,
    /// Where it was measured.
    pub environment: Environment,
    /// The GPU, if it was one's numbers.
    pub gpu: Option<String>,
    /// The network.
    pub model: String,
    /// Width, height, frames.
    pub size: [usize; 3],
    /// One a precision.
    pub rows: Vec<NumericsRow>,
}

/// One precision. Signal over error is in dB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NumericsRow {
    /// `int8`, `fp8-in-bf16`.
    pub name: String,
    /// `cpu` or `gpu`.
    pub device: String,
    /// Tokens after each block.
    pub blocks_db: Vec<f64>,
    /// The least of these.
    pub worst_block_db: f64,
    /// The velocity of the first step.
    pub velocity_db: f64,
    /// Cosine of the latents at the end of the loop.
    pub latents_cosine: Option<f64>,
    /// Decoded pixels, in dB of their range.
    pub pixels_db: Option<f64>,
    /// What is below its [`Limit`], in words; empty of one that passes.
    pub below: Vec<String>,
}

impl NumericsRow {
    /// With what it falls below; `clip` is of the latents and the pixels.
    pub(super) fn judged(
        name: &str,
        device: &str,
        blocks_db: Vec<f64>,
        velocity_db: f64,
        clip: Option<(f64, f64)>,
    ) -> Self {
        let worst_block_db = blocks_db.iter().copied().fold(f64::INFINITY, f64::min);
        let mut below = Vec::new();
        if let Some(limit) = Limit::of(name.split("-in-").next().unwrap_or(name)) {
            let mut check = |what: &str, found: f64, least: f64| {
                // What is no number is below everything.
                if found.is_nan() || found < least {
                    below.push(format!("{what} {found:.4}, at least {least} is needed"));
                }
            };
            check("block", worst_block_db, limit.blocks_db);
            check("velocity", velocity_db, limit.velocity_db);
            if let Some((cosine, pixels)) = clip {
                check("latents", cosine, limit.latents_cosine);
                check("pixels", pixels, limit.pixels_db);
            }
        }
        Self {
            name: name.to_owned(),
            device: device.to_owned(),
            worst_block_db,
            blocks_db,
            velocity_db,
            latents_cosine: clip.map(|(cosine, _)| cosine),
            pixels_db: clip.map(|(_, pixels)| pixels),
            below,
        }
    }

    /// Whether it is as near as it has to be.
    pub fn passes(&self) -> bool {
        self.below.is_empty()
    }
}

impl NumericsReport {
    pub(super) fn new(options: &NumericsOptions, gpu: Option<&OpenGpu>) -> Self {
        let model = match options.model {
            NumericsModel::Demo => "the embedded model".to_owned(),
            NumericsModel::Random { model, blocks } => {
                format!("{}, {blocks} blocks with random weights", model.config().label())
            }
        };
        Self {
            format: FORMAT.to_owned(),
            version: 1,
            environment: Environment::here(),
            gpu: gpu.map(|gpu| gpu.gpu().facts().name.clone()),
            model,
            size: options.size,
            rows: Vec::new(),
        }
    }

    /// Whether every precision is as near as it has to be.
    pub fn passes(&self) -> bool {
        self.rows.iter().all(NumericsRow::passes)
    }

    /// A table in Markdown.
    pub fn markdown(&self) -> String {
        let [width, height, frames] = self.size;
        let device = self.gpu.as_deref().unwrap_or(&self.environment.cpu);
        let mut text = format!(
            "{}, {width}x{height}x{frames}, on {device}:\n\n| precision | blocks dB, first … last | worst | velocity dB | latents, cosine | pixels dB | |\n|---|---|---|---|---|---|---|\n",
            self.model
        );
        for row in &self.rows {
            let ends = match row.blocks_db.as_slice() {
                [] => String::new(),
                [one] => format!("{one:.1}"),
                [first, .., last] => format!("{first:.1} … {last:.1}"),
            };
            let cosine = row.latents_cosine.map_or_else(String::new, |c| format!("{c:.6}"));
            let pixels = row.pixels_db.map_or_else(String::new, |db| format!("{db:.1}"));
            let verdict = if row.passes() { "passes".to_owned() } else { format!("**{}**", row.below.join("; ")) };
            let NumericsRow { name, device, worst_block_db, velocity_db, .. } = row;
            let _ = writeln!(
                text,
                "| {name}, {device} | {ends} | {worst_block_db:.1} | {velocity_db:.1} | {cosine} | {pixels} | {verdict} |"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_its_limit_is_told() {
        let row = |db: f64, clip| NumericsRow::judged("int8", "gpu", vec![60.0, db], 50.0, clip);
        assert!(row(36.0, None).passes());
        let low = row(3.0, Some((0.5, f64::NAN)));
        assert_eq!((low.below.len(), low.worst_block_db), (3, 3.0));
        assert!(low.below[0].contains("block 3.0000, at least 33"), "{low:?}");
        // Limits are those of the form, whatever it is multiplied in.
        assert!(!NumericsRow::judged("q4_k_m-in-bf16", "cpu", vec![1.0], 50.0, None).passes());
        let options = NumericsOptions { model: NumericsModel::Demo, size: [64, 64, 5] };
        let mut report = NumericsReport::new(&options, None);
        report.rows = vec![row(36.0, Some((1.0, 60.0))), low];
        let table = report.markdown();
        assert!(
            !report.passes() && table.contains("| int8, gpu | 60.0 … 36.0 | 36.0 | 50.0 | 1.000000 | 60.0 | passes |"),
            "{table}"
        );
        assert!(table.contains("**block 3.0000"), "{table}");
    }
}
