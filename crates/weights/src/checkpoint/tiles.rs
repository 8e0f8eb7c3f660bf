//! A tensor's numbers as f32, tile by tile: no tensor is held as a whole.

use bytes::Bytes;
use candle_core::{DType, Result};
use half::{bf16, f16};
use kernels::quant::QuantMatrix;

use super::finite::first_non_finite;
use super::load::{Place, as_matrix, quantised_part};
use super::map::release;
use super::{Checkpoint, Entry, Part, StoredType};
use crate::WeightsError;

/// Bytes of the largest tile.
pub(crate) const TILE_BYTES: u64 = 4 << 20;
const TILE: usize = TILE_BYTES as usize / 4;

/// The numbers of one tensor in row-major order.
pub(crate) struct Tiles<'a> {
    checkpoint: &'a Checkpoint,
    entry: &'a Entry,
    /// Parts that were begun.
    begun: usize,
    /// Elements of parts before the present one.
    before: usize,
    now: Option<Reader>,
}

enum Reader {
    Floats { raw: Bytes, dtype: DType },
    Matrix { matrix: QuantMatrix, row: usize },
}

impl Checkpoint {
    /// The numbers of a tensor as f32.
    ///
    /// # Errors
    /// Unknown name.
    pub(crate) fn tiles(&self, name: &str) -> Result<Tiles<'_>> {
        Ok(Tiles { checkpoint: self, entry: self.known(name)?, begun: 0, before: 0, now: None })
    }

    /// Gives every tile of a tensor to `each`.
    ///
    /// # Errors
    /// Those of `each`; unknown name, a type that cannot be computed with, a value that is not finite.
    pub(crate) fn for_each_tile<E: From<candle_core::Error>>(
        &self,
        name: &str,
        mut each: impl FnMut(&[f32]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (mut tiles, mut tile) = (self.tiles(name)?, Vec::new());
        while tiles.next(&mut tile)? {
            each(&tile)?;
        }
        Ok(())
    }

    /// The stored bytes of a tensor in row-major order, without scales.
    pub(crate) fn stored_pieces(&self, name: &str) -> impl Iterator<Item = Bytes> {
        self.entries.get(name).into_iter().flat_map(|entry| entry.parts.iter().map(Part::row_major))
    }
}

impl Tiles<'_> {
    /// Puts the next numbers into `tile`; false, and an empty tile, when there are no more.
    pub fn next(&mut self, tile: &mut Vec<f32>) -> Result<bool> {
        tile.clear();
        loop {
            match &mut self.now {
                Some(Reader::Floats { raw, dtype }) if !raw.is_empty() => {
                    let piece = raw.split_to(raw.len().min(TILE * dtype.size_in_bytes()));
                    widen(&piece, *dtype, tile);
                    release(&piece);
                    return Ok(true);
                }
                Some(Reader::Matrix { matrix, row }) if *row < matrix.shape()[0] && matrix.shape()[1] > 0 => {
                    let [rows, columns] = matrix.shape();
                    let count = (TILE / columns).clamp(1, rows - *row);
                    tile.resize(count * columns, 0.0);
                    matrix.decode_rows(*row, count, tile).map_err(candle_core::Error::wrap)?;
                    *row += count;
                    return Ok(true);
                }
                _ => match self.entry.parts.get(self.begun) {
                    Some(part) => self.begin(part)?,
                    None => return Ok(false),
                },
            }
        }
    }

    fn begin(&mut self, part: &Part) -> Result<()> {
        let place = Place { path: self.checkpoint.path(), name: &self.entry.name, seen: self.before };
        self.now = Some(match part.dtype {
            StoredType::Quantised(_) => {
                let [rows, columns] = as_matrix(&part.shape);
                Reader::Matrix { matrix: quantised_part(part, rows, columns, &place)?, row: 0 }
            }
            StoredType::Plain(_) => {
                let dtype = part.dtype.float().ok_or_else(|| {
                    let (path, name) = (place.path.to_owned(), place.name.to_owned());
                    WeightsError::DType { path, name, dtype: part.dtype.to_string() }.into_candle()
                })?;
                let raw = part.row_major();
                if let Some(element) = first_non_finite(&raw, dtype) {
                    return Err(place.not_finite(element));
                }
                Reader::Floats { raw, dtype }
            }
        });
        self.begun += 1;
        self.before += part.elements();
        Ok(())
    }
}

fn widen(raw: &[u8], dtype: DType, out: &mut Vec<f32>) {
    match dtype {
        DType::F16 => out.extend(raw.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
        DType::BF16 => out.extend(raw.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
        DType::F64 => out.extend(raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
        _ => out.extend(raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
    }
}
