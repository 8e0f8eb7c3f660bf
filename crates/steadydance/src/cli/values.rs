//! Every setting that has layers: flag, environment, files, preset, default. Flags, keys and variables have one
//! spelling because they come from one struct, and one parser: clap's.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::memory_values::MemoryValues;
use super::pose_values::PoseValues;
use clap::Args;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use steadydance::{Attention, Audio, Compute, HeldDType, Lora, Preset, SamplerKind, SizeRule, Timing};

/// The settings; what is not given is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(rename_all = "kebab-case")]
pub struct Values {
    /// Model folder or file, or `demo` for the embedded one
    #[arg(long, value_name = "PATH|NAME", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// VAE, if it is not beside the model
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae: Option<PathBuf>,
    /// UMT5 text encoder, if it is not beside the model
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<PathBuf>,
    /// CLIP image encoder, if it is not beside the model
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_encoder: Option<PathBuf>,
    /// tokenizer.json, if it is not beside the model
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// LoRA for the transformer, with its strength if that is not 1; may be given several times
    #[arg(long, value_name = "FILE[:STRENGTH]", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Vec<LoraValue>>,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Precision in which matrices are held: f32, bf16 or f16
    #[arg(long, value_name = "TYPE", help_heading = "Model", value_parser = named::<HeldDType>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<HeldDType>,
    /// Numbers for products on a CPU [default: auto, bf16 for models of a billion parameters or more, f32 for small ones]; int8
    /// is for matrices stored so
    #[arg(long, value_name = "auto|f32|bf16|int8", help_heading = "Model", value_parser = named::<ComputeChoice>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute: Option<ComputeChoice>,
    /// Attention of the transformer on a GPU [default: auto, which is bf16]; int8 is less exact and meant to be faster
    #[arg(long, value_name = "auto|bf16|int8", help_heading = "Model", value_parser = named::<AttentionChoice>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<AttentionChoice>,
    /// Memory and precision.
    #[command(flatten)]
    #[serde(flatten)]
    pub memory: MemoryValues,
    /// Largest tile of the VAE in pixels, a multiple of 8 [default: the picture whole]; smaller takes less memory
    #[arg(long, value_name = "PX", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae_tile: Option<usize>,

    /// What the clip shows, in words
    #[arg(long, value_name = "TEXT", help_heading = "Clip")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What it must not show [default: the model's customary one]
    #[arg(long, value_name = "TEXT", help_heading = "Clip")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// Width and height in pixels, multiples of 16 [default: the model's area, the picture's aspect]
    #[arg(long, value_name = "WxH", help_heading = "Clip")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// exact: crop to the size; area: keep the picture's aspect, only the area counts
    #[arg(long, value_name = "RULE", help_heading = "Clip", value_parser = named::<SizeRule>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rule: Option<SizeRule>,
    /// Frames of the clip, 4n+1 [default: the preset's, or what the motion has if that is less]
    #[arg(long, value_name = "N", help_heading = "Clip")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_frames: Option<usize>,
    /// Frames a second of the clip
    #[arg(long, value_name = "N", help_heading = "Clip")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<f64>,
    /// keep-time: sample the motion at --fps; one-to-one: frame for frame
    #[arg(long, value_name = "HOW", help_heading = "Clip", value_parser = named::<Timing>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timing: Option<Timing>,

    /// Poses.
    #[command(flatten)]
    #[serde(flatten)]
    pub pose: PoseValues,

    /// Sampling settings by name: official, distill-4step or demo [default: official; demo for the demo model]
    #[arg(long, value_name = "NAME", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Sampler steps
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// unipc, dpm++, dpm++-sde, euler, lcm, rcm or rcm-ode
    #[arg(long, value_name = "NAME", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<SamplerKind>,
    /// Explicit noise levels instead of --steps and --shift, falling to 0
    #[arg(long, value_name = "A,B,…", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigmas: Option<Numbers>,
    /// Timestep shift
    #[arg(long, value_name = "X", help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift: Option<f64>,
    /// Text guidance; 1 is none
    #[arg(long, value_name = "X", help_heading = "Sampling", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// Pose guidance; 0 is none
    #[arg(long, value_name = "X", help_heading = "Sampling", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pose_guidance_scale: Option<f64>,
    /// Part of the steps with pose guidance, 0 to 1
    #[arg(long, value_name = "A,B", help_heading = "Sampling", value_parser = interval)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pose_guidance_interval: Option<Numbers>,
    /// Seed of all randomness
    #[arg(long, value_name = "N|random", value_parser = seed, help_heading = "Sampling")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,

