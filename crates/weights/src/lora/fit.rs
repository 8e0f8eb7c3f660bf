//! Which weights of a network a LoRA belongs to.

use std::collections::{BTreeMap, HashMap};

use super::LoraError;
use super::file::{LoraFile, Module, Pair};
use crate::checkpoint::same_but_ones;
use crate::{KeyMap, Manifest, TensorSpec};

/// A LoRA and the weights of one network that it changes.
#[derive(Debug, Clone)]
pub struct Fitted {
    pub(super) file: LoraFile,
    pub(super) targets: BTreeMap<String, Vec<Term>>,
    leftovers: Leftovers,
}

/// What of a file is not applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Keys that name no weight of the network.
    pub unmatched: Vec<String>,
    /// Keys of the text encoder.
    pub text_encoder: Vec<String>,
    /// Differences of patch embeddings for another number of channels, with both shapes.
    pub patches: Vec<String>,
}

/// A summand of one weight.
#[derive(Debug, Clone)]
pub(super) struct Term {
    pub difference: Difference,
    /// By which it is multiplied besides the strength.
    pub factor: f64,
    /// The file's name of what it belongs to.
    module: String,
}

impl Term {
    /// A key of the file that it comes from.
    fn key(&self) -> &str {
        match &self.difference {
            Difference::LowRank(pair) => &pair.down,
            Difference::Whole(key) => key,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Difference {
    LowRank(Pair),
    Whole(String),
}

impl LoraFile {
    /// Finds the weights of `network` that this file changes, among those of `manifest`. `names` renames other projects'
    /// names of them to canonical ones.
    ///
    /// # Errors
    /// No key names a weight, one is named in two spellings, or a difference has another shape than its weight.
    /// Only of patch embeddings another number of input channels is let pass and left out: text-to-video files are in use
    /// on image-to-video networks.
    pub fn fit(self, manifest: &Manifest, names: &KeyMap, network: &str) -> Result<Fitted, LoraError> {
        let names = Names::new(manifest, names);
        let mut fitting =
            Fitting { names, file: &self, targets: BTreeMap::new(), left: Leftovers::default(), wrong: vec![] };
        for (name, module) in &self.modules {
            fitting.module(name, module);
        }
        let Fitting { targets, left: mut leftovers, wrong, .. } = fitting;
        let path = || self.path().to_owned();
        if !wrong.is_empty() {
            let list = shorten(&wrong, 10);
            return Err(LoraError::Shapes { path: path(), network: network.to_owned(), count: wrong.len(), list });
        }
        for (weight, terms) in &targets {
            // A pair, its biases and a whole difference of one module belong together.
            let Some((first, rest)) = terms.split_first() else { continue };
            if let Some(other) = rest.iter().find(|term| term.module != first.module) {
                let problem = format!("{} and {} are both for {weight}, under two names", first.key(), other.key());
                return Err(LoraError::Damaged { path: path(), problem });
            }
        }
        leftovers.unmatched.extend(self.unknown.iter().cloned());
        leftovers.text_encoder.clone_from(&self.text_encoder);
        if targets.is_empty() {
            let keys: Vec<String> = self.checkpoint.entries().map(|e| e.name.clone()).collect();
            let list = shorten(&keys, 3);
            return Err(LoraError::NothingMatches {
                path: path(),
                network: network.to_owned(),
                count: keys.len(),
                list,
            });
        }
        Ok(Fitted { file: self, targets, leftovers })
    }
}

impl Fitted {
    /// The opened file.
    pub fn file(&self) -> &LoraFile {
        &self.file
    }

    /// Names of the weights it changes, in order.
    pub fn targets(&self) -> impl ExactSizeIterator<Item = &str> {
        self.targets.keys().map(String::as_str)
    }

    /// What of the file is not applied.
    pub fn leftovers(&self) -> &Leftovers {
        &self.leftovers
    }
}

/// The first few of many in one line, with a mark if there are more.
pub fn shorten(list: &[String], most: usize) -> String {
    let more = if list.len() > most { ", …" } else { "" };
    format!("{}{more}", list.iter().take(most).cloned().collect::<Vec<_>>().join(", "))
}

/// All names under which the weights of a network are known.
struct Names<'a> {
    exact: HashMap<String, &'a TensorSpec>,
    /// With underscores instead of dots; `None` where two weights would have one name.
    flat: HashMap<String, Option<&'a TensorSpec>>,
}

impl<'a> Names<'a> {
    fn new(manifest: &'a Manifest, names: &KeyMap) -> Self {
        let mut exact: HashMap<String, &TensorSpec> = HashMap::new();
        for spec in manifest.tensors() {
            for alias in names.aliases(&spec.name) {
                exact.entry(alias).or_insert(spec);
            }
        }
        // A weight's own name comes before other weights' aliases.
        exact.extend(manifest.tensors().map(|spec| (spec.name.clone(), spec)));
        let mut flat: HashMap<String, Option<&TensorSpec>> = HashMap::new();
        for (name, spec) in &exact {
            let slot = flat.entry(name.replace('.', "_")).or_insert(Some(*spec));
            if slot.is_some_and(|other| other.name != spec.name) {
                *slot = None;
            }
        }
        Self { exact, flat }
    }

    /// The parameter of a module; a module without dots may have lost them.
    fn find(&self, module: &str, parameter: &str) -> Option<&'a TensorSpec> {
        let name = format!("{module}.{parameter}");
        let flat = || self.flat.get(&name.replace('.', "_")).copied().flatten();
        self.exact.get(&name).copied().or_else(|| if module.contains('.') { None } else { flat() })
    }

    /// The weight of a module, or a parameter that is named itself.
    fn weight(&self, module: &str) -> Option<&'a TensorSpec> {
        let flat = || self.flat.get(module).copied().flatten();
        self.find(module, "weight").or_else(|| self.exact.get(module).copied()).or_else(flat)
    }
}

