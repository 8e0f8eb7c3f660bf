//! Layers of settings: flag > STEADYDANCE_* > ./steadydance.toml > the user's config.toml > preset > default.
//!
//! figment merges them and remembers where each value came from. Whatever its source, a value is read by the parser of
//! its flag, so that a file and a flag understand the same and complain alike.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, Command, FromArgMatches};
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use steadydance::preset;

use super::args::ShowArgs;
use super::failure::Failure;
use super::known;
use super::terminal::{self, Terminal};
use super::values::{LoraValue, PATH_KEYS, Values};

/// Beginning of the environment variables.
const PREFIX: &str = "STEADYDANCE_";
/// Variables with that beginning which are no settings: that of `--manifests`, which every command has, and the tests'.
const NOT_SETTINGS: [&str; 3] = ["STEADYDANCE_MANIFESTS", "STEADYDANCE_GOLDEN_DIR", "STEADYDANCE_TOKENIZER_FIXTURE"];
/// The project's file.
const PROJECT_FILE: &str = "steadydance.toml";

/// All layers merged.
pub struct Config {
    /// The values in effect.
    pub values: Values,
    figment: Figment,
}

impl Config {
    /// Reads the layers below `flags`.
    ///
    /// # Errors
    /// A file or variable that cannot be understood, or a preset that does not exist.
    pub fn load(flags: &Values, terminal: Terminal) -> Result<Self, Failure> {
        let mut upper = Figment::new();
        if let Some(file) = user_file() {
            upper = upper.merge(file_layer(&file)?);
        }
        upper = upper.merge(file_layer(Path::new(PROJECT_FILE))?);
        for layer in environment(terminal)? {
            upper = upper.merge(layer);
        }
        upper = upper.merge(Layer::of("flag".to_owned(), flags)?);

        let mut defaults = Values::defaults();
        let chosen: Values = extract(&Figment::from(Layer::of("default".to_owned(), &defaults)?).merge(upper.clone()))?;
        // The embedded model has settings of its own; every other one is run as upstream's README runs it.
        let usual = if chosen.model.as_deref() == Some("demo") { "demo" } else { "official" };
        defaults.preset = Some(usual.to_owned());
        let default = Figment::from(Layer::of("default".to_owned(), &defaults)?);
        let preset = preset(chosen.preset.as_deref().unwrap_or(usual))?;
        let layer = Layer::of(format!("preset {}", preset.name), &Values::of_preset(&preset))?;
        let mut figment = default.merge(layer);
        if let Some(profile) = chosen.memory.quality_profile.filter(|_| preset.distilled_timesteps.is_none()) {
            let values = Values { steps: Some(profile.quality().steps), ..Values::default() };
            figment = figment.merge(Layer::of(format!("quality profile {profile}"), &values)?);
        }
        let figment = figment.merge(upper);
        Ok(Self { values: extract(&figment)?, figment })
    }

    /// Where the value of a key came from.
    fn origin(&self, key: &str) -> String {
        self.figment.find_metadata(key).map_or_else(|| "not set".to_owned(), |m| m.name.to_string())
    }
}

/// One layer under the name that `config show` gives it.
struct Layer {
    name: String,
    dict: Dict,
}

impl Layer {
    fn of(name: String, values: &Values) -> Result<Self, Failure> {
        let dict = match Value::serialize(values).map_err(Failure::other)? {
            Value::Dict(_, dict) => dict,
            _ => Dict::new(),
        };
        Ok(Self { name, dict })
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Serialized::defaults(&self.dict).data()
    }
}

fn extract(figment: &Figment) -> Result<Values, Failure> {
    figment.extract().map_err(|e| Failure::usage(format!("configuration: {e}")))
}

/// `config.toml` in the user's configuration folder; the file need not exist.
fn user_file() -> Option<PathBuf> {
    directories::ProjectDirs::from("", "", "steadydance").map(|d| d.config_dir().join("config.toml"))
}

