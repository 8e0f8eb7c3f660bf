//! Tensor counts and parameter counts of every published size (spec wan_components §4.1, steadydancer §8).

use dit::{Config, manifest};

#[test]
fn every_published_size_has_its_parameters() {
    let table = [
        (Config::wan_t2v_1_3b(), 825, 1_418_996_800),
        (Config::wan_t2v_14b(), 1095, 14_288_491_584),
        (Config::wan_i2v_14b(), 1303, 16_394_878_784),
        (Config::wan_flf2v_14b(), 1304, 16_395_536_704),
        (Config::wan_vace_1_3b(), 1264, 2_153_972_032),
        (Config::wan_vace_14b(), 1331, 17_337_592_896),
        (Config::steadydancer_14b(), 1345, 16_396_718_736),
    ];
    for (config, tensors, parameters) in table {
        let manifest = manifest(&config).unwrap();
        assert_eq!(manifest.tensors().len(), tensors, "{}", config.label());
        assert_eq!(manifest.parameters(), parameters, "{}", config.label());
    }
}

#[test]
fn sizes_are_read_off_the_shapes() {
    for config in [
        Config::wan_t2v_1_3b(),
        Config::wan_i2v_14b(),
        Config::wan_flf2v_14b(),
        Config::wan_vace_1_3b(),
        Config::wan_vace_14b(),
        Config::steadydancer_14b(),
    ] {
        let manifest = manifest(&config).unwrap();
        let detected = Config::detect(|name| manifest.get(name).map(|t| t.shape.as_slice())).unwrap();
        assert_eq!(detected, config);
    }
    assert_eq!(Config::detect(|_| None), None);
}

#[test]
fn impossible_sizes_are_errors() {
    let config = Config { num_heads: 0, ..Config::tiny() };
    assert!(manifest(&config).is_err());
    let config = Config { num_heads: 3, ..Config::tiny() };
    assert!(manifest(&config).is_err());
}
