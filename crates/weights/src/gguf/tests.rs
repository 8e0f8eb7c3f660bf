//! Files made to harm.

use std::path::Path;

use bytes::Bytes;

use crate::{Checkpoint, Format, WeightsError};

fn word(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A key with a value of a kind.
fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [word(name), kind.to_le_bytes().to_vec(), value.to_vec()].concat()
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
    let rank = (dims.len() as u32).to_le_bytes();
    [word(name), rank.to_vec(), dims_bytes, kind.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()].concat()
}

fn file(keys: &[Vec<u8>], tensors: &[Vec<u8>], data: &[u8]) -> Vec<u8> {
    let counts = [(tensors.len() as u64).to_le_bytes(), (keys.len() as u64).to_le_bytes()].concat();
    let mut out = [b"GGUF".to_vec(), 3u32.to_le_bytes().to_vec(), counts, keys.concat(), tensors.concat()].concat();
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}

fn problem(bytes: Vec<u8>) -> String {
    match super::read(Path::new("m.gguf"), &Bytes::from(bytes)) {
        Err(error @ (WeightsError::Damaged { .. } | WeightsError::DType { .. })) => error.to_string(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("read"),
    }
}

#[test]
fn five_dimensions_reversed_and_noted_shapes() {
    let i32s = |values: &[i32]| {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        [&5u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &raw].concat()
    };
    let keys = [
        key("general.architecture", 8, &word("wan")),
        key("general.file_type", 4, &7u32.to_le_bytes()),
        key("comfy.gguf.orig_shape.b", 9, &i32s(&[2, 2, 4])),
    ];
    let tensors = [tensor("a", &[2, 2, 1, 3, 2], 0, 0), tensor("b", &[16], 1, 96)];
    let bytes = file(&keys, &tensors, &[0; 128]);
    let checkpoint = Checkpoint::from_bytes("m.gguf", bytes).unwrap();
    assert_eq!(checkpoint.format(), Format::Gguf);
    assert_eq!(checkpoint.shape("a"), Some([2, 3, 1, 2, 2].as_slice()));
    assert_eq!(checkpoint.shape("b"), Some([2, 2, 4].as_slice()));
    assert_eq!(checkpoint.metadata()["general.architecture"], "wan");
    assert_eq!(checkpoint.metadata()["general.file_type"], "7");
    assert!(checkpoint.load("a", &[6, 1, 2, 2], None, &candle_core::Device::Cpu).is_err());
    assert!(checkpoint.entry("b").unwrap().fits(&[2, 2, 2, 2]));
}

#[test]
fn contradictions_are_named() {
    let name = problem(file(&[], &[tensor("a\nb", &[1], 99, 0)], &[0; 4]));
    assert!(name.contains(r"tensor a\nb has control characters"), "{name}");
    let one = |tensor: Vec<u8>, data: usize| problem(file(&[], &[tensor], &vec![0; data]));
    assert!(one(tensor("w", &[8], 0, 0), 31).contains("tensor w ends at byte 96 of a file of 95"));
    assert!(one(tensor("w", &[8], 0, u64::MAX), 32).contains("ends at byte"));
    assert!(one(tensor("w", &[u64::MAX, u64::MAX], 0, 0), 32).contains("impossible shape"));
    assert!(one(tensor("w", &[0, 1 << 62], 0, 0), 32).contains("impossible shape"));
    assert!(one(tensor("w", &[33], 8, 0), 64).contains("no whole blocks of Q8_0"));
    assert!(one(tensor("w", &[1; 9], 0, 0), 32).contains("9 dimensions"));
    assert!(one(tensor("w", &[256], 16, 0), 66).contains("tensor w is stored as GGUF's IQ2_XXS"));
    assert!(one(tensor("w", &[256], 99, 0), 66).contains("type number 99"));
    let twice = [tensor("w", &[8], 0, 0), tensor("w", &[8], 0, 32)];
    assert!(problem(file(&[], &twice, &[0; 64])).contains("w stands in it twice"));
    let over = [tensor("v", &[8], 0, 32), tensor("w", &[8], 0, 0), tensor("x", &[8], 0, 33)];
    assert!(problem(file(&[], &over, &[0; 96])).contains("v and x overlap"));

    let keys = |keys: &[Vec<u8>]| problem(file(keys, &[], &[]));
    assert!(keys(&[key("a", 0, &[1]), key("a", 0, &[1])]).contains("key a stands in it twice"));
    assert!(keys(&[key("a", 77, &[1])]).contains("key a: a value of the unknown type 77"));
    for bad in [0u32, 3, 1 << 30] {
        assert!(keys(&[key("general.alignment", 4, &bad.to_le_bytes())]).contains("alignment"), "{bad}");
    }
    let mut nested = Vec::new();
    for _ in 0..100 {
        nested.extend([&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat());
    }
    assert!(keys(&[key("a", 9, &nested)]).contains("deep"));
    let many = [&4u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    assert!(keys(&[key("a", 9, &many)]).contains("it asks for"));
    let shaped = [5u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec(), 9i32.to_le_bytes().to_vec()].concat();
    let wrong = file(&[key("comfy.gguf.orig_shape.w", 9, &shaped)], &[tensor("w", &[8], 0, 0)], &[0; 32]);
    assert!(problem(wrong).contains("is said to have been [9]"));
}

#[test]
fn heads_that_end_early_or_count_too_much() {
    let whole = file(&[key("a", 8, &word("wan"))], &[tensor("w", &[8], 0, 0)], &[0; 32]);
    assert!(super::read(Path::new("m"), &Bytes::from(whole.clone())).is_ok());
    for length in 4..whole.len() {
        problem(whole[..length].to_vec());
    }
    for at in [8, 16] {
        let mut counts = whole.clone();
        counts[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        problem(counts);
    }
    for (version, says) in [(1u32, "version 1"), (4, "version 4"), (3 << 24, "big-endian")] {
        let mut other = whole.clone();
        other[4..8].copy_from_slice(&version.to_le_bytes());
        assert!(problem(other).contains(says));
    }
}
