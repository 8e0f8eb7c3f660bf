//! Sizes of published files agree with the networks that they hold.

use models::{KnownModel, Part, known_models};

/// Bytes of a model's own transformer, if all are known.
fn transformer_bytes(m: &KnownModel) -> Option<u64> {
    let own = m.files.iter().filter(|f| f.of.is_none() && matches!(f.part, Part::Transformer | Part::TransformerShard));
    let weights: Vec<_> = own.filter(|f| !f.path.ends_with(".json")).map(|f| f.size_bytes).collect();
    (!weights.is_empty()).then(|| weights.into_iter().sum::<Option<u64>>()).flatten()
}

#[test]
fn a_file_holds_its_parameters_and_little_else() {
    let mut compared = 0;
    for m in known_models() {
        let width = match m.format.as_str() {
            "f32" => 4,
            "fp16" | "bf16" => 2,
            _ => continue,
        };
        if let (Some(parameters), Some(bytes)) = (m.parameters, transformer_bytes(&m)) {
            let weights = parameters * width;
            // Headers, and a few tensors that are kept in f32.
            assert!(
                (weights..weights + weights / 1000).contains(&bytes),
                "{}: {bytes} B, {weights} B of weights",
                m.name
            );
            compared += 1;
        }
    }
    assert!(compared >= 6, "{compared}");
}

#[test]
fn what_is_held_is_near_what_is_stored() {
    for m in known_models() {
        let own: Vec<_> = m.files.iter().filter(|f| f.of.is_none() && !f.path.ends_with(".json")).collect();
        if let ([file], Some(held)) = (own.as_slice(), m.held_gb)
            && let Some(stored) = file.size_bytes.map(|b| b as f64 / 1e9).or(file.about_gb)
        {
            let ratio = stored / held;
            // Official files are f32 and held as bf16, 16-bit VAEs are held as f32, CLIP's file has a text tower too.
            assert!((0.49..4.0).contains(&ratio), "{}: {stored} GB stored, {held} GB held", m.name);
        }
    }
}
