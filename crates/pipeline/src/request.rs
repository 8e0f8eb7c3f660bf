//! What is asked for. Building a request opens nothing; [`AnimateRequest::validate`] checks all that needs no file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use models::Preset;
use offload::{Quality, QualityProfile};
use scheduler::{GuidancePlan, SamplerKind, Schedule, SteadyDancerGuidance};
use serde::{Deserialize, Serialize};

use crate::{PoseSettings, RequestError};

/// Where the motion comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Motion {
    /// Keypoints of people, in the JSON of `docs/keypoints.md`; `drive` is the video they belong to, if it is at hand
    /// (for its sound).
    Keypoints {
        /// The JSON file.
        file: PathBuf,
        /// The driving video.
        drive: Option<PathBuf>,
    },
    /// Poses that are drawn already and aligned to the reference: a folder of pictures or a video each.
    Drawn {
        /// Aligned poses.
        pose: PathBuf,
        /// Their perturbed twins, for pose guidance.
        neg_pose: Option<PathBuf>,
        /// The driving video.
        drive: Option<PathBuf>,
    },
    /// A plain video, whose poses are to be found by a detector.
    Video {
        /// The driving video.
        drive: PathBuf,
    },
}

impl Motion {
    /// The keypoint file.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Motion::Keypoints { file, .. } => Some(file),
            _ => None,
        }
    }

    /// The driving video, whose sound may be carried over.
    pub fn drive(&self) -> Option<&Path> {
        match self {
            Motion::Keypoints { drive, .. } | Motion::Drawn { drive, .. } => drive.as_deref(),
            Motion::Video { drive } => Some(drive),
        }
    }
}

/// How a size that was asked for is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum SizeRule {
    /// The clip has exactly this size; reference and poses are cropped at the centre to its aspect.
    #[default]
    Exact,
    /// Only the area counts; the aspect is the reference's (SteadyDancer's own rule, spec steadydancer §2.1).
    Area,
}

/// How driving frames become the clip's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Timing {
    /// Sample the motion at the clip's frame rate: the clip lasts as long as the motion.
    #[default]
    KeepTime,
    /// Frame for frame, as upstream does: a 30 fps motion becomes slower at 16 fps.
    OneToOne,
}

/// What becomes of the driving video's sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Audio {
    /// Copied, trimmed to the clip.
    #[default]
    Keep,
    /// Left out.
    None,
}

/// All numbers that shape the clip. Start from a preset: [`Settings::from_preset`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Width and height in pixels; `None` is the default area with the reference's aspect.
    pub size: Option<[usize; 2]>,
    /// Whose area is used when `size` is `None`, unless the model has a size of its own (the embedded one has).
    pub default_size: [usize; 2],
    /// How `size` is understood.
    pub size_rule: SizeRule,
    /// Pixel frames T = 4n+1; `None` is the preset's, or the most that the motion has when that is less.
    pub num_frames: Option<usize>,
    /// T when `num_frames` is `None` and the motion is long enough.
    pub default_num_frames: usize,
    /// Frames per second of the clip.
    pub fps: f64,
    /// How driving frames become the clip's frames.
    pub timing: Timing,
    /// Sampler steps.
    pub num_inference_steps: usize,
    /// Update rule.
    pub sampler: SamplerKind,
    /// Explicit noise levels, falling from at most 1 to 0, instead of a computed schedule.
    pub sigmas: Option<Vec<f64>>,
    /// Timesteps (before the shift) of a step-distilled model, instead of a computed schedule.
    pub distilled_timesteps: Option<Vec<f64>>,
    /// Timestep shift.
    pub shift: f64,
    /// Text guidance; 1 is none.
    pub guidance_scale: f64,
    /// Pose guidance, on top of text guidance; 0 is none.
    pub pose_guidance_scale: f64,
    /// Open interval of i/n in which pose guidance is on.
    pub pose_guidance_interval: [f64; 2],
    /// Seed of the initial noise, of stochastic samplers, and of the negative poses.
    pub seed: u64,
}

impl Settings {
    /// A preset's numbers; size, frame count and the rest may then be changed.
    ///
    /// # Errors
    /// The preset names a sampler that does not exist.
    pub fn from_preset(preset: &Preset) -> Result<Self, RequestError> {
        Ok(Self {
            size: None,
            default_size: preset.size,
            size_rule: SizeRule::default(),
            num_frames: None,
            default_num_frames: preset.num_frames,
            fps: preset.fps,
            timing: Timing::default(),
            num_inference_steps: preset.num_inference_steps,
            sampler: preset.sampler.parse().map_err(RequestError::Sampler)?,
            sigmas: None,
            distilled_timesteps: preset.distilled_timesteps.clone(),
            shift: preset.shift,
            guidance_scale: preset.guidance_scale,
            pose_guidance_scale: preset.pose_guidance_scale,
            pose_guidance_interval: preset.pose_guidance_interval,
            seed: preset.seed,
        })
    }

