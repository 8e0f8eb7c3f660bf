//! `steadydance inspect`.

use std::fmt::Write;

use steadydance::{Inspection, LoraFit, LoraModel, LoraSummary, Part};

use super::args::InspectArgs;
use super::failure::Failure;
use super::plan::bytes;
use super::request::{Model, find_model};
use super::target;
use super::terminal::{self, Terminal};

/// Says what a checkpoint is. Tensors are listed only when asked for: a large model has thousands.
///
/// # Errors
/// The file is missing, damaged or no checkpoint; or a model is named and it is no LoRA for it.
pub fn inspect(args: &InspectArgs, terminal: Terminal) -> Result<(), Failure> {
    if let Some(other) = &args.compare {
        return super::compare::compare(args, other, terminal);
    }
    let found = steadydance::inspect(&args.file)?;
    let fit = match (&args.model, &found.lora) {
        (None, _) => None,
        (Some(model), Some(_)) => Some(steadydance::inspect_lora(&args.file, &lora_model(model)?)?),
        // The refusal itself, not that it is none.
        (Some(model), None) if found.lora_refused.is_some() => {
            Some(steadydance::inspect_lora(&args.file, &lora_model(model)?)?)
        }
        (Some(_), None) => {
            let file = args.file.display();
            return Err(Failure::usage(format!("{file} is no LoRA; --model is for LoRAs, leave it out")));
        }
    };
    if !args.json {
        return terminal::write_out(&text(&found, fit.as_ref(), args.tensors));
    }
    let mut value = serde_json::to_value(&found).map_err(Failure::other)?;
    if let (false, Some(object)) = (args.tensors, value.as_object_mut()) {
        object.remove("tensors");
    }
    if let (Some(fit), Some(object)) = (fit, value.as_object_mut()) {
        object.insert("fit".to_owned(), serde_json::to_value(fit).map_err(Failure::other)?);
    }
    terminal::write_json(&value)
}

/// # Errors
/// A model of the user's own that is not here: its shapes are not known.
fn lora_model(name: &str) -> Result<LoraModel, Failure> {
    Ok(match find_model(name) {
        Model::Demo => LoraModel::Demo,
        Model::Known(known) if known.is_built_in() => LoraModel::Published(known.name),
        Model::Known(known) => {
            let file = target::known_file(&known.name, Part::Transformer, "--model")?;
            LoraModel::Path(file.unwrap_or_else(|| known.name.into()))
        }
        Model::Path(path) => LoraModel::Path(path),
    })
}

fn text(found: &Inspection, fit: Option<&LoraFit>, list: bool) -> String {
    let mut text = format!("{}\n{}, {} tensors, ", found.path.display(), found.format, found.tensors.len());
    let _ = writeln!(text, "{} elements, {}", found.elements, bytes(found.total_bytes));
    match &found.network {
        None if found.lora.is_some() => {}
        None => text += "network: none that is known\n",
        Some(network) => {
            let _ =
                writeln!(text, "network: {} ({}), {} parameters", network.label, network.component, network.parameters);
            let _ = writeln!(text, "fits: {}", network.deviations.as_deref().unwrap_or("yes, every tensor"));
        }
    }
    if let Some(lora) = &found.lora {
        text += &lora_text(lora, fit);
    }
    if let Some(reason) = &found.lora_refused {
        let _ = writeln!(text, "LoRA: cannot be used: {reason}");
    }
    for (dtype, share) in &found.dtypes {
        let _ =
            writeln!(text, "{dtype}: {} tensors, {} elements, {}", share.tensors, share.elements, bytes(share.bytes));
    }
    for (key, value) in &found.metadata {
        let _ = writeln!(text, "metadata {key:?}: {value:?}");
    }
    for t in found.tensors.iter().filter(|_| list) {
        let _ = writeln!(text, "{} {:?} {} {}", t.name, t.shape, t.dtype, bytes(t.bytes));
    }
    text
}

fn lora_text(lora: &LoraSummary, fit: Option<&LoraFit>) -> String {
    let LoraSummary { dialect, pairs, differences, ranks, scales, with_alpha, .. } = lora;
    let numbers = |list: Vec<String>| if list.is_empty() { "-".to_owned() } else { list.join(", ") };
    let ranks = numbers(ranks.iter().map(ToString::to_string).collect());
    let scales = numbers(scales.iter().map(ToString::to_string).collect());
    let mut text = format!("LoRA: {dialect}; {pairs} low-rank pairs, {differences} whole differences\n");
    let _ = writeln!(text, "rank: {ranks}; scale: {scales} ({with_alpha} pairs have an alpha)");
    match fit {
        None => text += "fits: not known; name its model with --model\n",
        Some(fit) => {
            let _ = writeln!(text, "fits: {}, changes {} of its tensors", fit.network, fit.targets);
            for warning in fit.warnings() {
                let _ = writeln!(text, "not applied: {warning}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadydance::{DTypeShare, NetworkMatch, TensorRow};

    #[test]
    fn tensors_are_listed_on_request_only() {
        let found = Inspection {
            path: "a.safetensors".into(),
            format: "safetensors".into(),
            total_bytes: 2048,
            elements: 1024,
            dtypes: [("BF16".to_owned(), DTypeShare { tensors: 1, elements: 1024, bytes: 2048 })].into(),
            network: Some(NetworkMatch {
                component: "dit".into(),
                label: "Tiny".into(),
                parameters: 1024,
                config: serde_json::json!({}),
                deviations: Some("1 missing (b)".into()),
            }),
            lora: None,
            lora_refused: None,
            metadata: [("note".to_owned(), "two\nlines".to_owned())].into(),
            tensors: vec![TensorRow { name: "w".into(), dtype: "BF16".into(), shape: vec![32, 32], bytes: 2048 }],
        };
        let short = text(&found, None, false);
        assert!(
            short.contains("BF16: 1 tensors, 1024 elements, 2.0 KiB") && short.contains("1 missing (b)"),
            "{short}"
        );
        assert!(short.contains(r#"metadata "note": "two\nlines""#) && !short.contains("[32, 32]"), "{short}");
        assert!(text(&found, None, true).contains("w [32, 32] BF16 2.0 KiB"));
    }
}
