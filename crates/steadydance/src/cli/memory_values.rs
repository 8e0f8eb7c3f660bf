//! Settings of memory and precision that have layers like all others (see [`values`](super::values)).

use clap::Args;
use serde::{Deserialize, Serialize};
use steadydance::convert::Form;
use steadydance::{HeldDType, MemoryFlags, MemoryMode, OffloadTo, OnPressure, PinMemory, Place, QualityProfile};

use super::values::{gibibytes, named};

/// The settings; what is not given is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryValues {
    /// Form of the transformer's matrices: f32, f16, bf16; of a plan without files also fp8, int8, q4_k_m … (convert --list)
    #[arg(long, value_name = "FORM", help_heading = "Memory", value_parser = form)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dit_dtype: Option<Form>,
    /// The same for the text encoder
    #[arg(long, value_name = "FORM", help_heading = "Memory", value_parser = form)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_dtype: Option<Form>,
    /// Arithmetic of the VAE on a GPU: f32 or bf16
    #[arg(long, value_name = "TYPE", help_heading = "Memory", value_parser = named::<HeldDType>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae_dtype: Option<HeldDType>,
    /// auto, full, stage, partial, stream, minimal or cpu: how much stays on the device; never changes the picture
    #[arg(long, value_name = "MODE", help_heading = "Memory", value_parser = named::<MemoryMode>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mode: Option<MemoryMode>,
    /// Memory of the GPU that may be used, in GiB; a plan pretends a card of that size
    #[arg(long, value_name = "GIB", help_heading = "Memory", value_parser = gibibytes)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vram_budget: Option<f64>,
    /// Memory of the host that may be used, in GiB [default: what is available]
    #[arg(long, value_name = "GIB", help_heading = "Memory", value_parser = gibibytes, visible_alias = "memory-budget")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram_budget: Option<f64>,
    /// Memory of the GPU that is left to other programs, in GiB [default: 0.5]
    #[arg(long, value_name = "GIB", help_heading = "Memory", value_parser = gibibytes_or_none)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve_vram: Option<f64>,
    /// Exactly so many of the transformer's blocks stay on the GPU
    #[arg(long, value_name = "N", help_heading = "Memory")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks_resident: Option<usize>,
    /// ram, disk or drop: what becomes of weights that are not on the GPU [default: drop, after their phase]
    #[arg(long, value_name = "WHERE", help_heading = "Memory", value_parser = named::<OffloadTo>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offload_to: Option<OffloadTo>,
    /// Copy the next block while one computes [default: true]
    #[arg(long, value_name = "BOOL", help_heading = "Memory", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub async_offload: Option<bool>,
    /// auto, on or off: pinned memory for copies, at most 60 % of what is available
    #[arg(long, value_name = "WHEN", help_heading = "Memory", value_parser = named::<PinMemory>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_memory: Option<PinMemory>,
    /// fail, replan or degrade: what happens when memory runs out on the way
    #[arg(long, value_name = "HOW", help_heading = "Memory", value_parser = named::<OnPressure>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_pressure: Option<OnPressure>,
    /// emergency, ultra-minimal, ultra-low, low, balanced, high or maximum: size, frames and steps by name; changes the picture
    #[arg(long, value_name = "NAME", help_heading = "Clip")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality_profile: Option<QualityProfile>,
    /// Where prompts are encoded: device or cpu
    #[arg(long, value_name = "WHERE", hide = true, value_parser = named::<Place>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_encoder_on: Option<Place>,
    /// Where pictures are encoded into tokens: device or cpu
    #[arg(long, value_name = "WHERE", hide = true, value_parser = named::<Place>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_on: Option<Place>,
    /// Where the VAE computes: device or cpu
    #[arg(long, value_name = "WHERE", hide = true, value_parser = named::<Place>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae_on: Option<Place>,
    /// Where poses are found: device or cpu
    #[arg(long, value_name = "WHERE", hide = true, value_parser = named::<Place>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pose_on: Option<Place>,
}

