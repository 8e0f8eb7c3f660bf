//! `steadydance inspect`.

use std::fmt::Write;

use steadydance::Inspection;

use super::args::InspectArgs;
use super::failure::Failure;
use super::plan::bytes;
use super::terminal::{self, Terminal};

/// Says what a checkpoint is. Tensors are listed only when asked for: a large model has thousands.
///
/// # Errors
/// The file is missing, damaged or no checkpoint.
pub fn inspect(args: &InspectArgs, _terminal: Terminal) -> Result<(), Failure> {
    let found = steadydance::inspect(&args.file)?;
    if !args.json {
        return terminal::write_out(&text(&found, args.tensors));
    }
    let mut value = serde_json::to_value(&found).map_err(Failure::other)?;
    if let (false, Some(object)) = (args.tensors, value.as_object_mut()) {
        object.remove("tensors");
    }
    terminal::write_json(&value)
}

fn text(found: &Inspection, list: bool) -> String {
    let mut text = format!("{}\n{}, {} tensors, ", found.path.display(), found.format, found.tensors.len());
    let _ = writeln!(text, "{} elements, {}", found.elements, bytes(found.total_bytes));
    match &found.network {
        None => text += "network: none that is known\n",
        Some(network) => {
            let _ =
                writeln!(text, "network: {} ({}), {} parameters", network.label, network.component, network.parameters);
            let _ = writeln!(text, "fits: {}", network.deviations.as_deref().unwrap_or("yes, every tensor"));
        }
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
            metadata: [("note".to_owned(), "two\nlines".to_owned())].into(),
            tensors: vec![TensorRow { name: "w".into(), dtype: "BF16".into(), shape: vec![32, 32], bytes: 2048 }],
        };
        let short = text(&found, false);
        assert!(
            short.contains("BF16: 1 tensors, 1024 elements, 2.0 KiB") && short.contains("1 missing (b)"),
            "{short}"
        );
        assert!(short.contains(r#"metadata "note": "two\nlines""#) && !short.contains("[32, 32]"), "{short}");
        assert!(text(&found, true).contains("w [32, 32] BF16 2.0 KiB"));
    }
}