fn file_layer(file: &Path) -> Result<Layer, Failure> {
    let name = file.display().to_string();
    let mut values = Values::default();
    let mut dict = Dict::new();
    if std::fs::metadata(file).is_ok_and(|info| !info.is_file() || info.len() > 1 << 20) {
        return Err(Failure::usage(format!("{name}: settings are a file of at most 1 MiB")));
    }
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => String::new(),
        Err(e) => return Err(Failure::usage(format!("{name}: cannot be read: {e}"))),
    };
    let tables = Toml::string(&text).data().map_err(|e| Failure::usage(format!("{name}: {}", toml_reason(&e))))?;
    for table in tables.into_values() {
        dict.extend(table);
    }
    for (key, value) in &dict {
        let texts = match value {
            Value::Array(_, items) if is_repeatable(key) => items.iter().map(text_of).collect(),
            one => text_of(one).map(|text| vec![text]),
        };
        let texts =
            texts.ok_or_else(|| Failure::usage(format!("{name}: key `{key}` is a table; expected a single value")))?;
        values = set(values, key, &texts).map_err(|problem| Failure::usage(format!("{name}: {problem}")))?;
    }
    let mut layer = Layer::of(name, &values)?;
    // In the user's file a path means a place beside that file, not beside whatever is current.
    if let Some(folder) = file.parent().filter(|f| !f.as_os_str().is_empty()) {
        for key in PATH_KEYS {
            if let Some(text) = layer.dict.get(key).and_then(Value::as_str) {
                let known = known::find(text).is_some();
                let place = beside(folder, text, key == "model" || known);
                layer.dict.insert(key.to_owned(), place.into());
            }
        }
        if let Some(loras) = values.lora {
            let moved = loras.into_iter().map(|l| LoraValue { file: beside(folder, &l.file, true), ..l }.to_string());
            layer.dict.insert("lora".to_owned(), moved.collect::<Vec<_>>().into());
        }
    }
    Ok(layer)
}

/// A path from a file in `folder`. Where names are allowed, a word that is no file there is one.
fn beside(folder: &Path, text: &str, names: bool) -> String {
    let is_name = names && !text.contains(['/', '\\']) && !folder.join(text).exists();
    if is_name { text.to_owned() } else { folder.join(text).to_string_lossy().into_owned() }
}

fn environment(terminal: Terminal) -> Result<Vec<Layer>, Failure> {
    let mut layers = Vec::new();
    let mut variables: Vec<_> = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v))).collect();
    variables.sort();
    for (variable, text) in variables {
        let Some(key) = variable.strip_prefix(PREFIX).map(|k| k.to_ascii_lowercase().replace('_', "-")) else {
            continue;
        };
        if NOT_SETTINGS.contains(&variable.as_str()) {
            continue;
        }
        if !is_key(&key) {
            terminal.warning(&format!("the environment variable {variable} is no setting and is ignored"));
            continue;
        }
        let text = text.into_string().map_err(|_| Failure::usage(format!("{variable}: not valid UTF-8")))?;
        let values = set(Values::default(), &key, &[text])
            .map_err(|problem| Failure::usage(format!("{variable}: {problem}")))?;
        layers.push(Layer::of(variable, &values)?);
    }
    Ok(layers)
}

/// The flags of [`Values`] as a command of their own.
fn flags() -> Command {
    Values::augment_args(Command::new("settings").no_binary_name(true).disable_help_flag(true))
}

/// All keys: the names of the flags.
fn keys() -> Vec<String> {
    flags().get_arguments().filter_map(|a| a.get_long()).map(str::to_owned).collect()
}

/// Whether it is the name of a flag, or another name of one.
fn is_key(key: &str) -> bool {
    let named = |a: &clap::Arg| a.get_long() == Some(key) || a.get_all_aliases().unwrap_or_default().contains(&key);
    flags().get_arguments().any(named)
}

/// Whether the flag may be given several times, and its key be an array of whole values.
fn is_repeatable(key: &str) -> bool {
    flags().get_arguments().any(|a| a.get_long() == Some(key) && matches!(a.get_action(), ArgAction::Append))
}

/// Sets one key to what its flag would understand, given once for each text.
fn set(mut values: Values, key: &str, texts: &[String]) -> Result<Values, String> {
    if !is_key(key) {
        let dashed = key.replace('_', "-");
        let hint = match is_key(&dashed) {
            true => format!("did you mean `{dashed}`?"),
            false => format!("the keys are {}", keys().join(", ")),
        };
        return Err(format!("unknown key `{key}`; {hint}"));
    }
    let outcome = flags().try_get_matches_from(texts.iter().map(|text| format!("--{key}={text}")));
    outcome.and_then(|m| values.update_from_arg_matches(&m)).map_err(|e| {
        let reason = std::error::Error::source(&e).map(ToString::to_string);
        format!("key `{key}` is {:?}: {}", texts.join(","), reason.unwrap_or_else(|| Failure::from_clap(&e).message))
    })?;
    Ok(values)
}

/// A TOML value as one would write it after the flag.
fn text_of(value: &Value) -> Option<String> {
    Some(match value {
        Value::String(_, text) => text.clone(),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, number) => match (number.to_i128(), number.to_f64()) {
            (Some(whole), _) => whole.to_string(),
            (None, fraction) => fraction?.to_string(),
        },
        Value::Array(_, items) => items.iter().map(text_of).collect::<Option<Vec<_>>>()?.join(","),
        _ => return None,
    })
}

/// The place and the reason of a TOML error, without its drawing.
fn toml_reason(error: &figment::Error) -> String {
    let text = error.kind.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    match lines.as_slice() {
        [] => "cannot be read".to_owned(),
        [one] => (*one).to_owned(),
        [first, .., last] => format!("{first}: {last}"),
    }
}