struct Fitting<'a> {
    names: Names<'a>,
    file: &'a LoraFile,
    targets: BTreeMap<String, Vec<Term>>,
    left: Leftovers,
    wrong: Vec<String>,
}

impl Fitting<'_> {
    fn module(&mut self, name: &str, module: &Module) {
        let weight = self.names.weight(name);
        let term = |difference, factor| Term { difference, factor, module: name.to_owned() };
        if let Some(pair) = &module.pair {
            let keys = || std::iter::once(&pair.down).chain(&pair.ups);
            self.add(weight, keys, &pair.shape, term(Difference::LowRank(pair.clone()), pair.scale));
        }
        let scale = module.pair.as_ref().map_or(1.0, |p| p.scale);
        let bias = self.names.find(name, "bias");
        let wholes = [
            (&module.diff, weight, 1.0),
            (&module.diff_bias, bias, 1.0),
            (&module.up_bias, bias, scale),
            (&module.diff_modulation, self.names.find(name, "modulation"), 1.0),
        ];
        for (key, spec, factor) in wholes {
            let Some(key) = key else { continue };
            let file = self.file;
            let shape = file.checkpoint.shape(key).unwrap_or_default();
            self.add(spec, || std::iter::once(key), shape, term(Difference::Whole(key.clone()), factor));
        }
    }

    /// `keys` are the tensors that make a difference of `shape`.
    fn add<'k, I: Iterator<Item = &'k String>>(
        &mut self,
        spec: Option<&TensorSpec>,
        keys: impl Fn() -> I,
        shape: &[usize],
        term: Term,
    ) {
        let Some(spec) = spec else { return self.left.unmatched.extend(keys().cloned()) };
        let is_pair = matches!(term.difference, Difference::LowRank(_));
        if same_values(shape, &spec.shape) && (!is_pair || shape.first() == spec.shape.first()) {
            self.targets.entry(spec.name.clone()).or_default().push(term);
            return;
        }
        let problem = format!("{} is {shape:?}, the network's {:?}", spec.name, spec.shape);
        let patches = spec.name.contains("patch_embedding") && shape.len() == spec.shape.len();
        match patches && shape.iter().zip(&spec.shape).enumerate().all(|(axis, (a, b))| axis == 1 || a == b) {
            true => self.left.patches.push(problem),
            false => self.wrong.push(problem),
        }
    }
}

/// The same but for dimensions of 1, or a convolution's kernel as the rows of a matrix.
fn same_values(shape: &[usize], wanted: &[usize]) -> bool {
    let rows = |s: &[usize]| s.split_first().map(|(rows, rest)| (*rows, rest.iter().product::<usize>()));
    let is_matrix = shape.len() == 2 || wanted.len() == 2;
    same_but_ones(shape, wanted) || (is_matrix && rows(shape) == rows(wanted))
}
