//! Cards by name: what their drivers report, how fast they are, and how they are linked.

use super::machine::{DeviceFacts, DeviceKind, GIB, Rates};

/// The share of their peak that good kernels sustain over a forward: published bf16 systems lie between 47 % (plain flash
/// attention 2) and 84 % (flash attention 3, compiled) of the floor that the peak gives (spec performance §2.3).
const SUSTAINED: f64 = 0.6;

/// How a card hangs on its host, in GB/s from pinned and from ordinary memory (§3.7 and §4).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Link(f64, f64);

const PCIE3: Link = Link(12.0, 5.0);
const PCIE4: Link = Link(25.0, 6.0);
const PCIE4_X8: Link = Link(12.5, 6.0);
const PCIE5: Link = Link(50.0, 12.0);
const PCIE5_X8: Link = Link(25.0, 12.0);

/// Name, MiB as `nvidia-smi` reports them, link, peak TFLOP/s dense: half precision with f32 sums, and single.
struct Card(&'static str, u64, Link, f64, f64);

/// The vendor's data sheets; H200's half precision as measured (§2.2). A "24 GB" card reports between 22.5 and 24 GiB.
const CARDS: &[Card] = &[
    Card("RTX 2080 Ti", 11_264, PCIE3, 53.8, 13.4),
    Card("RTX 3060", 12_288, PCIE4, 25.5, 12.7),
    Card("RTX 3070", 8_192, PCIE4, 40.6, 20.3),
    Card("RTX 3080", 10_240, PCIE4, 59.5, 29.8),
    Card("RTX 3090", 24_576, PCIE4, 71.2, 35.6),
    Card("RTX 4060", 8_188, PCIE4_X8, 30.2, 15.1),
    Card("RTX 4060 Ti", 16_380, PCIE4_X8, 44.1, 22.1),
    Card("RTX 4070", 12_282, PCIE4, 58.3, 29.1),
    Card("RTX 4070 Ti Super", 16_376, PCIE4, 88.2, 44.1),
    Card("RTX 4080", 16_376, PCIE4, 97.5, 48.7),
    Card("RTX 4090", 24_564, PCIE4, 165.2, 82.6),
    Card("RTX 5060 Ti", 16_311, PCIE5_X8, 47.4, 23.7),
    Card("RTX 5070", 12_227, PCIE5, 61.7, 30.8),
    Card("RTX 5070 Ti", 16_303, PCIE5, 87.9, 43.9),
    Card("RTX 5080", 16_303, PCIE5, 112.6, 56.3),
    Card("RTX 5090", 32_607, PCIE5, 209.5, 104.8),
    Card("T4", 15_360, PCIE3, 65.0, 8.1),
    Card("A10", 23_028, PCIE4, 125.0, 31.2),
    Card("L4", 23_034, PCIE4, 121.0, 30.3),
    Card("RTX A6000", 49_140, PCIE4, 154.8, 38.7),
    Card("A40", 46_068, PCIE4, 149.7, 37.4),
    Card("L40S", 46_068, PCIE4, 362.0, 91.6),
    Card("RTX 6000 Ada", 49_140, PCIE4, 364.2, 91.1),
    Card("A100 40GB", 40_960, PCIE4, 312.0, 19.5),
    Card("A100 80GB", 81_920, PCIE4, 312.0, 19.5),
    Card("H100", 81_559, PCIE5, 989.0, 66.9),
    Card("H200", 143_771, PCIE5, 790.0, 66.9),
];

/// Cards without bf16.
const TURING: [&str; 2] = ["RTX 2080 Ti", "T4"];

/// No card of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no card {found:?} in the table; known are {known}, or give --vram-budget GIB alone", known = card_names().join(", "))]
pub struct UnknownCard {
    /// What was asked for.
    pub found: String,
}

/// Names of all cards.
pub fn card_names() -> Vec<&'static str> {
    CARDS.iter().map(|card| card.0).collect()
}