/// `config show`.
///
/// # Errors
/// As [`Config::load`].
pub fn show(args: &ShowArgs, terminal: Terminal) -> Result<(), Failure> {
    let config = Config::load(&args.values.given(), terminal)?;
    let shown = serde_json::to_value(&config.values).map_err(Failure::other)?;
    let rows: Vec<_> = keys().into_iter().map(|key| (shown[&key].clone(), config.origin(&key), key)).collect();
    if args.json {
        let value: BTreeMap<_, _> = rows
            .into_iter()
            .map(|(value, origin, key)| (key, serde_json::json!({ "value": value, "origin": origin })))
            .collect();
        return terminal::write_json(&value);
    }
    let mut text = String::new();
    for (value, origin, key) in rows {
        let value = if value.is_null() { "-".to_owned() } else { value.to_string() };
        text += &format!("{key:<24} {value:<24} {origin}\n");
    }
    terminal::write_out(&text)
}

#[cfg(test)]
mod tests {
    use super::super::memory_values::MemoryValues;
    use super::super::pose_values::PoseValues;
    use super::*;

    #[test]
    fn every_key_can_be_set_as_text_and_unknown_ones_are_named() {
        let mut values = Values::default();
        for (key, text) in [("size", "64x48"), ("sigmas", "1,0.5,0"), ("metadata", "false"), ("guidance-scale", "5")] {
            values = set(values, key, &[text.to_owned()]).unwrap();
        }
        assert_eq!(values.size.unwrap().0, [64, 48]);
        assert_eq!((values.metadata, values.guidance_scale), (Some(false), Some(5.0)));
        let set = |key: &str, texts: &[&str]| {
            set(values.clone(), key, &texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>())
        };
        assert!(set("num_frames", &["5"]).unwrap_err().contains("`num-frames`"));
        assert!(set("steps", &["many"]).unwrap_err().contains("`steps` is \"many\""));
        assert!(set("stepz", &["5"]).unwrap_err().contains("`stepz`"));
        assert!(is_repeatable("lora") && !is_repeatable("sigmas"));
        let loras = set("lora", &["a,b.pth:0.5", "c.pth"]).unwrap().lora.unwrap();
        assert_eq!(loras.iter().map(LoraValue::to_string).collect::<Vec<_>>(), ["a,b.pth:0.5", "c.pth:1"]);
        assert!(set("lora", &["a:1000"]).unwrap_err().contains("-100 to 100"));
    }

    #[test]
    fn keys_in_files_are_the_flags() {
        let all = Values {
            model: Some("m".into()),
            vae: Some("v".into()),
            text_encoder: Some("t".into()),
            image_encoder: Some("i".into()),
            tokenizer: Some("t".into()),
            lora: Some(vec!["l:2".parse().unwrap()]),
            dtype: Some(steadydance::HeldDType::F16),
            compute: Some(super::super::values::ComputeChoice::Bf16),
            attention: Some(super::super::values::AttentionChoice::Int8),
            memory: MemoryValues {
                dit_dtype: "fp8".parse().ok(),
                text_dtype: "bf16".parse().ok(),
                vae_dtype: Some(steadydance::HeldDType::Bf16),
                memory_mode: Some(steadydance::MemoryMode::Stream),
                vram_budget: Some(6.0),
                ram_budget: Some(2.0),
                reserve_vram: Some(0.0),
                blocks_resident: Some(3),
                offload_to: Some(steadydance::OffloadTo::Disk),
                async_offload: Some(false),
                pin_memory: Some(steadydance::PinMemory::Off),
                on_pressure: Some(steadydance::OnPressure::Fail),
                quality_profile: Some(steadydance::QualityProfile::Low),
                text_encoder_on: Some(steadydance::Place::Cpu),
                clip_on: Some(steadydance::Place::Cpu),
                vae_on: Some(steadydance::Place::Cpu),
                pose_on: Some(steadydance::Place::Device),
            },
            vae_tile: Some(256),
            preset: Some("official".to_owned()),
            negative_prompt: Some(String::new()),
            size: "64x64".parse().ok(),
            num_frames: Some(5),
            sigmas: "1,0".parse().ok(),
            pose: PoseValues {
                score_threshold: Some(0.3),
                detector: Some("d".into()),
                estimator: Some("e".into()),
                ..PoseValues::default()
            },
            ..Values::of_preset(&preset("official").unwrap())
        };
        let Ok(serde_json::Value::Object(mut map)) = serde_json::to_value(&all) else { panic!("no object") };
        let Ok(serde_json::Value::Object(defaults)) = serde_json::to_value(Values::defaults()) else { panic!() };
        map.extend(defaults);
        let mut keys = keys();
        keys.sort();
        let mut fields: Vec<_> = map.keys().cloned().collect();
        fields.sort();
        assert_eq!(fields, keys);
    }
}