/// Switches that stand for values of [`MemoryValues`] on a command line.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Memory")]
pub struct MemorySwitches {
    /// Encode prompts on the CPU
    #[arg(long, conflicts_with_all = ["gpu_text_encoder", "text_encoder_on"])]
    cpu_text_encoder: bool,
    /// Encode pictures into tokens on the CPU
    #[arg(long, conflicts_with_all = ["gpu_clip", "clip_on"])]
    cpu_clip: bool,
    /// Run the VAE on the CPU
    #[arg(long, conflicts_with_all = ["gpu_vae", "vae_on"])]
    cpu_vae: bool,
    /// Find poses on the CPU [default]
    #[arg(long, conflicts_with_all = ["gpu_pose", "pose_on"])]
    cpu_pose: bool,
    /// Encode prompts on the GPU, come what may
    #[arg(long, conflicts_with = "text_encoder_on")]
    gpu_text_encoder: bool,
    /// Encode pictures into tokens on the GPU
    #[arg(long, conflicts_with = "clip_on")]
    gpu_clip: bool,
    /// Run the VAE on the GPU
    #[arg(long, conflicts_with = "vae_on")]
    gpu_vae: bool,
    /// Find poses on the GPU
    #[arg(long, conflicts_with = "pose_on")]
    gpu_pose: bool,
    /// Copy blocks only when they are needed
    #[arg(long, conflicts_with = "async_offload")]
    no_async_offload: bool,
}

impl MemorySwitches {
    /// The values with what the switches say.
    pub fn over(&self, values: &MemoryValues) -> MemoryValues {
        let place = |cpu, gpu, given: Option<Place>| match (cpu, gpu) {
            (true, _) => Some(Place::Cpu),
            (_, true) => Some(Place::Device),
            _ => given,
        };
        MemoryValues {
            text_encoder_on: place(self.cpu_text_encoder, self.gpu_text_encoder, values.text_encoder_on),
            clip_on: place(self.cpu_clip, self.gpu_clip, values.clip_on),
            vae_on: place(self.cpu_vae, self.gpu_vae, values.vae_on),
            pose_on: place(self.cpu_pose, self.gpu_pose, values.pose_on),
            async_offload: if self.no_async_offload { Some(false) } else { values.async_offload },
            ..values.clone()
        }
    }
}

impl MemoryValues {
    /// What the planner is asked.
    pub fn flags(&self) -> MemoryFlags {
        let bytes = |gib: f64| (gib * f64::from(1u32 << 30)) as u64;
        MemoryFlags {
            mode: self.memory_mode,
            suggested_mode: None,
            text_encoder: self.text_encoder_on,
            clip: self.clip_on,
            vae: self.vae_on,
            pose: self.pose_on,
            reserve_bytes: self.reserve_vram.map(bytes),
            device_budget_bytes: self.vram_budget.map(bytes),
            ram_budget_bytes: self.ram_budget.map(bytes),
            blocks_resident: self.blocks_resident,
            offload_to: self.offload_to,
            async_offload: self.async_offload,
            pin_memory: self.pin_memory,
            quality_profile: self.quality_profile,
            on_pressure: self.on_pressure,
        }
    }
}

/// A form by its name, or by what it is called elsewhere.
pub(super) fn form(text: &str) -> Result<Form, String> {
    let lower = text.to_lowercase();
    let name = match lower.as_str() {
        "fp32" => "f32",
        "fp16" => "f16",
        "fp8_e4m3fn" | "qfloat8" => "fp8",
        "fp8_e5m2" => "fp8-e5m2",
        "q3_k" | "q4_k" | "q5_k" => return format!("{lower}_m").parse().map_err(|e| format!("{e}")),
        other => other,
    };
    name.parse().map_err(|e| format!("{e}"))
}

fn gibibytes_or_none(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(0.0) => Ok(0.0),
        _ => gibibytes(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_have_the_names_of_other_programs_too() {
        for (spelt, name) in [("FP16", "f16"), ("q4_k", "q4_k_m"), ("fp8_e4m3fn", "fp8"), ("int8", "int8")] {
            assert_eq!(form(spelt).map(Form::name), Ok(name));
        }
        assert!(form("gguf").unwrap_err().contains("q4_k_m"));
    }

    #[test]
    fn switches_become_values_and_values_flags() {
        let switches = MemorySwitches { cpu_vae: true, gpu_pose: true, no_async_offload: true, ..Default::default() };
        let values = MemoryValues { vram_budget: Some(1.5), clip_on: Some(Place::Cpu), ..Default::default() };
        let flags = switches.over(&values).flags();
        assert_eq!((flags.vae, flags.pose, flags.clip), (Some(Place::Cpu), Some(Place::Device), Some(Place::Cpu)));
        assert_eq!((flags.async_offload, flags.device_budget_bytes), (Some(false), Some(3 << 29)));
        assert_eq!((flags.text_encoder, flags.mode), (None, None));
        assert_eq!(gibibytes_or_none("0"), Ok(0.0));
        assert!(gibibytes_or_none("-1").is_err());
    }
}