    /// Sound of the driving video: keep or none
    #[arg(long, value_name = "WHAT", help_heading = "Output", value_parser = named::<Audio>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<Audio>,
    /// Quality of the encoder, 0 (lossless) to 51 (smallest)
    #[arg(long, value_name = "N", help_heading = "Output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crf: Option<u8>,
    /// Whether seed, settings and version are written into the file
    #[arg(long, value_name = "BOOL", help_heading = "Output", hide = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<bool>,
}

/// Keys whose values are paths, relative to the file they stand in.
pub const PATH_KEYS: [&str; 7] =
    ["model", "vae", "text-encoder", "image-encoder", "tokenizer", "detector", "estimator"];

impl Values {
    /// What is used when nothing is said.
    pub fn defaults() -> Self {
        Self {
            model: Some("demo".to_owned()),
            device: Some("auto".to_owned()),
            prompt: Some(String::new()),
            size_rule: Some(SizeRule::default()),
            timing: Some(Timing::default()),
            pose: PoseValues::defaults(),
            audio: Some(Audio::default()),
            crf: Some(18),
            metadata: Some(true),
            ..Self::default()
        }
    }

    /// The folder of the model, if it is one of files.
    pub fn model_folder(&self) -> Option<PathBuf> {
        let path = PathBuf::from(self.model.as_deref().filter(|m| *m != "demo")?);
        if path.is_dir() { Some(path) } else { path.parent().map(PathBuf::from).filter(|_| path.is_file()) }
    }

    /// What a preset says. Size and frame count are not among it: `None` lets the engine fit them to the inputs.
    pub fn of_preset(preset: &Preset) -> Self {
        Self {
            fps: Some(preset.fps),
            steps: Some(preset.num_inference_steps),
            sampler: preset.sampler.parse().ok(),
            shift: Some(preset.shift),
            guidance_scale: Some(preset.guidance_scale),
            pose_guidance_scale: Some(preset.pose_guidance_scale),
            pose_guidance_interval: Some(Numbers(preset.pose_guidance_interval.to_vec())),
            seed: Some(preset.seed),
            lora: (!preset.loras.is_empty())
                .then(|| preset.loras.iter().map(|file| LoraValue { file: file.clone(), strength: 1.0 }).collect()),
            ..Self::default()
        }
    }
}

/// A LoRA, written `FILE` or `FILE:STRENGTH`. Only a number after the last colon is a strength, so that `C:\loras\a.pth`
/// is a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LoraValue {
    /// File, or the name of an embedded one.
    pub file: String,
    /// 1 if it was not given.
    pub strength: f64,
}

impl LoraValue {
    /// For the engine.
    pub fn lora(&self) -> Lora {
        Lora::named(&self.file, self.strength)
    }
}

impl FromStr for LoraValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let strength = |number: &str| number.parse::<f64>().ok().filter(|_| !number.is_empty());
        let split = text.rsplit_once(':').and_then(|(file, number)| Some((file, strength(number.trim())?)));
        let (file, strength) = split.unwrap_or((text, 1.0));
        if file.is_empty() {
            return Err("expected FILE or FILE:STRENGTH, say style.safetensors:0.8".to_owned());
        }
        match (-100.0..=100.0).contains(&strength) {
            true => Ok(Self { file: file.to_owned(), strength }),
            false => Err(format!("the strength is {strength}; expected -100 to 100, 1 is as trained and 0 off")),
        }
    }
}

impl fmt::Display for LoraValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.strength)
    }
}

impl TryFrom<String> for LoraValue {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<LoraValue> for String {
    fn from(lora: LoraValue) -> Self {
        lora.to_string()
    }
}

/// Width and height, written `832x480`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub [usize; 2]);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides = text.split_once(['x', 'X', '×']);
        let sides = sides.and_then(|(w, h)| Some([w.trim().parse().ok()?, h.trim().parse().ok()?]));
        sides.map(Self).ok_or_else(|| "expected WIDTHxHEIGHT in pixels, say 832x480".to_owned())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.0[0], self.0[1])
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

/// Numbers with commas between them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Numbers(pub Vec<f64>);

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |t: &str| t.trim().parse().map_err(|_| format!("{:?} is no number; expected A,B,…", t.trim()));
        text.split(',').map(one).collect::<Result<_, _>>().map(Self)
    }
}