    /// With the area, number of frames and steps of a quality profile. The aspect stays the reference's; a motion that is
    /// shorter, and the steps of a distilled model, stay as they are.
    #[must_use]
    pub fn with_quality(mut self, profile: QualityProfile) -> Self {
        let Quality { side, num_frames, steps } = profile.quality();
        (self.size, self.size_rule) = (Some([side, side]), SizeRule::Area);
        (self.num_frames, self.default_num_frames) = (None, num_frames);
        if self.distilled_timesteps.is_none() {
            self.num_inference_steps = steps;
        }
        self
    }

    /// The schedule these settings mean.
    ///
    /// # Errors
    /// Numbers out of range.
    pub fn schedule(&self) -> Result<Schedule, RequestError> {
        let schedule = match (&self.sigmas, &self.distilled_timesteps) {
            (Some(sigmas), _) => Schedule::from_sigmas(self.sampler, sigmas),
            (None, Some(timesteps)) if self.uses_distilled(timesteps) => {
                Schedule::euler_distilled(timesteps, self.shift)
            }
            _ => Schedule::new(self.sampler, self.num_inference_steps, self.shift),
        };
        Ok(schedule?)
    }

    /// Whether the distilled timesteps are what is sampled at.
    pub(crate) fn uses_distilled(&self, timesteps: &[f64]) -> bool {
        self.sigmas.is_none() && self.sampler == SamplerKind::Euler && timesteps.len() == self.num_inference_steps
    }

    /// The guidance these settings mean. `pose_guided` is false when there are no negative poses or no pose network.
    ///
    /// # Errors
    /// Numbers out of range.
    pub fn guidance(&self, num_steps: usize, pose_guided: bool) -> Result<GuidancePlan, RequestError> {
        let [start, end] = self.pose_guidance_interval;
        let pose_guidance_scale = if pose_guided { self.pose_guidance_scale } else { 0.0 };
        Ok(GuidancePlan::steadydancer(
            &SteadyDancerGuidance {
                guidance_scale: self.guidance_scale,
                pose_guidance_scale,
                pose_guidance_interval: (start, end),
                // A branch whose coefficient is exactly zero is not computed: the result is the same.
                parity: false,
            },
            num_steps,
        )?)
    }
}

/// One clip to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnimateRequest {
    /// Picture of the person to be animated.
    pub reference: PathBuf,
    /// The motion.
    pub motion: Motion,
    /// How poses are found, chosen, cleaned and fitted.
    pub pose: PoseSettings,
    /// What the clip shows, in words; may be empty.
    pub prompt: String,
    /// What it must not show; `None` is the model's customary negative prompt.
    pub negative_prompt: Option<String>,
    /// Numbers.
    pub settings: Settings,
    /// The file or folder to be written (`.mp4`, `.webm`, `.gif`, or a folder of PNGs); `None` writes no clip, and
    /// the frames go to the observer only.
    pub output: Option<PathBuf>,
    /// What an earlier run kept that did not come to its end; its error names the file. Finished latents are decoded at once,
    /// a loop goes on after its last whole step. By default the file beside the output is taken if it fits.
    pub latents: Option<PathBuf>,
    /// How often the loop's position is saved beside the output, at the end of a step, and how long a run must have computed for
    /// it to be kept when the run ends before its end. Zero saves every step, `None` keeps finished latents only. Without
    /// an output nothing is saved on the way.
    pub snapshot_interval: Option<Duration>,
    /// A folder into which a contact sheet, an overlay video, the keypoints and their report are written before the
    /// networks begin.
    pub debug_dir: Option<PathBuf>,
    /// What becomes of the driving video's sound.
    pub audio: Audio,
    /// Constant rate factor of the encoder, 0 (lossless) to 51; lower is better and larger.
    pub crf: u8,
    /// Whether seed, settings and version are written into the file.
    pub metadata: bool,
}

impl AnimateRequest {
    /// A request with a preset's settings; change what differs.
    pub fn new(reference: impl Into<PathBuf>, motion: Motion, settings: Settings) -> Self {
        Self {
            reference: reference.into(),
            motion,
            pose: PoseSettings::default(),
            prompt: String::new(),
            negative_prompt: None,
            settings,
            output: None,
            latents: None,
            snapshot_interval: Some(Duration::from_secs(30)),
            debug_dir: None,
            audio: Audio::default(),
            crf: 18,
            metadata: true,
        }
    }

    /// Sets the prompt.
    #[must_use]
    pub fn prompt(mut self, prompt: impl Into<String>) -> Self {
        self.prompt = prompt.into();
        self
    }

    /// Sets the negative prompt.
    #[must_use]
    pub fn negative_prompt(mut self, prompt: impl Into<String>) -> Self {
        self.negative_prompt = Some(prompt.into());
        self
    }

    /// Sets the file or folder to be written.
    #[must_use]
    pub fn output(mut self, path: impl Into<PathBuf>) -> Self {
        self.output = Some(path.into());
        self
    }

