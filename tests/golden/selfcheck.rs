//! The runner itself: a wrong case must fail, and must say where.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use testkit::Case;

use crate::{run_file, told};

/// A golden case of this component that has these outputs, if there is one here.
fn golden(component: &str, outputs: &[&str]) -> Option<PathBuf> {
    let has_all = |case: &Case| outputs.iter().all(|name| case.outputs.contains_key(*name));
    let case = testkit::golden_cases(component).into_iter().find(has_all);
    if case.is_none() {
        println!("no golden case of {component} with {outputs:?} here");
    }
    case.map(|case| case.path)
}

/// Writes the case at `from` with the fourth value of each of `outputs` changed.
fn altered(from: &Path, to: &Path, outputs: &[&str]) {
    let bytes = std::fs::read(from).expect("a golden case");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("its header");
    let metadata = header.metadata().clone();
    let file = SafeTensors::deserialize(&bytes).expect("its tensors");
    let mut data: HashMap<String, Vec<u8>> =
        file.iter().map(|(n, view)| (n.to_owned(), view.data().to_vec())).collect();
    for name in outputs.iter().map(|name| format!("outputs.{name}")) {
        assert_eq!(file.tensor(&name).expect("an output").dtype(), safetensors::Dtype::F32);
        let value: &mut [u8; 4] = data.get_mut(&name).and_then(|d| d[12..16].as_mut_array()).expect("four values");
        *value = (f32::from_le_bytes(*value) + 1.0).to_le_bytes();
    }
    let views = file.iter().map(|(name, view)| {
        let changed = TensorView::new(view.dtype(), view.shape().to_vec(), &data[name]).expect("a view");
        (name.to_owned(), changed)
    });
    safetensors::serialize_to_file(views, metadata, to).expect("the altered case is written");
}

#[test]
fn a_wrong_output_fails_and_the_first_one_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let stages = [
        ("text_encoder.umt5", "hidden", "hidden"),
        ("dit.steadydancer", "stage.block_1", "stage.block_1"),
        ("dit.wan_t2v", "velocity", "velocity"),
        ("vae.diffusers", "latent_mean", "latent_mean"),
        ("scheduler.unipc", "latents_per_step", "latents_per_step[0]"),
        ("scheduler.dpm++", "timesteps", "timesteps"),
        ("pose.negative", "body", "body"),
        ("pose.aligned", "visible", "visible"),
        ("preprocess.image", "bicubic_1", "bicubic_1"),
    ];
    for (component, output, named) in stages {
        let Some(from) = golden(component, &[output]) else { continue };
        let wrong = folder.path().join("wrong.safetensors");
        altered(&from, &wrong, &[output]);
        let (found, outcome) = run_file(&wrong);
        assert_eq!(found, component);
        let error = told(&outcome.expect_err(component));
        assert!(error.starts_with(&format!("first wrong stage: {named} differs")), "{component}: {error}");
        assert!(error.contains("ours") && error.contains("reference"), "{component}: {error}");
    }
    // Two wrong ones: the earlier is named, though its name sorts after the other's.
    let two = ["stage.block_0", "stage.text_embedding"];
    if let Some(from) = golden("dit.steadydancer", &two) {
        let wrong = folder.path().join("two.safetensors");
        altered(&from, &wrong, &two);
        let error = told(&run_file(&wrong).1.expect_err("two stages are wrong"));
        assert!(error.starts_with("first wrong stage: stage.text_embedding differs"), "{error}");
    }
}

#[test]
fn an_unknown_component_fails_and_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("case.safetensors");
    let text = |pairs: &[(&str, &str)]| Some(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect());
    let write = |metadata: Option<HashMap<String, String>>| {
        let none: [(&str, TensorView<'_>); 0] = [];
        safetensors::serialize_to_file(none, metadata, &path).expect("a case is written");
        told(&run_file(&path).1.expect_err("no such component"))
    };
    let rest = [("config", "{}"), ("tolerance", "1e-5")];
    let error = write(text(&[("component", "dit.unheard_of"), rest[0], rest[1]]));
    assert_eq!(error, "unknown component \"dit.unheard_of\"");
    assert!(write(text(&rest)).contains("component"));
    // Under the name of another component a case is run as that one, and fails.
    assert!(write(text(&[("component", "vae.wan21"), rest[0], rest[1]])).contains("missing"));
}

#[test]
fn the_file_name_does_not_matter() {
    let Some(from) = golden("scheduler.dpm++", &[]) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("vae_wan21.safetensors");
    std::fs::copy(from, &path).expect("a copy");
    let (component, outcome) = run_file(&path);
    assert_eq!(component, "scheduler.dpm++");
    outcome.expect("the case is as it was");
}
