//! Weights with their LoRAs.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use kernels::linear::Difference as Beside;
use rayon::prelude::*;
use safetensors::Dtype;

use super::file::Pair;
use super::fit::{Difference, Fitted};
use crate::{Checkpoint, Entry, Manifest, Matrix, MatrixForm, StoredType, TensorSource, WeightsError};

/// Rows of a weight are merged in pieces of this size: no second copy of it is made in f32, and a piece stays in a core's
/// cache from the product to the rounding.
const TILE_BYTES: usize = 2 << 20;
/// Copies of a tile at once: of the weight, of the difference before and after its factor, and of their sum.
const TILES: u64 = 4;

/// LoRAs that are fitted to one network, in the order in which they are added, each with its strength (0 is off,
/// negative values subtract).
#[derive(Debug, Clone, Default)]
pub struct Stack {
    loras: Vec<(Fitted, f64)>,
}

impl Stack {
    /// LoRAs with their strengths.
    pub fn new(loras: Vec<(Fitted, f64)>) -> Self {
        Self { loras }
    }

    /// The LoRAs with their strengths.
    pub fn loras(&self) -> &[(Fitted, f64)] {
        &self.loras
    }

    /// Whether the tensor of that name is changed.
    pub fn changes(&self, name: &str) -> bool {
        self.terms(name).next().is_some()
    }

    /// The most memory in bytes that merging takes for one tensor of `manifest`, besides its result: the tensor as
    /// stored (f32 at the widest), the tiles of all threads, and the matrices of its differences. 0 if nothing is changed.
    pub fn merge_bytes(&self, manifest: &Manifest) -> u64 {
        let one = |spec: &crate::TensorSpec| {
            let stored = spec.elements() as u64 * 4;
            let differences: u64 = self.terms(&spec.name).map(|t| t.bytes()).sum();
            let tiles = stored.div_ceil(TILE_BYTES as u64).min(rayon::current_num_threads() as u64);
            stored + TILES * stored.min(tiles * TILE_BYTES as u64) + differences
        };
        manifest.tensors().filter(|spec| self.changes(&spec.name)).map(one).max().unwrap_or(0)
    }

    /// Bytes of the differences that are held beside the tensor of that name if it is a quantised matrix.
    pub fn beside_bytes(&self, name: &str) -> u64 {
        self.terms(name).map(|t| t.beside_bytes()).sum()
    }

    fn terms<'a>(&'a self, name: &str) -> impl Iterator<Item = Summand<'a>> {
        let of = move |(lora, strength): &'a (Fitted, f64)| {
            let terms = lora.targets.get(name).filter(|_| *strength != 0.0);
            let summand = |term: &'a super::fit::Term| Summand {
                checkpoint: &lora.file.checkpoint,
                difference: &term.difference,
                factor: strength * term.factor,
            };
            terms.into_iter().flatten().map(summand).collect::<Vec<_>>()
        };
        self.loras.iter().flat_map(of).filter(|s| s.factor != 0.0)
    }
}

/// The tensors of `source` with a [`Stack`] added.
pub struct Merged {
    source: Arc<dyn TensorSource>,
    stack: Arc<Stack>,
}

impl Merged {
    /// Tensors of `source` under the names to which the stack was fitted.
    pub fn new(source: Arc<dyn TensorSource>, stack: Arc<Stack>) -> Self {
        Self { source, stack }
    }
}

