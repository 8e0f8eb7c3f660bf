use weights::{Checkpoint, Format, WeightsError};

use super::support::file;

#[test]
fn a_folder_holds_one_checkpoint_or_names_its_choices() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let weights = file(&[("w", "F32", &[1], &[0; 4])], &[]);
    let said = |path: &std::path::Path| match Checkpoint::open(path) {
        Err(WeightsError::NotACheckpoint { found, .. }) => found,
        other => panic!("{other:?}"),
    };
    assert!(said(root).contains("without a .safetensors file"));

    let transformer = root.join("transformer");
    std::fs::create_dir(&transformer).unwrap();
    let index = |stem: &str| {
        let shard = format!("{stem}-00001-of-00001.safetensors");
        std::fs::write(transformer.join(&shard), &weights).unwrap();
        let text = format!("{{\"metadata\":{{}},\"weight_map\":{{\"w\":\"{shard}\"}}}}");
        std::fs::write(transformer.join(format!("{stem}.safetensors.index.json")), text).unwrap();
    };
    index("diffusion_pytorch_model");
    assert_eq!(Checkpoint::open(&transformer).unwrap().format(), Format::SafetensorsSharded);
    assert!(said(root).contains("(transformer); name one"));
    index("diffusion_pytorch_model.fp16");
    let choice = said(&transformer);
    assert!(
        choice.contains("diffusion_pytorch_model.fp16.safetensors.index.json, diffusion_pytorch_model.s"),
        "{choice}"
    );

    let single = root.join("vae");
    std::fs::create_dir(&single).unwrap();
    std::fs::write(single.join("diffusion_pytorch_model.safetensors"), &weights).unwrap();
    assert_eq!(Checkpoint::open(&single).unwrap().format(), Format::Safetensors);
    std::fs::copy(super::support::path("blocks.gguf"), single.join("b.gguf")).unwrap();
    assert!(said(&single).contains("diffusion_pytorch_model.safetensors, b.gguf"));
    std::fs::remove_file(single.join("diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(Checkpoint::open(&single).unwrap().format(), Format::Gguf);
}
