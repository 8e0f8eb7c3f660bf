//! For tests: the reader of golden cases, the measure of closeness, the [`peak`] of what is allocated, a [`hub`] to
//! download from, [`video`], and a GPU to test on (feature `gpu`).
//!
//! A case is one safetensors file: metadata `component`, `config` (JSON), `tolerance`, `note`; tensors
//! `weights.<key>`, `inputs.<name>`, `outputs.<name>` and intermediate `outputs.stage.<name>`.

#[cfg(feature = "gpu")]
pub mod gpu;
pub mod hub;
mod peak;
pub mod video;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor};
pub use peak::peak;

/// One golden case.
pub struct Case {
    /// The file it was read from.
    pub path: PathBuf,
    /// What it pins down, say `dit.wan_i2v`.
    pub component: String,
    /// The reference's configuration.
    pub config: serde_json::Value,
    /// Largest allowed relative error.
    pub tolerance: f64,
    /// State dict under its original names.
    pub weights: HashMap<String, Tensor>,
    /// Inputs by name.
    pub inputs: BTreeMap<String, Tensor>,
    /// Outputs by name; intermediate ones begin with `stage.`.
    pub outputs: BTreeMap<String, Tensor>,
}

impl Case {
    /// Reads one file.
    ///
    /// # Errors
    /// The file is no golden case.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path)?;
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).map_err(candle_core::Error::wrap)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let text = |key: &str| -> Result<String> {
            metadata.get(key).cloned().ok_or_else(|| candle_core::Error::msg(format!("{path:?} has no {key:?}")))
        };
        let mut case = Self {
            path: path.to_owned(),
            component: text("component")?,
            config: serde_json::from_str(&text("config")?).map_err(candle_core::Error::wrap)?,
            tolerance: text("tolerance")?.parse().map_err(candle_core::Error::wrap)?,
            weights: HashMap::new(),
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
        };
        for (name, tensor) in candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)? {
            match name.split_once('.') {
                Some(("weights", key)) => drop(case.weights.insert(key.to_owned(), tensor)),
                Some(("inputs", key)) => drop(case.inputs.insert(key.to_owned(), tensor)),
                Some(("outputs", key)) => drop(case.outputs.insert(key.to_owned(), tensor)),
                _ => candle_core::bail!("{path:?}: unknown tensor {name}"),
            }
        }
        Ok(case)
    }

    /// The input of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn input(&self, name: &str) -> Result<Tensor> {
        self.inputs
            .get(name)
            .cloned()
            .ok_or_else(|| candle_core::Error::msg(format!("{:?}: no input {name}", self.path)))
    }

    /// Compares one of our tensors with the reference's output `name`.
    ///
    /// # Errors
    /// The case has no such output, the shapes differ, or the relative error is above the case's tolerance.
    pub fn compare(&self, name: &str, ours: &Tensor) -> std::result::Result<f64, String> {
        let want = self.outputs.get(name).ok_or(format!("{}: no output {name}", self.path.display()))?;
        let error = relative_error(ours, want).map_err(|e| format!("{name}: {e}"))?;
        if error <= self.tolerance {
            return Ok(error);
        }
        Err(format!(
            "{} ({}): {name} differs by {error:.3e}, allowed {:.0e}; {}",
            self.path.display(),
            self.component,
            self.tolerance,
            first_values(ours, want).unwrap_or_default()
        ))
    }
}

/// `‖ours − want‖₂ / ‖want‖₂` in f64. Shapes may differ by dimensions of size 1.
///
/// # Errors
/// The shapes differ otherwise.
pub fn relative_error(ours: &Tensor, want: &Tensor) -> Result<f64> {
    let dims = |t: &Tensor| t.dims().iter().copied().filter(|d| *d != 1).collect::<Vec<_>>();
    if dims(ours) != dims(want) {
        candle_core::bail!("shape {:?} against {:?}", ours.dims(), want.dims());
    }
    let flat = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (a, b) = (flat(ours)?, flat(want)?);
    let difference: f64 = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
    let norm: f64 = b.iter().map(|b| b * b).sum();
    if difference.is_nan() {
        return Ok(f64::INFINITY);
    }
    Ok(if norm == 0.0 { difference.sqrt() } else { (difference / norm).sqrt() })
}

/// The first five values of both and the largest difference, for messages.
fn first_values(ours: &Tensor, want: &Tensor) -> Result<String> {
    let flat = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (a, b) = (flat(ours)?, flat(want)?);
    let largest = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    Ok(format!(
        "ours {:.5?}, reference {:.5?}, max difference {largest:.3e}",
        &a[..a.len().min(5)],
        &b[..b.len().min(5)]
    ))
}

/// The folder of golden cases: `STEADYDANCE_GOLDEN_DIR`, else `shared/golden` beside the project; `None` when neither
/// is there (a user's machine).
pub fn golden_dir() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("STEADYDANCE_GOLDEN_DIR") {
        return Some(PathBuf::from(dir));
    }
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
    beside.is_dir().then_some(beside)
}

/// Paths of all `.safetensors` files of the golden folder, sorted; sub-folders are other features' and left out.
pub fn golden_files() -> Vec<PathBuf> {
    let Some(dir) = golden_dir() else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    files.sort();
    files
}

/// All cases whose component is `component`.
pub fn golden_cases(component: &str) -> Vec<Case> {
    golden_files().iter().filter_map(|p| Case::read(p).ok()).filter(|c| c.component == component).collect()
}