    /// Sets the size in pixels.
    #[must_use]
    pub fn size(mut self, width: usize, height: usize) -> Self {
        self.settings.size = Some([width, height]);
        self
    }

    /// Sets the number of frames.
    #[must_use]
    pub fn num_frames(mut self, frames: usize) -> Self {
        self.settings.num_frames = Some(frames);
        self
    }

    /// Sets the seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// Checks every number; opens nothing.
    ///
    /// # Errors
    /// [`RequestError`] says what was found, what is allowed, and the nearest allowed value.
    pub fn validate(&self) -> Result<(), RequestError> {
        let s = &self.settings;
        if let Some([width, height]) = s.size {
            check_size(width, height)?;
        }
        if let Some(frames) = s.num_frames {
            check_frames(frames)?;
        }
        if !(s.fps.is_finite() && (1.0..=240.0).contains(&s.fps)) {
            return Err(RequestError::Fps { found: s.fps });
        }
        if self.crf > 51 {
            return Err(RequestError::Crf { found: self.crf });
        }
        let schedule = s.schedule()?;
        s.guidance(schedule.num_steps(), true)?;
        self.pose.validate()
    }
}

/// Sides of a clip are multiples of this many pixels: eight of the VAE times two of the patches.
pub const SIDE_MULTIPLE: usize = 16;
/// Shortest side of a clip.
pub const MIN_SIDE: usize = 32;
/// Longest side of a clip.
pub const MAX_SIDE: usize = 4096;
/// Most frames of a clip: position tables end at 1024 latent frames.
pub const MAX_FRAMES: usize = 4 * 1021 + 1;

pub(crate) fn check_size(width: usize, height: usize) -> Result<(), RequestError> {
    let snap =
        |v: usize| (v.saturating_add(SIDE_MULTIPLE / 2) / SIDE_MULTIPLE * SIDE_MULTIPLE).clamp(MIN_SIDE, MAX_SIDE);
    if snap(width) != width || snap(height) != height {
        return Err(RequestError::Size { width, height, nearest: [snap(width), snap(height)] });
    }
    Ok(())
}

fn check_frames(frames: usize) -> Result<(), RequestError> {
    let nearest = (((frames.max(1) - 1).min(MAX_FRAMES) + 2) / 4 * 4 + 1).min(MAX_FRAMES);
    if frames == nearest { Ok(()) } else { Err(RequestError::NumFrames { found: frames, nearest }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> AnimateRequest {
        let preset = models::preset("official").unwrap();
        let motion = Motion::Video { drive: "drive.mp4".into() };
        AnimateRequest::new("ref.png", motion, Settings::from_preset(&preset).unwrap())
    }

    #[test]
    fn frame_counts_and_sizes_name_the_nearest_allowed() {
        assert!(request().validate().is_ok());
        for (frames, nearest) in [(80, 81), (0, 1), (82, 81), (83, 85), (1_000_000, MAX_FRAMES)] {
            let error = request().num_frames(frames).validate().unwrap_err().to_string();
            assert!(error.contains(&format!("num_frames is {frames}; expected 4·n+1, nearest {nearest}")), "{error}");
        }
        for (size, nearest) in [((500, 480), "496x480"), ((7, 5), "32x32"), ((100_000, 100_000), "4096x4096")] {
            let error = request().size(size.0, size.1).validate().unwrap_err().to_string();
            assert!(error.contains(nearest), "{error}");
        }
        assert!(request().num_frames(5).size(480, 832).validate().is_ok());
    }

    #[test]
    fn quality_profiles_are_allowed_and_leave_distilled_steps_alone() {
        for profile in QualityProfile::ALL {
            let mut request = request();
            request.settings = request.settings.with_quality(profile);
            request.validate().unwrap();
            let Quality { side, num_frames, steps } = profile.quality();
            check_size(side, side).unwrap();
            check_frames(num_frames).unwrap();
            assert_eq!((request.settings.num_inference_steps, request.settings.size), (steps, Some([side, side])));
        }
        let distilled = Settings::from_preset(&models::preset("distill-4step").unwrap()).unwrap();
        assert_eq!(distilled.with_quality(QualityProfile::Low).num_inference_steps, 4);
    }

    #[test]
    fn guidance_counts_forwards() {
        let s = request().settings;
        assert_eq!(s.guidance(40, true).unwrap().total_forwards(), 91);
        assert_eq!(s.guidance(40, false).unwrap().total_forwards(), 80);
        let distill = Settings::from_preset(&models::preset("distill-4step").unwrap()).unwrap();
        assert_eq!(distill.guidance(4, true).unwrap().total_forwards(), 4);
        let timesteps = distill.schedule().unwrap().timesteps().to_vec();
        assert_eq!(timesteps.iter().map(|t| (t * 10.0).round()).collect::<Vec<_>>(), [10000.0, 9375.0, 8333.0, 6250.0]);
    }
}
