//! Single rows of every packaging are those of the whole matrix.

use candle_core::{DType, Device};
use weights::Checkpoint;

use crate::support::{file, flat, path};

#[test]
fn single_rows_are_those_of_the_whole() {
    let mut matrices = 0;
    for entry in std::fs::read_dir(path("")).unwrap() {
        let file = entry.unwrap().path();
        let Ok(checkpoint) = Checkpoint::open(&file) else { continue };
        for entry in checkpoint.entries().filter(|e| e.is_loadable()) {
            let &[rows, columns] = entry.shape.as_slice() else { continue };
            if rows == 0 {
                continue;
            }
            for dtype in [None, Some(DType::BF16), Some(DType::F32)] {
                let Ok(whole) = checkpoint.load(&entry.name, &[rows, columns], dtype, &Device::Cpu) else { continue };
                let last = rows as u32 - 1;
                let ids = [last, 0, last / 2, last];
                let found = checkpoint.rows(&entry.name, &[rows, columns], &ids, dtype).unwrap();
                let Some(found) = found else { continue };
                assert_eq!((found.dims(), found.dtype()), (&[4, columns][..], DType::F32));
                let whole = flat(&whole);
                let want: Vec<f32> =
                    ids.iter().flat_map(|id| whole[*id as usize * columns..][..columns].to_vec()).collect();
                assert_eq!(flat(&found), want, "{} of {}, {dtype:?}", entry.name, file.display());
                matrices += 1;
            }
            let nothing = checkpoint.rows(&entry.name, &[rows, columns], &[], None).unwrap();
            assert!(nothing.is_none_or(|t| t.dims() == [0, columns]));
            let beyond = checkpoint.rows(&entry.name, &[rows, columns], &[rows as u32], None);
            assert!(beyond.map_or(true, |found| found.is_none()), "{}", entry.name);
        }
    }
    assert!(matrices > 20, "{matrices}");
}

#[test]
fn only_the_rows_asked_for_are_looked_at() {
    let mut values = [0.5f32; 12];
    values[7] = f32::NAN;
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let table = file(&[("table", "F32", &[4, 3], &bytes)], &[]);
    let checkpoint = Checkpoint::from_bytes("table", table).unwrap();
    assert_eq!(flat(&checkpoint.rows("table", &[4, 3], &[0, 3], None).unwrap().unwrap()), [0.5; 6]);
    let error = checkpoint.rows("table", &[4, 3], &[0, 2], None).unwrap_err().to_string();
    assert!(error.contains("element: 7"), "{error}");
    let error = checkpoint.rows("table", &[4, 3], &[4], None).unwrap_err().to_string();
    assert!(error.contains("row 4 of table, which has 4 rows"), "{error}");
    assert!(checkpoint.rows("table", &[3, 3], &[0], None).is_err());
    assert!(checkpoint.rows("other", &[4, 3], &[0], None).is_err());
}
