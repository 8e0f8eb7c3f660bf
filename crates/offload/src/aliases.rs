//! Words of other programs for the same things (spec memory_and_avatars §4.3): modes of FlashPortrait and HunyuanVideo-Avatar,
//! flags of ComfyUI, classes of cards.

use crate::plan::GIB;
use crate::{FlagConflict, MemoryFlags, MemoryMode, Place};

/// The environment variables that are read, the first wins where two say the same thing.
pub const ALIAS_VARIABLES: [&str; 4] = ["COMFYUI_ARGS", "GPU_MEMORY_MODE", "VRAM_MODE", "GPU_TIER"];

/// What such words mean here.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Aliases {
    /// The flags that they stand for.
    pub flags: MemoryFlags,
    /// The form of the transformer's matrices, as `--dit-dtype` takes it.
    pub dit_dtype: Option<&'static str>,
    /// Words that do nothing here, and those that nobody knows; one line each.
    pub notes: Vec<String>,
}

/// A word for a mode, and the form of matrices that goes with it.
const MODES: &[(&str, MemoryMode, Option<&str>)] = &[
    ("model_full_load", MemoryMode::Full, None),
    ("model_full_load_and_qfloat8", MemoryMode::Full, Some("fp8")),
    ("model_cpu_offload", MemoryMode::Stage, None),
    ("model_cpu_offload_and_qfloat8", MemoryMode::Stage, Some("fp8")),
    ("sequential_cpu_offload", MemoryMode::Stream, None),
];

/// ComfyUI's flags of one exclusive group, `--medvram` of its predecessors among them.
const COMFY_MODES: &[(&str, MemoryMode)] = &[
    ("--gpu-only", MemoryMode::Full),
    ("--highvram", MemoryMode::Full),
    ("--normalvram", MemoryMode::Auto),
    ("--medvram", MemoryMode::Partial),
    ("--lowvram", MemoryMode::Stream),
    ("--novram", MemoryMode::Minimal),
    ("--cpu", MemoryMode::Cpu),
];

/// Classes of cards: a first guess that is checked against the memory there is.
const TIERS: &[(&str, MemoryMode)] = &[
    ("CONSUMER_8GB", MemoryMode::Stream),
    ("CONSUMER_12GB", MemoryMode::Partial),
    ("PROSUMER_24GB", MemoryMode::Stage),
    ("PROSUMER_48GB", MemoryMode::Full),
    ("DATACENTER_80GB", MemoryMode::Full),
];

/// ComfyUI's flags that ask for what is done anyway, or for what is not here, with what to say.
const NO_EFFECT: &[(&str, bool, &str)] = &[
    ("--disable-xformers", false, "attention is computed in pieces as it is"),
    ("--use-split-cross-attention", false, "attention is computed in pieces as it is"),
    ("--use-quad-cross-attention", false, "attention is computed in pieces as it is"),
    ("--cache-classic", false, "there is no graph whose results could be cached"),
    ("--preview-method", true, "finished frames are the only preview"),
];

impl Aliases {
    /// Reads [`ALIAS_VARIABLES`] through `variable`, which gives a variable's value if it is set.
    ///
    /// # Errors
    /// Two flags of one exclusive group in `COMFYUI_ARGS`. Unknown words are notes.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Self, FlagConflict> {
        let set = |name: &str| variable(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let mut found = Self::default();
        if let Some(text) = set("COMFYUI_ARGS") {
            found = Self::from_comfyui_args(&text)?;
        }
        for name in ["GPU_MEMORY_MODE", "VRAM_MODE"] {
            let Some(word) = set(name) else { continue };
            let lower = Self::from_mode(name, &word);
            found = Self {
                flags: found.flags.or(lower.flags),
                dit_dtype: found.dit_dtype.or(lower.dit_dtype),
                notes: [found.notes, lower.notes].concat(),
            };
        }
        if let Some(word) = set("GPU_TIER") {
            match TIERS.iter().find(|(tier, _)| tier.eq_ignore_ascii_case(&word)) {
                Some((_, mode)) => found.flags.suggested_mode = found.flags.suggested_mode.or(Some(*mode)),
                None => {
                    let known: Vec<&str> = TIERS.iter().map(|(tier, _)| *tier).collect();
                    found.notes.push(format!(
                        "GPU_TIER={word} is no class that is known ({}); planned by the free memory",
                        known.join(", ")
                    ));
                }
            }
        }
        Ok(found)
    }

