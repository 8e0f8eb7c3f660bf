//! Putting quantised weights and what belongs to them together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::DType;
use kernels::quant::Encoding;
use safetensors::Dtype;

use super::describe::{self, Description};
use super::{DESCRIPTION, FORMS, Flavour, Form, INPUT_SCALES, MARKER, SCALES, SECOND_SCALE, WEIGHTS};
use crate::WeightsError;
use crate::checkpoint::{Entry, Share, StoredScales, StoredType, Table};
use crate::error::{first_ten, visible};

/// The names that a module has in a file.
#[derive(Default)]
struct Module {
    weights: Vec<&'static str>,
    scales: Vec<&'static str>,
    input_scales: Vec<&'static str>,
    second_scale: bool,
    description: bool,
}

/// What is wrong, each with the tensors that it is true of.
#[derive(Default)]
struct Faults(BTreeMap<&'static str, Vec<String>>);

const TWO: &str = "belong to two ways of quantising at once, so that it is open which counts";
const UNREAD: &str = "are in a form that is not read (float8_e4m3fn, float8_e5m2 and int8_tensorwise are)";
const ORPHAN: &str = "belong to no weight in 8 bits";
const SHAPE: &str = "are scales of another shape than their weights ask for";
const TYPE: &str = "are scales of another type than F32, F16, BF16 or F64";
const NO_SCALE: &str = "are 8-bit integers without a scale";
const CONTRADICT: &str = "contradict their descriptions";

impl Faults {
    fn add(&mut self, problem: &'static str, tensor: String) {
        self.0.entry(problem).or_default().push(tensor);
    }

    fn verdict(mut self, path: &Path) -> Result<(), WeightsError> {
        // The first that is true explains those after it.
        let order = [TWO, UNREAD, CONTRADICT, ORPHAN, SHAPE, TYPE, NO_SCALE];
        let Some((problem, tensors)) = order.into_iter().find_map(|p| Some((p, self.0.remove(p)?))) else {
            return Ok(());
        };
        let (path, count) = (path.to_owned(), tensors.len());
        Err(WeightsError::Quantised { path, count, problem, tensors: first_ten(&tensors) })
    }
}

/// Gives the table with every quantised weight under the name `MODULE.weight` and nothing beside it, and whose way of
/// quantising that was.
pub(crate) fn group(path: &Path, mut table: Table, headers: &[String]) -> Result<(Table, Flavour), WeightsError> {
    let described = described_in_headers(path, &table, headers)?;
    let modules = modules(&table, &described);
    let mut faults = Faults::default();
    let mut counts: BTreeMap<Flavour, usize> = BTreeMap::new();
    for (name, module) in &modules {
        let header = described.get(name.as_str());
        if let Some(flavour) = group_module(name, module, header, &mut table, &mut faults) {
            *counts.entry(flavour).or_default() += 1;
        }
    }
    let markers: Vec<String> = table.keys().filter(|n| is_marker(n)).cloned().collect();
    markers.iter().for_each(|marker| drop(table.remove(marker)));
    for entry in table.values() {
        match entry.dtype {
            StoredType::Plain(Dtype::I8) if WEIGHTS.iter().any(|w| entry.name.ends_with(w)) => {
                faults.add(NO_SCALE, entry.name.clone());
            }
            StoredType::Quantised(encoding) if entry.parts.iter().all(|p| p.scales.is_none()) => {
                let flavour = if encoding.block() == 1 { Flavour::PlainFp8 } else { Flavour::GgmlBlocks };
                // Scaled files may keep a few plain casts; those do not say whose file it is.
                if counts.keys().all(|f| matches!(f, Flavour::PlainFp8 | Flavour::GgmlBlocks)) {
                    *counts.entry(flavour).or_default() += 1;
                }
            }
            _ => {}
        }
    }
    faults.verdict(path)?;
    let flavour = counts.into_iter().max_by_key(|(_, count)| *count).map_or(Flavour::Floats, |(flavour, _)| flavour);
    Ok((table, flavour))
}

fn is_marker(name: &str) -> bool {
    name.strip_suffix(MARKER).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Modules that have something beside a plain weight, by name.
fn modules(table: &Table, described: &BTreeMap<String, Description>) -> BTreeMap<String, Module> {
    let mut names: BTreeSet<&str> = described.keys().map(String::as_str).collect();
    let known = || SCALES.iter().chain(&INPUT_SCALES).chain([&SECOND_SCALE, &DESCRIPTION]).chain(&WEIGHTS[1..]);
    for name in table.keys() {
        if let Some(stem) = known().find_map(|suffix| name.strip_suffix(suffix)) {
            let common = name.ends_with(".scale") && !table.contains_key(&format!("{stem}.int8_weight"));
            if !common {
                names.insert(stem);
            }
        }
    }
    let module = |stem: &str| {
        let has = |suffix: &&'static str| table.contains_key(&format!("{stem}{suffix}"));
        let with_blocks = has(&".int8_weight");
        Module {
            weights: WEIGHTS.into_iter().filter(has).collect(),
            scales: SCALES.into_iter().filter(|s| has(s) && (*s != ".scale" || with_blocks)).collect(),
            input_scales: INPUT_SCALES.into_iter().filter(has).collect(),
            second_scale: has(&SECOND_SCALE),
            description: has(&DESCRIPTION),
        }
    };
    names.into_iter().map(|stem| (stem.to_owned(), module(stem))).collect()
}

/// Descriptions in headers by the names that modules have in the file, whose prefix they may lack.
fn described_in_headers(
    path: &Path,
    table: &Table,
    headers: &[String],
) -> Result<BTreeMap<String, Description>, WeightsError> {
    let mut found = BTreeMap::new();
    let mut faults = Faults::default();
    for (layer, description) in describe::from_headers(path, headers)? {
        let prefixes = ["", "model.diffusion_model.", "diffusion_model.", "model."];
        let name = prefixes
            .into_iter()
            .map(|p| format!("{p}{layer}"))
            .find(|n| WEIGHTS.iter().any(|w| table.contains_key(&format!("{n}{w}"))));
        match name {
            Some(name) => drop(found.insert(name, description)),
            // Names of tensors are lines of text by now; this one is whatever the header has.
            None => faults.add(ORPHAN, format!("{} of {}", visible(&layer), super::METADATA)),
        }
    }
    faults.verdict(path)?;
    Ok(found)
}

/// Groups one module; `None` when it is at fault, or has nothing but a weight.
fn group_module(
    name: &str,
    module: &Module,
    header: Option<&Description>,
    table: &mut Table,
    faults: &mut Faults,
) -> Option<Flavour> {
    if module.weights.len() > 1 || module.scales.len() > 1 || module.input_scales.len() > 1 {
        let several = [&module.weights, &module.scales, &module.input_scales];
        let names = several.into_iter().filter(|s| s.len() > 1).flatten().map(|suffix| format!("{name}{suffix}"));
        names.for_each(|tensor| faults.add(TWO, tensor));
        return None;
    }
    let description = match take(table, name, module.description.then_some(DESCRIPTION)) {
        Some(entry) => Some(
            entry
                .parts
                .first()
                .filter(|part| part.bytes.len() <= describe::MAX_BYTES)
                .and_then(|part| describe::parse(&part.row_major())),
        ),
        None => header.cloned().map(Some),
    };
    let description = match description {
        Some(None) => {
            faults.add(CONTRADICT, format!("{name}{DESCRIPTION} is no description"));
            return None;
        }
        Some(Some(Description::Other(format))) => {
            faults.add(UNREAD, format!("{name}.weight as {format}"));
            return None;
        }
        Some(Some(Description::Known { encoding, rotation })) => Some((encoding, rotation)),
        None if module.second_scale => {
            faults.add(UNREAD, format!("{name}.weight as nvfp4"));
            return None;
        }
        None => None,
    };
    let input = take(table, name, module.input_scales.first().copied());
    let scale = take(table, name, module.scales.first().copied());
    let Some(mut weight) = take(table, name, module.weights.first().copied()) else {
        let lone = scale.or(input).map_or_else(|| format!("{name}{DESCRIPTION}"), |entry| entry.name);
        faults.add(ORPHAN, lone);
        return None;
    };
    let flavour = join(name, module, description, (&mut weight, scale, input), faults);
    weight.name = format!("{name}.weight");
    table.insert(weight.name.clone(), weight);
    flavour
}

fn take(table: &mut Table, module: &str, suffix: Option<&str>) -> Option<Entry> {
    table.remove(&format!("{module}{}", suffix?))
}

/// Makes scales and description a part of the weight.
fn join(
    name: &str,
    module: &Module,
    description: Option<(Encoding, Option<usize>)>,
    (weight, scale, input): (&mut Entry, Option<Entry>, Option<Entry>),
    faults: &mut Faults,
) -> Option<Flavour> {
    let encoding = match (weight.dtype, description) {
        (StoredType::Quantised(found), Some((said, _))) if found == said => said,
        (StoredType::Plain(Dtype::I8), Some((Encoding::I8, _))) => Encoding::I8,
        // Where a writer had no 8-bit floats.
        (StoredType::Plain(Dtype::U8), Some((said, _))) if said != Encoding::I8 => said,
        (found, Some((said, _))) => {
            faults.add(CONTRADICT, format!("{} is {found}, described as {said}", weight.name));
            return None;
        }
        (StoredType::Quantised(found), None) if found.block() == 1 => found,
        (StoredType::Plain(Dtype::I8), None) => Encoding::I8,
        // A float weight may keep the scale of its inputs; it is of no use.
        (_, None) => {
            if let Some(scale) = scale {
                faults.add(ORPHAN, format!("{} beside {}", scale.name, weight.dtype));
            }
            return None;
        }
    };
    if let Some(input) = input {
        weight.input_scale = match stored_scales(&input, Share::Matrix) {
            Some(scales) if input.elements() == 1 => Some(scales),
            _ => {
                faults.add(if input.elements() == 1 { TYPE } else { SHAPE }, input.name);
                return None;
            }
        };
    }
    let rotation = description.and_then(|(_, rotation)| rotation);
    let Some(scale) = scale else {
        if encoding == Encoding::I8 {
            faults.add(NO_SCALE, weight.name.clone());
            return None;
        }
        set(weight, encoding, None, rotation);
        return Some(if description.is_some() { Flavour::ComfyQuant } else { Flavour::PlainFp8 });
    };
    let fits = |form: &&Form| {
        module.weights.contains(&form.weight)
            && module.scales.contains(&form.scale)
            && form.described.is_none_or(|d| d == description.is_some())
            && scales_fit(form.share, &scale.shape, &weight.shape)
    };
    let Some(form) = FORMS.iter().find(fits) else {
        faults.add(SHAPE, format!("{} {:?} for {:?}", scale.name, scale.shape, weight.shape));
        return None;
    };
    let Some(scales) = stored_scales(&scale, form.share) else {
        faults.add(TYPE, format!("{} as {}", scale.name, scale.dtype));
        return None;
    };
    if let Some(group) = rotation
        && !(group.is_power_of_two() && weight.shape.last().is_some_and(|columns| columns.is_multiple_of(group)))
    {
        faults.add(CONTRADICT, format!("{name}.weight {:?} is rotated in groups of {group}", weight.shape));
        return None;
    }
    set(weight, encoding, Some(scales), rotation);
    Some(form.flavour)
}

fn set(weight: &mut Entry, encoding: Encoding, scales: Option<StoredScales>, rotation: Option<usize>) {
    weight.dtype = StoredType::Quantised(encoding);
    for part in &mut weight.parts {
        part.dtype = weight.dtype;
        part.scales.clone_from(&scales);
        part.rotation = rotation;
    }
}

fn scales_fit(share: Share, scales: &[usize], weight: &[usize]) -> bool {
    let scales: Vec<usize> = scales.iter().copied().skip_while(|d| *d == 1).collect();
    match (share, weight) {
        (Share::Matrix, _) => scales.is_empty(),
        // [rows], [rows, 1], and as many ones as a convolution has dimensions.
        (Share::Row, [rows, _, ..]) => {
            matches!(scales.as_slice(), [n, ones @ ..] if n == rows && ones.iter().all(|d| *d == 1))
        }
        (Share::Block(side), [rows, columns]) => {
            let blocks = [rows.div_ceil(side), columns.div_ceil(side)];
            blocks.into_iter().skip_while(|d| *d == 1).eq(scales.iter().copied())
        }
        _ => false,
    }
}

fn stored_scales(entry: &Entry, share: Share) -> Option<StoredScales> {
    let [part] = entry.parts.as_slice() else { return None };
    let dtype: DType = part.dtype.float()?;
    Some(StoredScales { share, dtype, bytes: part.row_major() })
}
