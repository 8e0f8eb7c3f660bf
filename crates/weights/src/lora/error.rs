use std::path::PathBuf;

use crate::WeightsError;

/// Why a LoRA cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// The file itself is missing or damaged.
    #[error(transparent)]
    File(#[from] WeightsError),
    /// No tensor of the file is one of a LoRA's.
    #[error(
        "{path} is no LoRA: none of its {count} tensors{} is named as a low-rank pair (lora_down/lora_up, lora_A/lora_B) or a difference (.diff, .diff_b, .diff_m)",
        such_as(first)
    )]
    NotALora {
        /// The file.
        path: PathBuf,
        /// Its tensors.
        count: usize,
        /// The first of them.
        first: Option<String>,
    },
    /// A relative of LoRA that is not a plain difference.
    #[error(
        "{path} is a {kind} ({key}); only low-rank pairs and whole differences can be applied, get the file in such a form"
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// A tensor that shows it.
        key: String,
    },
    /// Something about one tensor or pair is wrong.
    #[error("{path} is damaged: {problem}; download or copy it again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which tensor, and what is wrong.
        problem: String,
    },
    /// Differences whose shapes are not those of the weights.
    #[error(
        "{path} does not fit {network}: {count} of its differences have another shape ({list}); it was made for another model"
    )]
    Shapes {
        /// The file.
        path: PathBuf,
        /// The network.
        network: String,
        /// How many.
        count: usize,
        /// The first ten, with both shapes.
        list: String,
    },
    /// Not one key names a weight of the network.
    #[error(
        "{path} does not fit {network}: none of its {count} keys names one of its weights (say {list}); it was made for another model"
    )]
    NothingMatches {
        /// The file.
        path: PathBuf,
        /// The network.
        network: String,
        /// Keys of the file.
        count: usize,
        /// The first three.
        list: String,
    },
}

fn such_as(first: &Option<String>) -> String {
    first.as_ref().map(|name| format!(" (say {name})")).unwrap_or_default()
}
