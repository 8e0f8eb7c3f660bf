//! Everything that can be asked of the planner, from whatever place it was asked.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::QualityProfile;

/// How much stays on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryMode {
    /// The fastest of the others that fits.
    Auto,
    /// All networks on the device at once, for all phases and the next run.
    Full,
    /// Each network whole on the device while its phase runs.
    Stage,
    /// As many of the blocks as fit; the others are streamed.
    Partial,
    /// Every block is streamed.
    Stream,
    /// Every matrix is streamed, activations in the smallest pieces.
    Minimal,
    /// Everything on the CPU; no GPU is touched.
    Cpu,
}

impl MemoryMode {
    /// All, the most memory first after `auto`.
    pub const ALL: [MemoryMode; 7] =
        [Self::Auto, Self::Full, Self::Stage, Self::Partial, Self::Stream, Self::Minimal, Self::Cpu];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Full => "full",
            Self::Stage => "stage",
            Self::Partial => "partial",
            Self::Stream => "stream",
            Self::Minimal => "minimal",
            Self::Cpu => "cpu",
        }
    }
}

impl std::fmt::Display for MemoryMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for MemoryMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|m| m.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| format!("memory mode {text:?} is unknown; expected one of {known}"))
    }
}

/// Where a phase computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The GPU, where there is one.
    Device,
    /// The processor.
    Cpu,
}

/// What becomes of weights that are not on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OffloadTo {
    /// They stay in RAM, after their phase too.
    Ram,
    /// They are read from the file each time.
    Disk,
    /// They are dropped after their phase; while it runs, whatever is fastest.
    Drop,
}

/// Whether pinned memory may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PinMemory {
    /// Where it helps and is within 60 % of what is available.
    Auto,
    /// Streamed weights are pinned, within the same bound, or the plan fails.
    On,
    /// Never.
    Off,
}

/// What happens when memory runs out on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnPressure {
    /// The run fails.
    Fail,
    /// The phase is planned anew with what there is.
    Replan,
    /// As `replan`, and the quality profile may step down.
    Degrade,
}

/// What was asked for; `None` leaves a thing to the plan.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryFlags {
    /// How much stays on the device.
    pub mode: Option<MemoryMode>,
    /// A mode that is taken where it fits, `auto` where it does not: what the name of a class of cards suggests.
    pub suggested_mode: Option<MemoryMode>,
    /// Where prompts are encoded.
    pub text_encoder: Option<Place>,
    /// Where pictures are encoded into tokens.
    pub clip: Option<Place>,
    /// Where the VAE computes.
    pub vae: Option<Place>,
    /// Where poses are found; on the CPU unless it is said.
    pub pose: Option<Place>,
    /// Left free on the device; [`RESERVE_BYTES`](crate::RESERVE_BYTES) of a real card.
    pub reserve_bytes: Option<u64>,
    /// At most this much of the device.
    pub device_budget_bytes: Option<u64>,
    /// At most this much of the host's memory.
    pub ram_budget_bytes: Option<u64>,
    /// Exactly so many of the transformer's blocks stay on the device.
    pub blocks_resident: Option<usize>,
    /// What becomes of weights that are not on the device.
    pub offload_to: Option<OffloadTo>,
    /// Whether the next block is copied while one computes; yes unless it is said.
    pub async_offload: Option<bool>,
    /// Whether pinned memory may be used.
    pub pin_memory: Option<PinMemory>,
    /// The profile that size, frames and steps were taken from. The planner changes nothing of the picture.
    pub quality_profile: Option<QualityProfile>,
    /// What happens when memory runs out on the way.
    pub on_pressure: Option<OnPressure>,
}

/// Flags that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{first} and {second} contradict each other; leave one out")]
pub struct FlagConflict {
    /// As it was given.
    pub first: String,
    /// As it was given.
    pub second: String,
}

