use serde::{Deserialize, Serialize};

/// Sampling settings under a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// Name on the command line.
    pub name: String,
    /// One line for people.
    pub summary: String,
    /// Width and height in pixels; upstream takes their product as an area and the aspect from the reference.
    pub size: [usize; 2],
    /// Pixel frames T = 4n+1.
    pub num_frames: usize,
    /// Frames per second of the clip, and the rate at which the driving motion is sampled.
    pub fps: f64,
    /// Sampler steps.
    pub num_inference_steps: usize,
    /// Sampler name, as the scheduler spells it.
    pub sampler: String,
    /// Timesteps before shifting (0..=1000) of a step-distilled model; their number is the number of steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distilled_timesteps: Option<Vec<f64>>,
    /// Timestep shift of the flow schedule.
    pub shift: f64,
    /// Text guidance; 1 is none.
    pub guidance_scale: f64,
    /// Pose guidance, added on top of text guidance; 0 is none.
    pub pose_guidance_scale: f64,
    /// Open interval of i/n in which pose guidance is on.
    pub pose_guidance_interval: [f64; 2],
    /// Seed of the initial noise.
    pub seed: u64,
    /// LoRAs that these settings are made for, by their names inside the program; used unless others are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<String>,
}

/// A preset that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("there is no preset {name:?}; there are: {known}")]
pub struct PresetError {
    /// The name asked for.
    pub name: String,
    /// All names there are.
    pub known: String,
}

const FILES: [&str; 3] = [
    include_str!("../presets/official.toml"),
    include_str!("../presets/distill-4step.toml"),
    include_str!("../presets/demo.toml"),
];

/// All presets, the default one first. Their files are part of the program; a test reads them all.
pub fn presets() -> Vec<Preset> {
    FILES.iter().filter_map(|text| toml::from_str(text).ok()).collect()
}

/// The preset of that name.
///
/// # Errors
/// There is none; the error lists those there are.
pub fn preset(name: &str) -> Result<Preset, PresetError> {
    let all = presets();
    let known = all.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
    all.into_iter().find(|p| p.name == name).ok_or_else(|| PresetError { name: name.to_owned(), known })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_preset_and_names_are_unique() {
        let all = presets();
        assert_eq!(all.len(), FILES.len());
        for p in &all {
            assert_eq!(preset(&p.name).unwrap(), *p);
            assert_eq!(p.num_frames % 4, 1);
            if let Some(t) = &p.distilled_timesteps {
                assert_eq!(t.len(), p.num_inference_steps);
            }
            assert!(p.loras.iter().all(|l| crate::DEMO.loras.iter().any(|e| e.name == l)), "{}", p.name);
        }
        assert!(preset("nonsense").unwrap_err().to_string().contains("official"));
    }

    #[test]
    fn official_is_the_readme_command() {
        let p = preset("official").unwrap();
        assert_eq!((p.num_inference_steps, p.shift, p.guidance_scale, p.pose_guidance_scale), (40, 5.0, 5.0, 1.0));
        assert_eq!((p.pose_guidance_interval, p.seed, p.size), ([0.1, 0.4], 106_060, [1024, 576]));
    }
}