fn interval(text: &str) -> Result<Numbers, String> {
    let numbers: Numbers = text.parse()?;
    match numbers.0.len() {
        2 => Ok(numbers),
        n => Err(format!("{n} number(s); expected two, say 0.1,0.4")),
    }
}

/// A number, or one that nobody knows beforehand; the run tells which it was.
fn seed(text: &str) -> Result<u64, String> {
    use std::hash::{BuildHasher, RandomState};
    match text {
        "random" => Ok(RandomState::new().hash_one(0) >> 1),
        number => number.parse().map_err(|_| format!("expected 0 to {}, or random", u64::MAX)),
    }
}

pub(super) fn gibibytes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(gib) if gib.is_finite() && gib > 0.0 && gib < 1e9 => Ok(gib),
        _ => Err("expected a number of GiB above 0, say 24 or 7.5".to_owned()),
    }
}

/// What `--attention` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionChoice {
    /// What was measured to be worth it: bf16 so far.
    Auto,
    /// See [`Attention::Bf16`].
    Bf16,
    /// See [`Attention::Int8`].
    Int8,
}

impl AttentionChoice {
    /// `None` leaves it to the engine.
    pub fn attention(self) -> Option<Attention> {
        match self {
            Self::Auto => None,
            Self::Bf16 => Some(Attention::Bf16),
            Self::Int8 => Some(Attention::Int8),
        }
    }
}

/// What `--compute` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeChoice {
    /// As the model is large or small.
    Auto,
    /// See [`Compute::F32`].
    F32,
    /// See [`Compute::Bf16`].
    Bf16,
    /// See [`Compute::Int8`].
    Int8,
}

impl ComputeChoice {
    /// `None` leaves it to the engine.
    pub fn compute(self) -> Option<Compute> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(Compute::F32),
            Self::Bf16 => Some(Compute::Bf16),
            Self::Int8 => Some(Compute::Int8),
        }
    }
}

/// A value of an enumeration under the name that it has in JSON.
pub(super) fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|e| e.to_string().replace("unknown variant", "no such value:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_numbers_or_random() {
        assert_eq!(seed("106060"), Ok(106_060));
        assert_ne!(seed("random"), seed("random"));
        for wrong in ["-1", "1.5", "", "Random"] {
            assert!(seed(wrong).unwrap_err().contains("random"), "{wrong}");
        }
    }

    #[test]
    fn sizes_and_lists_are_read_and_written_alike() {
        let size: Size = "832x480".parse().unwrap();
        assert_eq!((size, size.to_string()), (Size([832, 480]), "832x480".to_owned()));
        for wrong in ["832", "x480", "832x", "-1x5", "8x5x3", "ax4", ""] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
        assert_eq!("1, 0.5,0".parse(), Ok(Numbers(vec![1.0, 0.5, 0.0])));
        assert!("1,,0".parse::<Numbers>().is_err());
        assert!(interval("0.1").is_err() && interval("0.1,0.4").is_ok());
        assert!(gibibytes("0").is_err() && gibibytes("nan").is_err() && gibibytes("7.5").is_ok());
    }

    #[test]
    fn only_a_number_after_the_last_colon_is_a_strength() {
        let read = |text: &str| text.parse::<LoraValue>().map(|l| (l.file, l.strength));
        for (text, file, strength) in [
            ("a.safetensors", "a.safetensors", 1.0),
            ("a.safetensors:0.8", "a.safetensors", 0.8),
            ("a.safetensors:-1", "a.safetensors", -1.0),
            ("a.safetensors:0", "a.safetensors", 0.0),
            ("a.safetensors:", "a.safetensors:", 1.0),
            ("a:b.pth", "a:b.pth", 1.0),
            (r"C:\loras\a.pth", r"C:\loras\a.pth", 1.0),
            (r"C:\loras\a.pth:.5", r"C:\loras\a.pth", 0.5),
            ("demo-4step:1e-1", "demo-4step", 0.1),
            ("a:1:2", "a:1", 2.0),
        ] {
            assert_eq!(read(text), Ok((file.to_owned(), strength)), "{text}");
            let again = read(text).unwrap();
            assert_eq!(read(&LoraValue { file: again.0.clone(), strength: again.1 }.to_string()), Ok(again));
        }
        for wrong in ["", ":0.5", "a:nan", "a:inf", "a:101"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn enumerations_have_their_json_names() {
        assert_eq!(named::<Timing>("one-to-one"), Ok(Timing::OneToOne));
        let error = named::<HeldDType>("fp8").unwrap_err();
        assert!(error.contains("no such value: `fp8`") && error.contains("bf16"), "{error}");
    }
}
