//! Every spelling gives the same weights as in PyTorch, to the bit.

use weights::Checkpoint;
use weights::lora::{Dialect, LoraFile};

use crate::support::{NAMES, base, bits, fixture, manifest_of, merged, read};

#[test]
fn every_dialect_makes_the_weights_that_torch_makes() {
    let cases = [
        ("comfyui.safetensors", Dialect::ComfyUi),
        ("lightx2v.safetensors", Dialect::LightX2v),
        ("diffusers.safetensors", Dialect::Diffusers),
        ("adapter.safetensors", Dialect::Plain),
        ("peft.pth", Dialect::Peft),
        ("kohya.safetensors", Dialect::Kohya),
        ("kohya_int.safetensors", Dialect::Kohya),
        ("kohya_diffusers.safetensors", Dialect::Kohya),
        ("diffsynth.safetensors", Dialect::DiffSynth),
        ("old_diffusers.safetensors", Dialect::Plain),
        ("linear_layer.safetensors", Dialect::Plain),
        ("lorahyphen.safetensors", Dialect::LoraHyphen),
        ("differences.safetensors", Dialect::ComfyUi),
    ];
    let manifest = manifest_of(&base());
    for (name, dialect) in cases {
        let lora = LoraFile::open(&fixture(name)).unwrap();
        assert_eq!(lora.summary().dialect, dialect, "{name}");
        let fitted = lora.fit(&manifest, &NAMES, "the test network").unwrap();
        assert_eq!(*fitted.leftovers(), Default::default(), "{name}");
        let stem = name.split('.').next().unwrap();
        let expected = Checkpoint::open(fixture(&format!("{stem}.expected.safetensors"))).unwrap();
        assert!(fitted.targets().eq(expected.entries().map(|e| e.name.as_str())), "{name}");

        let (plain, changed) = (merged(vec![]), merged(vec![(fitted, 1.0)]));
        for entry in base().entries() {
            let found = read(&changed, &entry.name, None);
            let Some(want) = expected.entry(&entry.name) else {
                assert_eq!(found, read(&plain, &entry.name, None), "{name}: {}", entry.name);
                continue;
            };
            let want = expected.load(&want.name, &want.shape, None, &candle_core::Device::Cpu).unwrap();
            assert_eq!(found, (want.dtype(), bits(&want)), "{name}: {}", entry.name);
            assert_ne!(found, read(&plain, &entry.name, None), "{name}: {} is not changed", entry.name);
        }
    }
}

#[test]
fn a_summary_tells_ranks_alphas_and_differences() {
    let summary = |name: &str| LoraFile::open(&fixture(name)).unwrap().summary();
    let kohya = summary("kohya.safetensors");
    assert_eq!((kohya.pairs, kohya.with_alpha, kohya.differences), (6, 6, 0));
    assert_eq!((kohya.ranks.into_iter().collect::<Vec<_>>(), kohya.scales), (vec![4], vec![0.5]));
    assert_eq!(summary("kohya_int.safetensors").scales, [2.0]);
    let lightx2v = summary("lightx2v.safetensors");
    assert_eq!((lightx2v.pairs, lightx2v.with_alpha, lightx2v.differences, lightx2v.scales), (7, 0, 11, vec![1.0]));
    assert_eq!(summary("lorahyphen.safetensors").scales, [0.5, 1.0]);
}
