//! Tensor names of other projects, as tables.
//!
//! Canonical names are those of the original Wan releases; networks know no others. A map drops a customary prefix,
//! renames by rules (first match on a whole path piece wins, in order), and may join several tensors into one (the
//! Hugging Face CLIP keeps q, k and v apart, the original keeps them stacked).

use std::collections::BTreeMap;

use crate::checkpoint::{Entry, StoredType};

/// How the names of one network are brought to canonical form.
#[derive(Debug, Clone, Default)]
pub struct KeyMap {
    prefixes: &'static [&'static str],
    rules: &'static [(&'static str, &'static str)],
    joins: &'static [(&'static str, [&'static str; 3])],
    drops: &'static [&'static str],
}

impl KeyMap {
    /// A map that changes nothing.
    pub const fn identity() -> Self {
        Self { prefixes: &[], rules: &[], joins: &[], drops: &[] }
    }

    /// Strips the first of these prefixes that a name begins with.
    pub const fn strip(mut self, prefixes: &'static [&'static str]) -> Self {
        self.prefixes = prefixes;
        self
    }

    /// Renames. In a pattern `*` stands for one dot-free piece (a block number) and is carried over in order; a
    /// pattern must match the beginning of the name up to a dot or its end; the rest of the name is kept.
    pub const fn rename(mut self, rules: &'static [(&'static str, &'static str)]) -> Self {
        self.rules = rules;
        self
    }

    /// Joins: (ending of the canonical name, endings of the three source names), concatenated along dimension 0.
    pub const fn join(mut self, joins: &'static [(&'static str, [&'static str; 3])]) -> Self {
        self.joins = joins;
        self
    }

    /// Drops tensors whose (stripped) names begin with one of these.
    pub const fn drop(mut self, drops: &'static [&'static str]) -> Self {
        self.drops = drops;
        self
    }

    /// The canonical name, or `None` when the tensor is dropped.
    pub fn canonical(&self, name: &str) -> Option<String> {
        let stripped = self.prefixes.iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name);
        if self.drops.iter().any(|d| stripped.starts_with(d)) {
            return None;
        }
        let renamed = self.rules.iter().find_map(|(from, to)| apply_rule(stripped, from, to));
        Some(renamed.unwrap_or_else(|| stripped.to_owned()))
    }

    /// Other names of a canonical one: what its rules would rename to it.
    pub fn aliases(&self, canonical: &str) -> impl Iterator<Item = String> {
        self.rules.iter().filter_map(move |(from, to)| apply_rule(canonical, to, from))
    }

    pub(crate) fn apply(&self, entries: BTreeMap<String, Entry>) -> BTreeMap<String, Entry> {
        let mut out = BTreeMap::new();
        for (name, mut entry) in entries {
            if let Some(canonical) = self.canonical(&name) {
                entry.name.clone_from(&canonical);
                out.insert(canonical, entry);
            }
        }
        for (to, from) in self.joins {
            let stems: Vec<String> = out.keys().filter_map(|n| n.strip_suffix(from[0])).map(str::to_owned).collect();
            for stem in stems {
                let names = from.map(|f| format!("{stem}{f}"));
                let Some(parts) = names.iter().map(|n| out.get(n).cloned()).collect::<Option<Vec<_>>>() else {
                    continue;
                };
                if !may_be_joined(&parts) {
                    continue;
                }
                let mut shape = parts[0].shape.clone();
                shape[0] = parts.iter().map(|p| p.shape[0]).sum();
                let name = format!("{stem}{to}");
                let joined = Entry {
                    name: name.clone(),
                    shape,
                    parts: parts.iter().flat_map(|p| p.parts.clone()).collect(),
                    // Each has one for inputs that they share; the joined one could have but one.
                    input_scale: None,
                    ..parts[0]
                };
                for n in &names {
                    out.remove(n);
                }
                out.insert(name, joined);
            }
        }
        out
    }
}

/// Whether rows of these may follow one another: of one type, or quantised (then each piece is decoded for itself).
fn may_be_joined(parts: &[Entry]) -> bool {
    let quantised = |p: &Entry| p.parts.iter().any(|part| matches!(part.dtype, StoredType::Quantised(_)));
    let typed = parts.windows(2).all(|p| p[0].dtype == p[1].dtype)
        || (parts.iter().any(quantised) && parts.iter().all(Entry::is_loadable));
    typed
        && parts.windows(2).all(|p| p[0].shape.get(1..) == p[1].shape.get(1..))
        && parts.iter().all(|p| !p.shape.is_empty() && p.shape == p.parts[0].shape)
}

/// Matches `from` against the beginning of `name`, piece by piece, and puts the pieces that `*` stood for into `to`.
fn apply_rule(name: &str, from: &str, to: &str) -> Option<String> {
    let mut rest = name.split('.');
    let mut caught = Vec::new();
    for piece in from.split('.') {
        let found = rest.next()?;
        match piece {
            "*" => caught.push(found),
            _ if piece == found => {}
            _ => return None,
        }
    }
    let mut caught = caught.into_iter();
    let mut pieces: Vec<&str> =
        to.split('.').map(|p| if p == "*" { caught.next().unwrap_or("*") } else { p }).collect();
    pieces.extend(rest);
    Some(pieces.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_match_whole_pieces_and_carry_numbers() {
        let map = KeyMap::identity()
            .strip(&["model.diffusion_model.", "model."])
            .rename(&[("blocks.*.attn1.to_q", "blocks.*.self_attn.q"), ("head", "tail")])
            .drop(&["textual."]);
        let cases = [
            ("model.diffusion_model.blocks.12.attn1.to_q.weight", Some("blocks.12.self_attn.q.weight")),
            ("blocks.12.attn1.to_qkv.weight", Some("blocks.12.attn1.to_qkv.weight")),
            ("header.weight", Some("header.weight")),
            ("head.weight", Some("tail.weight")),
            ("model.textual.x", None),
        ];
        for (name, want) in cases {
            assert_eq!(map.canonical(name).as_deref(), want, "{name}");
        }
        let aliases: Vec<_> = map.aliases("blocks.12.self_attn.q.weight").collect();
        assert_eq!(aliases, ["blocks.12.attn1.to_q.weight"]);
    }
}
