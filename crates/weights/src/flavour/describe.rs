//! ComfyUI's descriptions of quantised layers.

use std::collections::BTreeMap;
use std::path::Path;

use kernels::quant::Encoding;
use serde_json::{Map, Value};

use crate::WeightsError;
use crate::error::visible;

/// The rotation's group where a description leaves it out.
const GROUP: u64 = 256;
/// A description takes seventy bytes.
pub(super) const MAX_BYTES: usize = 1 << 12;

/// What a description says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Description {
    /// A form that is read.
    Known { encoding: Encoding, rotation: Option<usize> },
    /// The name of one that is not.
    Other(String),
}

/// Reads one description, say `{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 256}`.
pub(super) fn parse(text: &[u8]) -> Option<Description> {
    // Tensors of text may be padded.
    let end = text.iter().rposition(|b| *b != 0)? + 1;
    from_map(&serde_json::from_slice(&text[..end]).ok()?)
}

fn from_map(map: &Map<String, Value>) -> Option<Description> {
    let format = map.get("format")?.as_str()?;
    let rotated = map.get("convrot").and_then(Value::as_bool).unwrap_or(false);
    let encoding = match format {
        "float8_e4m3fn" => Encoding::F8E4M3,
        "float8_e5m2" => Encoding::F8E5M2,
        "int8_tensorwise" => Encoding::I8,
        other => return Some(Description::Other(visible(other).chars().take(40).collect())),
    };
    let rotation = match rotated {
        false => None,
        true => {
            let group = map.get("convrot_groupsize").map_or(Some(GROUP), Value::as_u64)?;
            Some(usize::try_from(group).ok()?)
        }
    };
    Some(Description::Known { encoding, rotation })
}

/// The descriptions in headers, `{"layers": {NAME: {"format": …}}}`, by the names of their layers.
pub(super) fn from_headers(path: &Path, texts: &[String]) -> Result<BTreeMap<String, Description>, WeightsError> {
    let damaged = |what: &str| {
        let problem = format!("{} in its header is not the JSON of descriptions: {what}", super::METADATA);
        WeightsError::damaged(path, problem)
    };
    let mut all = BTreeMap::new();
    for text in texts {
        let value: Value = serde_json::from_str(text).map_err(|e| damaged(&e.to_string()))?;
        let Some(layers) = value.get("layers").and_then(Value::as_object) else { return Err(damaged("no layers")) };
        for (name, layer) in layers {
            let Some(description) = layer.as_object().and_then(from_map) else {
                return Err(damaged(&format!("layer {name} has no format")));
            };
            all.insert(name.clone(), description);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_say_the_form_and_the_rotation() {
        let known = |encoding, rotation| Some(Description::Known { encoding, rotation });
        let cases: [(&[u8], _); 7] = [
            (b"{\"format\":\"float8_e4m3fn\",\"full_precision_matrix_mult\":true}\0\0", known(Encoding::F8E4M3, None)),
            (b"{\"format\":\"float8_e5m2\"}", known(Encoding::F8E5M2, None)),
            (b"{\"format\":\"int8_tensorwise\",\"convrot\":true}", known(Encoding::I8, Some(256))),
            (
                b"{\"format\":\"int8_tensorwise\",\"convrot\":true,\"convrot_groupsize\":64}",
                known(Encoding::I8, Some(64)),
            ),
            (b"{\"format\":\"nvfp4\"}", Some(Description::Other("nvfp4".into()))),
            (b"{\"convrot\":true}", None),
            (b"", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text), want, "{}", String::from_utf8_lossy(text));
        }
    }
}
