//! An opened LoRA: its modules, before it is known which network they belong to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde::Serialize;

use super::LoraError;
use super::keys::{Dialect, Key, Role, parse};
use crate::{Checkpoint, Entry};

/// A LoRA whose header has been read and whose pairs are whole. Its tensors stay in the file until they are merged.
#[derive(Debug, Clone)]
pub struct LoraFile {
    pub(super) checkpoint: Checkpoint,
    pub(super) modules: BTreeMap<String, Module>,
    pub(super) text_encoder: Vec<String>,
    pub(super) unknown: Vec<String>,
    dialect: Dialect,
}

/// What a file holds for one module, by the names of its tensors.
#[derive(Debug, Clone, Default)]
pub(super) struct Module {
    pub pair: Option<Pair>,
    pub up_bias: Option<String>,
    pub diff: Option<String>,
    pub diff_bias: Option<String>,
    pub diff_modulation: Option<String>,
}

/// A low-rank pair.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pair {
    /// `[blocks·rank, in…]`.
    pub down: String,
    /// `[out, rank]` each; their rows follow one another.
    pub ups: Vec<String>,
    pub rank: usize,
    /// Shape of `up · down`: the sum of the ups' rows, then `in…`.
    pub shape: Vec<usize>,
    /// alpha / rank; 1 without alpha.
    pub scale: f64,
    pub alpha: Option<f64>,
}

/// What a LoRA is, for people and programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoraSummary {
    /// The file, or the name of one that is no file.
    pub path: PathBuf,
    /// Whose spelling it has.
    pub dialect: Dialect,
    /// Ranks of its pairs, each once.
    pub ranks: BTreeSet<usize>,
    /// Scales of its pairs (alpha / rank, 1 without alpha) in rising order, each once.
    pub scales: Vec<f64>,
    /// Pairs that have an alpha.
    pub with_alpha: usize,
    /// Low-rank pairs.
    pub pairs: usize,
    /// Whole differences of weights, biases and modulation.
    pub differences: usize,
    /// Stored bytes.
    pub stored_bytes: u64,
}

/// A pair on its way.
#[derive(Default)]
struct Draft {
    down: Option<String>,
    ups: BTreeMap<usize, String>,
    alpha: Option<String>,
    alpha_scale: Option<String>,
}

impl LoraFile {
    /// Opens a file; see [`Checkpoint::open`].
    ///
    /// # Errors
    /// A file that is missing, damaged, no LoRA, or a relative of LoRA.
    pub fn open(path: &Path) -> Result<Self, LoraError> {
        Self::read(Checkpoint::open(path)?)
    }

    /// Recognises the LoRA in an opened checkpoint.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn read(checkpoint: Checkpoint) -> Result<Self, LoraError> {
        let mut modules: BTreeMap<String, Module> = BTreeMap::new();
        let mut drafts: BTreeMap<String, Draft> = BTreeMap::new();
        let (mut text_encoder, mut unknown) = (Vec::new(), Vec::new());
        let mut votes: BTreeMap<Dialect, usize> = BTreeMap::new();
        let path = checkpoint.path().to_owned();
        let damaged = |problem: String| LoraError::Damaged { path: path.clone(), problem };
        for key in checkpoint.entries().map(|e| e.name.clone()) {
            let (module, role) = match parse(&key) {
                Key::Of { module, role, dialect } => {
                    *votes.entry(dialect).or_default() += 1;
                    (module, role)
                }
                Key::TextEncoder => {
                    text_encoder.push(key);
                    continue;
                }
                Key::Unknown => {
                    unknown.push(key);
                    continue;
                }
                Key::Relative(kind) => return Err(LoraError::Kind { path, kind, key }),
            };
            let (whole, draft) = (modules.entry(module.clone()).or_default(), drafts.entry(module).or_default());
            let other = match role {
                Role::Down => draft.down.replace(key.clone()),
                Role::Up(block) => draft.ups.insert(block, key.clone()),
                Role::Alpha => draft.alpha.replace(key.clone()),
                Role::AlphaScale => draft.alpha_scale.replace(key.clone()),
                Role::UpBias => whole.up_bias.replace(key.clone()),
                Role::Diff => whole.diff.replace(key.clone()),
                Role::DiffBias => whole.diff_bias.replace(key.clone()),
                Role::DiffModulation => whole.diff_modulation.replace(key.clone()),
            };
            if let Some(other) = other {
                return Err(damaged(format!("{other} and {key} are the same thing under two names")));
            }
        }
        for (module, draft) in drafts {
            let pair = draft.finish(&checkpoint).map_err(|problem| match problem {
                Problem::Weights(error) => LoraError::File(error),
                Problem::Text(text) => damaged(format!("{module}: {text}")),
            })?;
            match (pair, modules.get_mut(&module)) {
                (Finished::Pair(pair), Some(whole)) => whole.pair = Some(pair),
                (Finished::Nothing(alphas), _) => unknown.extend(alphas),
                _ => {}
            }
        }
        let wholes = modules.values().flat_map(Module::wholes).filter_map(|name| checkpoint.entry(name));
        if let Some(problem) = wholes.filter_map(unreadable).next() {
            return Err(damaged(problem));
        }
        modules.retain(|_, m| m.pair.is_some() || m.differences() > 0);
        if modules.is_empty() && text_encoder.is_empty() {
            let first = checkpoint.entries().next().map(|e| e.name.clone());
            return Err(LoraError::NotALora { path, count: checkpoint.entries().len(), first });
        }
        let dialect = votes.into_iter().max_by_key(|(_, count)| *count).map_or(Dialect::Plain, |(d, _)| d);
        let has_differences = modules.values().any(|m| m.diff_bias.is_some() || m.diff_modulation.is_some());
        let dialect = if dialect == Dialect::ComfyUi && has_differences { Dialect::LightX2v } else { dialect };
        Ok(Self { checkpoint, modules, text_encoder, unknown, dialect })
    }

    /// The file, or what stands for its name.
    pub fn path(&self) -> &Path {
        self.checkpoint.path()
    }

    /// Tells contents apart; see [`Checkpoint::sha256`].
    pub fn sha256(&self) -> String {
        self.checkpoint.sha256()
    }

    /// What it is.
    pub fn summary(&self) -> LoraSummary {
        let pairs = || self.modules.values().filter_map(|m| m.pair.as_ref());
        let mut scales: Vec<f64> = pairs().map(|p| p.scale).collect();
        scales.sort_by(f64::total_cmp);
        scales.dedup();
        LoraSummary {
            path: self.path().to_owned(),
            dialect: self.dialect,
            ranks: pairs().map(|p| p.rank).collect(),
            scales,
            with_alpha: pairs().filter(|p| p.alpha.is_some()).count(),
            pairs: pairs().count(),
            differences: self.modules.values().map(Module::differences).sum(),
            stored_bytes: self.checkpoint.stored_bytes(),
        }
    }
}