/// A card, idle, by its name. Case, spaces, hyphens and the words NVIDIA, GeForce, RTX and GB do not matter: `4090`,
/// `rtx4090` and `NVIDIA GeForce RTX 4090` are one. Of cards that differ in memory the bare name is the smaller.
///
/// # Errors
/// [`UnknownCard`] lists the names.
pub fn card(name: &str) -> Result<DeviceFacts, UnknownCard> {
    let wanted = plain(name);
    // `A100` is a name of both its sizes.
    let bare = |card: &&Card| {
        card.0.rsplit_once(' ').is_some_and(|(name, size)| size.ends_with("GB") && plain(name) == wanted)
    };
    let found = CARDS.iter().find(|card| plain(card.0) == wanted).or_else(|| CARDS.iter().find(bare));
    found.map(facts).ok_or_else(|| UnknownCard { found: name.to_owned() })
}

/// A made-up card of a budget, as fast and linked as an RTX 4090.
pub fn virtual_card(budget_bytes: u64) -> DeviceFacts {
    let gib = budget_bytes as f64 / GIB as f64;
    let like = Card("", 0, PCIE4, 165.2, 82.6);
    DeviceFacts {
        name: format!("a card of {gib} GiB as fast as an RTX 4090"),
        kind: DeviceKind::Virtual,
        total_bytes: budget_bytes,
        free_bytes: budget_bytes,
        ..facts(&like)
    }
}

fn facts(&Card(name, mib, Link(pinned, pageable), half, single): &Card) -> DeviceFacts {
    DeviceFacts {
        name: name.to_owned(),
        kind: DeviceKind::Cuda,
        total_bytes: mib << 20,
        free_bytes: mib << 20,
        pinned_bytes_per_second: pinned * 1e9,
        pageable_bytes_per_second: pageable * 1e9,
        rates: Rates { single: single * SUSTAINED * 1e12, half: half * SUSTAINED * 1e12 },
        has_bf16: !TURING.contains(&name),
    }
}

/// Letters and digits alone, without the maker's words.
fn plain(name: &str) -> String {
    let mut text: String = name.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    for word in ["nvidia", "geforce", "quadro", "tesla", "rtx"] {
        text = text.replace(word, "");
    }
    text.strip_suffix("gb").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_however_they_are_spelt() {
        for (spelt, name) in [
            ("4090", "RTX 4090"),
            ("rtx4090", "RTX 4090"),
            ("NVIDIA GeForce RTX 4090", "RTX 4090"),
            ("4060ti", "RTX 4060 Ti"),
            ("RTX-4060", "RTX 4060"),
            ("a100", "A100 40GB"),
            ("A100-80", "A100 80GB"),
            ("a100 80gb", "A100 80GB"),
            ("a10", "A10"),
            ("A6000", "RTX A6000"),
            ("2080 TI", "RTX 2080 Ti"),
        ] {
            assert_eq!(card(spelt).map(|c| c.name).as_deref(), Ok(name), "{spelt}");
        }
        for name in card_names() {
            assert_eq!(card(name).unwrap().name, name);
        }
        for wrong in ["", "rtx", "409", "9090", "a1", "gb"] {
            let error = card(wrong).unwrap_err().to_string();
            assert!(error.contains("RTX 4090") && error.contains("--vram-budget"), "{wrong}: {error}");
        }
    }

    #[test]
    fn cards_report_what_drivers_report() {
        let gib = |name| card(name).unwrap().total_bytes as f64 / GIB as f64;
        assert!((22.4..22.6).contains(&gib("A10")) && (23.9..24.0).contains(&gib("4090")));
        assert!(!card("2080ti").unwrap().has_bf16 && card("3060").unwrap().has_bf16);
        let rate = card("4090").unwrap().rates.half;
        assert!((0.9e14..1.3e14).contains(&rate), "the 100 to 120 TFLOP/s of spec memory_and_avatars §4.1: {rate}");
        assert_eq!(virtual_card(6 * GIB).free_bytes, 6 * GIB);
    }
}
