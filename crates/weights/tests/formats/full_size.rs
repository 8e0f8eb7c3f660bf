//! SteadyDancer-14B's fp8 file at its full size, all zeros that take no room on the disk.

use std::io::Write;
use std::time::Instant;

use kernels::quant::{Encoding, Scales};
use weights::{Checkpoint, Flavour};

#[test]
fn a_file_of_16_gigabytes_is_opened_without_being_read() {
    let (dim, inner) = (5120usize, 13824usize);
    let mut header = serde_json::Map::new();
    let mut at = 0usize;
    let mut add = |name: String, dtype: &str, shape: &[usize], bytes: usize| {
        let info = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes] });
        at += bytes;
        header.insert(name, info);
    };
    for block in 0..40 {
        for (layer, rows, columns) in [("q", dim, dim), ("k", dim, dim), ("v", dim, dim), ("o", dim, dim)]
            .into_iter()
            .flat_map(|(l, r, c)| [(format!("self_attn.{l}"), r, c), (format!("cross_attn.{l}"), r, c)])
            .chain(["k_img", "v_img"].map(|l| (format!("cross_attn.{l}"), dim, dim)))
            .chain([("ffn.0".into(), inner, dim), ("ffn.2".into(), dim, inner)])
        {
            let name = format!("model.diffusion_model.blocks.{block}.{layer}");
            add(format!("{name}.weight"), "F8_E4M3", &[rows, columns], rows * columns);
            add(format!("{name}.scale_weight"), "F32", &[], 4);
            add(format!("{name}.bias"), "BF16", &[rows], 2 * rows);
        }
    }
    add("scaled_fp8".into(), "F8_E4M3", &[0], 0);
    let header = serde_json::Value::Object(header).to_string();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + at) as u64).unwrap();

    let start = Instant::now();
    let checkpoint = Checkpoint::open(&path).unwrap();
    println!("{} bytes opened in {:?}", checkpoint.stored_bytes(), start.elapsed());
    assert_eq!((checkpoint.flavour(), checkpoint.entries().len()), (Flavour::ScaleWeight, 960));
    assert_eq!(checkpoint.stored_bytes(), at as u64);
    let name = "model.diffusion_model.blocks.39.ffn.2.weight";
    for from in ["the disk", "the page cache"] {
        let start = Instant::now();
        let matrix = checkpoint.matrix(name, &[dim, inner]).unwrap().unwrap();
        println!("{} bytes taken from {from} in {:?}", matrix.stored_bytes(), start.elapsed());
    }
    let matrix = checkpoint.matrix(name, &[dim, inner]).unwrap().unwrap();
    assert_eq!((matrix.encoding(), matrix.scales()), (Encoding::F8E4M3, &Scales::Matrix(0.0)));
}