impl Module {
    /// Names of the tensors that are whole differences.
    fn wholes(&self) -> impl Iterator<Item = &String> {
        [&self.up_bias, &self.diff, &self.diff_bias, &self.diff_modulation].into_iter().flatten()
    }

    fn differences(&self) -> usize {
        self.wholes().count()
    }
}

/// What is wrong with a tensor of a type that cannot be computed with.
fn unreadable(entry: &Entry) -> Option<String> {
    let Entry { name, dtype, .. } = entry;
    (!entry.is_loadable())
        .then(|| format!("{name} is stored as {dtype}; F32, F16, BF16, F64 and 8-bit floats can be read"))
}

enum Finished {
    Pair(Pair),
    /// No matrices; alphas without a pair.
    Nothing(Vec<String>),
}

enum Problem {
    Weights(crate::WeightsError),
    Text(String),
}

impl Draft {
    fn finish(self, checkpoint: &Checkpoint) -> Result<Finished, Problem> {
        let text = |text: String| Err(Problem::Text(text));
        let Some(down) = self.down else {
            if let Some(up) = self.ups.values().next() {
                return text(format!("{up} has no other half"));
            }
            return Ok(Finished::Nothing(self.alpha.into_iter().chain(self.alpha_scale).collect()));
        };
        let ups: Vec<String> = self.ups.values().cloned().collect();
        if ups.is_empty() {
            return text(format!("{down} has no other half"));
        }
        if self.ups.keys().copied().ne(0..ups.len()) {
            return text(format!("of the blocks of lora_up only {:?} are there", self.ups.keys().collect::<Vec<_>>()));
        }
        let shape = |name: &str| checkpoint.shape(name).unwrap_or_default();
        let halves = std::iter::once(&down).chain(&ups).filter_map(|n| checkpoint.entry(n));
        if let Some(problem) = halves.filter_map(unreadable).next() {
            return text(problem);
        }
        let [rows, columns @ ..] = shape(&down) else { return text(format!("{down} is a single number")) };
        let rank = rows / ups.len();
        if columns.is_empty() || rank * ups.len() != *rows {
            return text(format!("{down} is {:?}; [{} x rank, in] is expected", shape(&down), ups.len()));
        }
        if rank == 0 || columns.contains(&0) {
            return text(format!("{down} is {:?}, which is empty (rank 0)", shape(&down)));
        }
        let mut out = 0usize;
        for up in &ups {
            match shape(up) {
                [rows, r, ones @ ..] if *rows > 0 && *r == rank && ones.iter().all(|d| *d == 1) => {
                    out = out.saturating_add(*rows);
                }
                other => return text(format!("{up} is {other:?}, {down} is {:?}; their ranks differ", shape(&down))),
            }
        }
        let alpha = self.alpha.map(|name| number(checkpoint, &name)).transpose()?;
        let scale = self.alpha_scale.map(|name| number(checkpoint, &name)).transpose()?;
        Ok(Finished::Pair(Pair {
            rank,
            shape: std::iter::once(out).chain(columns.iter().copied()).collect(),
            scale: scale.unwrap_or_else(|| alpha.map_or(1.0, |a| a / rank as f64)),
            alpha,
            down,
            ups,
        }))
    }
}

/// The value of a tensor with one element.
fn number(checkpoint: &Checkpoint, name: &str) -> Result<f64, Problem> {
    if checkpoint.entry(name).is_none_or(|e| e.elements() != 1) {
        let shape = checkpoint.shape(name).unwrap_or_default();
        return Err(Problem::Text(format!("{name} is {shape:?}; a single number is expected")));
    }
    if let Some([value]) = checkpoint.integers(name).as_deref() {
        return Ok(*value as f64);
    }
    let read = checkpoint.load(name, &[], Some(DType::F64), &Device::Cpu).and_then(|t| t.to_scalar::<f64>());
    read.map_err(|e| match crate::WeightsError::from_candle(e) {
        Ok(error) => Problem::Weights(error),
        Err(e) => Problem::Text(e.to_string()),
    })
}
