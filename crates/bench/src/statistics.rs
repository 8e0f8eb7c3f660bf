//! Medians and their like.

use serde::{Deserialize, Serialize};

/// Of the seconds of several runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// All of them, in the order in which they were taken.
    pub seconds: Vec<f64>,
    /// The middle one, or halfway between the two that are.
    pub median: f64,
    /// Nine of ten are not above it (nearest rank).
    pub p90: f64,
    /// The least.
    pub least: f64,
}

impl Statistics {
    /// `None` without a run.
    pub fn of(seconds: Vec<f64>) -> Option<Self> {
        let mut sorted = seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let rank = |share: f64| (share * count as f64).ceil().max(1.0) as usize - 1;
        let least = *sorted.first()?;
        let median = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0;
        Some(Self { median, p90: sorted[rank(0.9)], least, seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ranks_are_the_customary_ones() {
        assert_eq!(Statistics::of(Vec::new()), None);
        let of = |list: &[f64]| Statistics::of(list.to_vec()).map(|s| (s.median, s.p90, s.least));
        assert_eq!(of(&[3.0]), Some((3.0, 3.0, 3.0)));
        assert_eq!(of(&[4.0, 1.0]), Some((2.5, 4.0, 1.0)));
        assert_eq!(of(&[5.0, 1.0, 3.0]), Some((3.0, 5.0, 1.0)));
        let ten: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        assert_eq!(of(&ten), Some((5.5, 9.0, 1.0)));
    }
}
