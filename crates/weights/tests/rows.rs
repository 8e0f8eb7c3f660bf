//! A few rows of a large table take the memory of a few rows. Alone in its binary, because it counts what is allocated.

use std::alloc::System;
use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use cap::Cap;
use weights::{Checkpoint, Resident, WeightSource, save_safetensors};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

#[test]
fn a_table_is_not_read_whole() {
    const SHAPE: (usize, usize) = (40_000, 64);
    let path = std::env::temp_dir().join(format!("rows-{}.safetensors", std::process::id()));
    let table = (Tensor::arange(0f32, (SHAPE.0 * SHAPE.1) as f32, &Device::Cpu).unwrap() / 1e3).unwrap();
    let table = table.reshape(SHAPE).unwrap();
    save_safetensors(&path, &BTreeMap::from([("table".to_owned(), table.clone())]), &BTreeMap::new()).unwrap();
    let opened = Checkpoint::open(&path).unwrap();
    // The map keeps the bytes; the name can go.
    let _ = std::fs::remove_file(&path);
    let ids: Vec<u32> = (0..300).map(|i| i * 131).collect();
    for dtype in [None, Some(DType::BF16)] {
        let source = Resident::from_checkpoint(opened.clone(), Device::Cpu, dtype);
        let weights = source.group("").unwrap();
        let (now, highest) = (ALLOCATOR.allocated(), ALLOCATOR.max_allocated());
        // Memory that is never touched brings the present number up to the highest.
        let ballast = Vec::<u8>::with_capacity(highest - now);
        let before = ALLOCATOR.max_allocated();
        let rows = weights.rows(SHAPE, "table", &ids).unwrap();
        let taken = ALLOCATOR.max_allocated() - before;
        drop(ballast);
        // The rows twice, as they come and joined; all of the table is 10 MB.
        assert!(taken < 3 * ids.len() * SHAPE.1 * 4 + (64 << 10), "{taken} bytes");
        let want = table.index_select(&Tensor::new(ids.as_slice(), &Device::Cpu).unwrap(), 0).unwrap();
        let want = want.to_dtype(dtype.unwrap_or(DType::F32)).unwrap().to_dtype(DType::F32).unwrap();
        assert_eq!(rows.to_vec2::<f32>().unwrap(), want.to_vec2::<f32>().unwrap());
    }
}
