//! The text encoder and the image encoder.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use testkit::Case;
use weights::{KeyMap, Resident, TensorMap, WeightSource};

use crate::checks::{Checks, Report, overlaid};

/// The case's weights under canonical names.
fn canonical(case: &Case, map: &KeyMap) -> HashMap<String, Tensor> {
    case.weights.iter().filter_map(|(name, t)| Some((map.canonical(name)?, t.clone()))).collect()
}

fn source(tensors: HashMap<String, Tensor>) -> Arc<dyn WeightSource> {
    Arc::new(Resident::new(Arc::new(TensorMap(tensors)), Device::Cpu, None))
}

/// The encoder gets no padding; the reference's rows are those of the valid tokens.
pub fn umt5(case: &Case) -> Result<Report> {
    let tensors = canonical(case, &umt5::key_map());
    let config = overlaid(&umt5::Config::detect(|name| tensors.get(name).map(Tensor::dims))?, &case.config)?;
    let encoder = umt5::Encoder::new(&config, source(tensors))?;
    let integers = |x: Tensor| x.to_dtype(DType::I64)?.reshape(((), x.dim(candle_core::D::Minus1)?))?.to_vec2::<i64>();
    let ids = integers(case.input("ids")?)?;
    let mask = match case.inputs.get("mask") {
        Some(mask) => integers(mask.clone())?,
        None => ids.iter().map(|row| vec![1; row.len()]).collect(),
    };
    ensure!(ids.len() == mask.len(), "{} rows of ids, {} of mask", ids.len(), mask.len());
    let mut prompts = Vec::new();
    for (ids, mask) in ids.iter().zip(&mask) {
        let valid = ids.iter().zip(mask).filter(|(_, m)| **m != 0);
        let valid = valid.map(|(id, _)| u32::try_from(*id)).collect::<Result<Vec<_>, _>>()?;
        prompts.push(encoder.encode(&valid)?);
    }
    let mut checks = Checks::new(case);
    checks.output("hidden", &Tensor::cat(&prompts, 1)?)?;
    checks.finish()
}

/// The tower is given no tensor that it has to do without (last block, final norm, projection).
pub fn clip_vision(case: &Case) -> Result<Report> {
    let config: clip::Config = overlaid(&clip::Config::vit_h_14(), &case.config)?;
    let mut tensors = canonical(case, &clip::key_map());
    tensors.retain(|name, _| !config.ignored(name));
    let tower = clip::VisionTower::new(&config, source(tensors))?;
    let mut checks = Checks::new(case);
    checks.output("hidden", &tower.forward(&case.input("pixels")?)?)?;
    checks.finish()
}
