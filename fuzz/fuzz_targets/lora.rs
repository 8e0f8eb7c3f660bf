//! The keys of LoRA files: lines of the input are names, the last byte of each chooses its tensor's shape.
#![no_main]

use std::collections::BTreeMap;

use weights::lora::LoraFile;

const SHAPES: [&str; 6] = ["[]", "[4]", "[2,2]", "[1,4]", "[4,1]", "[2,1,1,1,2]"];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let shape = |name: &str| SHAPES[name.bytes().last().map_or(0, usize::from) % SHAPES.len()];
    let names: BTreeMap<&str, &str> = text.lines().map(|name| (name, shape(name))).collect();
    let mut at = 0;
    let mut tensors = Vec::new();
    for (name, shape) in names {
        let end = at + if shape == "[]" { 4 } else { 16 };
        let name = serde_json::Value::from(name);
        tensors.push(format!("{name}:{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{at},{end}]}}"));
        at = end;
    }
    let header = format!("{{{}}}", tensors.join(","));
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; at]].concat();
    if let Some(checkpoint) = fuzz::open(b"", &file) {
        match LoraFile::read(checkpoint) {
            Ok(lora) => drop(lora.summary()),
            Err(error) => fuzz::one_line(error),
        }
    }
});