    /// A mode by any of its names; `place` is where it was found.
    fn from_mode(place: &str, word: &str) -> Self {
        let same = |name: &str| name.eq_ignore_ascii_case(word);
        let other = MODES.iter().find(|(name, ..)| same(name)).map(|(_, mode, dtype)| (*mode, *dtype));
        let ours = || word.parse::<MemoryMode>().ok().map(|mode| (mode, None));
        match other.or_else(ours) {
            Some((mode, dit_dtype)) => {
                let flags = MemoryFlags { mode: Some(mode), ..MemoryFlags::default() };
                Self { flags, dit_dtype, notes: Vec::new() }
            }
            None => {
                let words = MODES.iter().map(|m| m.0).chain(MemoryMode::ALL.map(MemoryMode::name));
                let note = format!("{place}={word} is ignored; known are {}", words.collect::<Vec<_>>().join(", "));
                Self { notes: vec![note], ..Self::default() }
            }
        }
    }

    /// The flags of a ComfyUI command line.
    ///
    /// # Errors
    /// Two flags of one exclusive group. Unknown words, and values that cannot be read, are notes.
    pub fn from_comfyui_args(text: &str) -> Result<Self, FlagConflict> {
        let mut found = Self::default();
        let mut mode_word: Option<&str> = None;
        // ComfyUI reads `--flag value` and `--flag=value`.
        let split = text.split_whitespace().flat_map(|word| word.splitn(2, '=').filter(|piece| !piece.is_empty()));
        let mut words = split.peekable();
        while let Some(word) = words.next() {
            let mut value = || words.next_if(|next| !next.starts_with("--"));
            if let Some((word, mode)) = COMFY_MODES.iter().find(|(name, _)| *name == word) {
                if let Some(first) = mode_word.filter(|first| first != word) {
                    let told = |word: &str| format!("{word} (COMFYUI_ARGS)");
                    return Err(FlagConflict { first: told(first), second: told(word) });
                }
                mode_word = Some(word);
                found.flags.mode = Some(*mode);
            } else if let Some((_, takes_value, why)) = NO_EFFECT.iter().find(|(name, ..)| *name == word) {
                let shown = if *takes_value { value().unwrap_or_default() } else { "" };
                found
                    .notes
                    .push(format!("{} in COMFYUI_ARGS has no effect: {why}", format!("{word} {shown}").trim_end()));
            } else {
                match word {
                    "--async-offload" => {
                        found.flags.async_offload = Some(true);
                        // Newer ComfyUI takes a number of streams.
                        words.next_if(|next| next.parse::<u32>().is_ok());
                    }
                    "--disable-async-offload" => found.flags.async_offload = Some(false),
                    "--disable-pinned-memory" => found.flags.pin_memory = Some(crate::PinMemory::Off),
                    "--cpu-vae" => found.flags.vae = Some(Place::Cpu),
                    "--cpu-text-encoder" => found.flags.text_encoder = Some(Place::Cpu),
                    "--force-fp16" => found.dit_dtype = Some("f16"),
                    "--reserve-vram" => {
                        let given = value().unwrap_or_default();
                        match given.parse::<f64>().ok().filter(|gib| gib.is_finite() && (0.0..1e9).contains(gib)) {
                            Some(gib) => found.flags.reserve_bytes = Some((gib * GIB as f64) as u64),
                            None => found.notes.push(format!(
                                "--reserve-vram {given:?} in COMFYUI_ARGS is ignored: expected a number of GiB"
                            )),
                        }
                    }
                    unknown => {
                        // What follows an unknown flag may be its value.
                        let shown = match (unknown.starts_with("--"), value()) {
                            (true, Some(value)) => format!("{unknown} {value}"),
                            _ => unknown.to_owned(),
                        };
                        found.notes.push(format!("{shown} in COMFYUI_ARGS is ignored: it means nothing here"));
                    }
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PinMemory;

    fn env(variables: &[(&str, &str)]) -> Result<Aliases, FlagConflict> {
        Aliases::from_env(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    fn comfy(text: &str) -> Aliases {
        Aliases::from_comfyui_args(text).unwrap()
    }

    #[test]
    fn words_for_modes_are_the_specified_table() {
        use MemoryMode::*;
        for (word, mode, dtype) in [
            ("model_full_load", Full, None),
            ("model_full_load_and_qfloat8", Full, Some("fp8")),
            ("model_cpu_offload", Stage, None),
            ("model_cpu_offload_and_qfloat8", Stage, Some("fp8")),
            ("sequential_cpu_offload", Stream, None),
            ("auto", Auto, None),
            ("Partial", Partial, None),
        ] {
            for variable in ["GPU_MEMORY_MODE", "VRAM_MODE"] {
                let found = env(&[(variable, word)]).unwrap();
                assert_eq!((found.flags.mode, found.dit_dtype), (Some(mode), dtype), "{variable}={word}");
                assert!(found.notes.is_empty());
            }
        }
        for (word, mode) in [
            ("--gpu-only", Full),
            ("--highvram", Full),
            ("--normalvram", Auto),
            ("--medvram", Partial),
            ("--lowvram", Stream),
            ("--novram", Minimal),
            ("--cpu", Cpu),
        ] {
            let found = comfy(word);
            let want = Aliases { flags: MemoryFlags { mode: Some(mode), ..Default::default() }, ..Default::default() };
            assert_eq!(found, want, "{word}");
        }
    }

    #[test]
    fn other_flags_of_comfyui_have_their_meaning_or_a_note() {
        let found = comfy("--lowvram --cpu-vae --force-fp16 --reserve-vram 1.5 --async-offload 2 --cpu-text-encoder");
        let want = MemoryFlags {
            mode: Some(MemoryMode::Stream),
            vae: Some(Place::Cpu),
            text_encoder: Some(Place::Cpu),
            reserve_bytes: Some(GIB * 3 / 2),
            async_offload: Some(true),
            ..MemoryFlags::default()
        };
        assert_eq!((found.flags, found.dit_dtype, found.notes), (want, Some("f16"), vec![]));
        assert_eq!(comfy("--reserve-vram=2").flags.reserve_bytes, Some(2 * GIB));
        assert_eq!(comfy("--disable-pinned-memory").flags.pin_memory, Some(PinMemory::Off));
        for (text, notes) in [
            ("--preview-method auto", 1),
            ("--preview-method taesd --preview-method", 2),
            ("--disable-xformers --use-split-cross-attention --cache-classic", 3),
            ("--listen 0.0.0.0 --port 8188 stray", 3),
            ("--reserve-vram", 1),
            ("--reserve-vram lots", 1),
            ("", 0),
        ] {
            let found = comfy(text);
            assert_eq!(found.notes.len(), notes, "{text}: {:?}", found.notes);
            assert!(found.notes.iter().all(|n| n.contains("COMFYUI_ARGS") && n.lines().count() == 1));
            assert_eq!(found.flags, MemoryFlags::default(), "{text}");
        }
    }

    #[test]
    fn two_of_one_exclusive_group_are_an_error() {
        let error = Aliases::from_comfyui_args("--lowvram --cpu-vae --novram").unwrap_err().to_string();
        assert!(error.contains("--lowvram") && error.contains("--novram") && error.contains("contradict"), "{error}");
        assert!(Aliases::from_comfyui_args("--lowvram --lowvram").is_ok());
    }

    #[test]
    fn classes_of_cards_suggest_and_command_lines_decide() {
        for (tier, mode) in [
            ("CONSUMER_8GB", MemoryMode::Stream),
            ("CONSUMER_12GB", MemoryMode::Partial),
            ("PROSUMER_24GB", MemoryMode::Stage),
            ("PROSUMER_48GB", MemoryMode::Full),
            ("DATACENTER_80GB", MemoryMode::Full),
        ] {
            let found = env(&[("GPU_TIER", tier)]).unwrap();
            assert_eq!((found.flags.suggested_mode, found.flags.mode), (Some(mode), None), "{tier}");
        }
        let unknown = env(&[("GPU_TIER", "TOASTER")]).unwrap();
        assert_eq!((unknown.flags, unknown.notes.len()), (MemoryFlags::default(), 1));

        let all = [("COMFYUI_ARGS", "--lowvram"), ("GPU_MEMORY_MODE", "full"), ("VRAM_MODE", "nonsense")];
        let found = env(&all).unwrap();
        assert_eq!((found.flags.mode, found.notes.len()), (Some(MemoryMode::Stream), 1));
        assert_eq!(env(&[("GPU_MEMORY_MODE", " ")]).unwrap(), Aliases::default());
    }
}