impl TensorSource for Merged {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        let summands: Vec<Summand> = self.stack.terms(name).collect();
        if summands.is_empty() {
            return self.source.tensor(name, shape, dtype, device);
        }
        // As stored: narrowing the weight before the sum would be a second rounding.
        let weight = self.source.tensor(name, shape, None, &Device::Cpu)?;
        let dtype = dtype.unwrap_or(weight.dtype());
        merge(weight, name, shape, dtype, &summands)?.to_device(device)
    }

    fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix> {
        let summands: Vec<Summand> = self.stack.terms(name).collect();
        if summands.is_empty() {
            return self.source.matrix(name, shape, dtype, device);
        }
        if dtype.is_some() {
            return Ok(self.tensor(name, shape, dtype, device)?.into());
        }
        let stored = self.source.matrix(name, shape, None, &Device::Cpu)?;
        match stored.float() {
            Some(weight) => {
                Ok(merge(weight.clone(), name, shape, weight.dtype(), &summands)?.to_device(device)?.into())
            }
            // What is quantised stays as it is: merging would be another quantisation.
            None => summands.iter().try_fold(stored, |stored, summand| summand.put_beside(stored, device)),
        }
    }

    fn form(&self, name: &str, shape: &[usize], dtype: Option<DType>) -> Result<MatrixForm> {
        let stored = self.source.form(name, shape, dtype)?;
        Ok(if self.stack.changes(name) { MatrixForm::Made(stored.encoding()) } else { stored })
    }

    fn rows(&self, name: &str, shape: &[usize], ids: &[u32], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        match self.stack.terms(name).next() {
            None => self.source.rows(name, shape, ids, dtype, device),
            Some(_) => self.matrix(name, shape, dtype, device)?.select(ids)?.to_device(device),
        }
    }
}

/// A weight with its differences, rounded once to `dtype`.
fn merge(weight: Tensor, name: &str, shape: &[usize], dtype: DType, summands: &[Summand]) -> Result<Tensor> {
    let rows = shape.first().copied().unwrap_or(1);
    let columns = weight.elem_count() / rows.max(1);
    let weight = weight.reshape((rows, columns))?;
    let differences = summands.iter().map(|s| s.read(rows, columns)).collect::<Result<Vec<_>>>()?;
    let tile_rows = (TILE_BYTES / 4 / columns.max(1)).max(1);
    let merged = Tensor::zeros((rows, columns), dtype, &Device::Cpu)?;
    (0..rows.div_ceil(tile_rows)).into_par_iter().try_for_each(|tile| {
        let first = tile * tile_rows;
        let count = tile_rows.min(rows - first);
        let mut tile = weight.narrow(0, first, count)?.to_dtype(DType::F32)?;
        for (difference, summand) in differences.iter().zip(summands) {
            let mut rows = difference.rows(first, count)?;
            if summand.factor as f32 != 1.0 {
                rows = (rows * summand.factor)?;
            }
            tile = (tile + rows)?;
        }
        let rounded = tile.to_dtype(dtype)?.contiguous()?;
        check_finite(&rounded, name, summands)?;
        merged.slice_set(&rounded, 0, first)
    })?;
    merged.reshape(shape)
}

/// One difference to be added to one tensor.
struct Summand<'a> {
    checkpoint: &'a Checkpoint,
    difference: &'a Difference,
    factor: f64,
}

/// A difference in memory, f32.
enum Read {
    /// `[blocks·rank, columns]`, and `[rows, rank]` each.
    LowRank { down: Tensor, ups: Vec<Tensor>, rank: usize },
    /// `[rows, columns]`.
    Whole(Tensor),
}