impl MemoryFlags {
    /// These flags, and `lower`'s where these say nothing.
    #[must_use]
    pub fn or(self, lower: Self) -> Self {
        Self {
            mode: self.mode.or(lower.mode),
            suggested_mode: self.suggested_mode.or(lower.suggested_mode),
            text_encoder: self.text_encoder.or(lower.text_encoder),
            clip: self.clip.or(lower.clip),
            vae: self.vae.or(lower.vae),
            pose: self.pose.or(lower.pose),
            reserve_bytes: self.reserve_bytes.or(lower.reserve_bytes),
            device_budget_bytes: self.device_budget_bytes.or(lower.device_budget_bytes),
            ram_budget_bytes: self.ram_budget_bytes.or(lower.ram_budget_bytes),
            blocks_resident: self.blocks_resident.or(lower.blocks_resident),
            offload_to: self.offload_to.or(lower.offload_to),
            async_offload: self.async_offload.or(lower.async_offload),
            pin_memory: self.pin_memory.or(lower.pin_memory),
            quality_profile: self.quality_profile.or(lower.quality_profile),
            on_pressure: self.on_pressure.or(lower.on_pressure),
        }
    }

    /// Whether the flags can be followed together.
    ///
    /// # Errors
    /// Two of them that cannot.
    pub fn check(&self) -> Result<(), FlagConflict> {
        let conflict = |first: &str, second: String| Err(FlagConflict { first: first.to_owned(), second });
        let mode = |mode: MemoryMode| format!("--memory-mode {mode}");
        match self.mode {
            Some(m) if self.blocks_resident.is_some() && !matches!(m, MemoryMode::Auto | MemoryMode::Partial) => {
                return conflict("--blocks-resident", mode(m));
            }
            Some(MemoryMode::Cpu) => {
                let pairs = [
                    (self.text_encoder, "--gpu-text-encoder"),
                    (self.clip, "--gpu-clip"),
                    (self.vae, "--gpu-vae"),
                    (self.pose, "--gpu-pose"),
                ];
                if let Some((_, flag)) = pairs.iter().find(|(place, _)| *place == Some(Place::Device)) {
                    return conflict(flag, mode(MemoryMode::Cpu));
                }
            }
            _ => {}
        }
        match (self.pin_memory, self.offload_to) {
            (Some(PinMemory::On), Some(OffloadTo::Disk)) => conflict("--pin-memory on", "--offload-to disk".to_owned()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_flags_win_one_by_one() {
        let high = MemoryFlags { mode: Some(MemoryMode::Stream), vae: Some(Place::Cpu), ..MemoryFlags::default() };
        let low = MemoryFlags { mode: Some(MemoryMode::Full), reserve_bytes: Some(5), ..MemoryFlags::default() };
        let both = high.clone().or(low);
        assert_eq!((both.mode, both.vae, both.reserve_bytes), (Some(MemoryMode::Stream), Some(Place::Cpu), Some(5)));
        assert_eq!(high.clone().or(MemoryFlags::default()), high);
    }

    #[test]
    fn contradictions_are_one_line_that_names_both() {
        let flags = |change: &dyn Fn(&mut MemoryFlags)| {
            let mut flags = MemoryFlags::default();
            change(&mut flags);
            flags.check()
        };
        for (result, words) in [
            (
                flags(&|f| (f.mode, f.blocks_resident) = (Some(MemoryMode::Full), Some(3))),
                ["--blocks-resident", "full"],
            ),
            (flags(&|f| (f.mode, f.vae) = (Some(MemoryMode::Cpu), Some(Place::Device))), ["--gpu-vae", "cpu"]),
            (
                flags(&|f| (f.pin_memory, f.offload_to) = (Some(PinMemory::On), Some(OffloadTo::Disk))),
                ["--pin-memory on", "--offload-to disk"],
            ),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(words.iter().all(|w| error.contains(w)) && error.lines().count() == 1, "{error}");
        }
        assert!(flags(&|f| (f.mode, f.blocks_resident) = (Some(MemoryMode::Partial), Some(3))).is_ok());
    }

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in MemoryMode::ALL {
            assert_eq!(mode.name().to_uppercase().parse(), Ok(mode));
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
        }
        assert!("medium".parse::<MemoryMode>().unwrap_err().contains("partial"));
    }
}