impl Summand<'_> {
    fn read(&self, rows: usize, columns: usize) -> Result<Read> {
        let load = |name: &str, shape: &[usize]| self.checkpoint.load(name, shape, Some(DType::F32), &Device::Cpu);
        let stored = |name: &str| self.checkpoint.shape(name).unwrap_or_default().to_vec();
        match self.difference {
            Difference::Whole(name) => Ok(Read::Whole(load(name, &stored(name))?.reshape((rows, columns))?)),
            Difference::LowRank(Pair { down, ups, rank, .. }) => {
                let matrix = |name: &str, columns: usize| {
                    let tensor = load(name, &stored(name))?;
                    let rows = tensor.elem_count() / columns;
                    tensor.reshape((rows, columns))
                };
                let ups = ups.iter().map(|up| matrix(up, *rank)).collect::<Result<_>>()?;
                Ok(Read::LowRank { down: matrix(down, columns)?, ups, rank: *rank })
            }
        }
    }

    /// The matrix with this difference beside it, in 16 bits where it is stored in as many.
    fn put_beside(&self, matrix: Matrix, device: &Device) -> Result<Matrix> {
        let (rows, columns) = matrix.dims2()?;
        let load = |name: &str, columns: usize| {
            let Some(entry) = self.checkpoint.entry(name) else {
                candle_core::bail!("{}: tensor {name} is missing", self.checkpoint.path().display());
            };
            let tensor = self.checkpoint.load(name, &entry.shape, Some(beside_dtype(entry)), device)?;
            let rows = tensor.elem_count() / columns.max(1);
            tensor.reshape((rows, columns))
        };
        match self.difference {
            Difference::Whole(name) => {
                let difference = load(name, columns)?.reshape((rows, columns))?;
                matrix.with(Beside::Whole { difference, factor: self.factor })
            }
            Difference::LowRank(Pair { down, ups, rank, .. }) => {
                let down = load(down, columns)?;
                let mut first_row = 0;
                ups.iter().enumerate().try_fold(matrix, |matrix, (block, up)| {
                    let (down, up) = (down.narrow(0, block * rank, *rank)?, load(up, *rank)?);
                    let count = up.dim(0)?;
                    let matrix = matrix.with(Beside::LowRank { down, up, first_row, factor: self.factor });
                    first_row += count;
                    matrix
                })
            }
        }
    }

    /// Of the matrices as they are held beside a quantised one.
    fn beside_bytes(&self) -> u64 {
        let held = |e: &Entry| (e.elements() * beside_dtype(e).size_in_bytes()) as u64;
        let entry = |name: &String| self.checkpoint.entry(name).map_or(0, held);
        match self.difference {
            Difference::Whole(name) => entry(name),
            Difference::LowRank(pair) => entry(&pair.down) + pair.ups.iter().map(entry).sum::<u64>(),
        }
    }

    /// Of the matrices in f32 and as stored.
    fn bytes(&self) -> u64 {
        let entry =
            |name: &String| self.checkpoint.entry(name).map_or(0, |e| e.stored_bytes() + 4 * e.elements() as u64);
        match self.difference {
            Difference::Whole(name) => entry(name),
            Difference::LowRank(pair) => entry(&pair.down) + pair.ups.iter().map(entry).sum::<u64>(),
        }
    }
}

impl Read {
    /// `count` rows from `first` on, `[count, columns]`.
    fn rows(&self, first: usize, count: usize) -> Result<Tensor> {
        let (down, ups, rank) = match self {
            Read::Whole(difference) => return difference.narrow(0, first, count),
            Read::LowRank { down, ups, rank } => (down, ups, *rank),
        };
        let mut pieces = Vec::new();
        let mut begin = 0;
        for (block, up) in ups.iter().enumerate() {
            let end = begin + up.dim(0)?;
            let (from, to) = (first.max(begin), (first + count).min(end));
            if from < to {
                let up = up.narrow(0, from - begin, to - from)?;
                pieces.push(up.matmul(&down.narrow(0, block * rank, rank)?)?);
            }
            begin = end;
        }
        match pieces.as_slice() {
            [one] => Ok(one.clone()),
            several => Tensor::cat(several, 0),
        }
    }
}

/// The precision in which a difference is held.
fn beside_dtype(entry: &Entry) -> DType {
    match entry.dtype {
        StoredType::Plain(Dtype::F16) => DType::F16,
        StoredType::Plain(Dtype::BF16) => DType::BF16,
        _ => DType::F32,
    }
}

/// What differences lift beyond a precision's range (f16 ends at 65504) must not become a grey video.
fn check_finite(rounded: &Tensor, name: &str, summands: &[Summand]) -> Result<()> {
    // 0 times a finite value is 0, everything else NaN; a sum of the values themselves could overflow.
    if (rounded.to_dtype(DType::F32)? * 0.0)?.sum_all()?.to_scalar::<f32>()? == 0.0 {
        return Ok(());
    }
    let mut loras: Vec<String> = summands.iter().map(|s| s.checkpoint.path().display().to_string()).collect();
    loras.dedup();
    let (name, dtype) = (name.to_owned(), rounded.dtype().as_str());
    Err(WeightsError::Overflow { name, dtype, loras: loras.join(", ") }.into_candle())
}
