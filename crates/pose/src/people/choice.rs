//! Which person is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Candidate, LEAST_PRESENCE};
use crate::PoseError;

/// Which person is followed. Decided on whole tracks, not frame by frame, so that it never changes under way; in the
/// reference picture the same word chooses among its people.
///
/// As text, and in JSON: `largest`, `center`, `left`, `right`, `all`, or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum PersonChoice {
    /// The greatest sum of box areas over the clip: large, and there for long.
    #[default]
    Largest,
    /// On average nearest to the middle of the picture's width.
    Center,
    /// On average furthest to the left of the picture.
    Left,
    /// On average furthest to the right of the picture.
    Right,
    /// Counted from 0 in order of first appearance, then in the detector's order; anew after every cut.
    Index(usize),
    /// Everybody.
    All,
}

impl PersonChoice {
    /// Words that are understood.
    pub const ALLOWED: &str = "largest, center, left, right, all, or a number (0 is the first)";

    /// The one candidate meant, of all the largest; ties go to the first. `None` if there is no such one.
    pub(super) fn pick(self, candidates: &[Candidate], width: f64) -> Option<usize> {
        let longest = candidates.iter().map(|c| c.sightings).max().unwrap_or(0);
        let least = LEAST_PRESENCE * longest as f64;
        let smallest = |key: &dyn Fn(&Candidate) -> f64| {
            let there = candidates.iter().enumerate().filter(|(_, c)| c.sightings as f64 >= least);
            there.min_by(|(_, a), (_, b)| key(a).total_cmp(&key(b))).map(|(i, _)| i)
        };
        match self {
            Self::Largest | Self::All => smallest(&|c| -c.area),
            Self::Center => smallest(&|c| (c.x - width / 2.0).abs()),
            Self::Left => smallest(&|c| c.x),
            Self::Right => smallest(&|c| -c.x),
            Self::Index(index) => (index < candidates.len()).then_some(index),
        }
    }
}

impl fmt::Display for PersonChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Largest => f.write_str("largest"),
            Self::Center => f.write_str("center"),
            Self::Left => f.write_str("left"),
            Self::Right => f.write_str("right"),
            Self::Index(index) => write!(f, "{index}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for PersonChoice {
    type Err = PoseError;

    fn from_str(text: &str) -> Result<Self, PoseError> {
        match text {
            "largest" => Ok(Self::Largest),
            "center" => Ok(Self::Center),
            "left" => Ok(Self::Left),
            "right" => Ok(Self::Right),
            "all" => Ok(Self::All),
            _ => text.parse().map(Self::Index).map_err(|_| PoseError::Word {
                name: "person",
                found: text.to_owned(),
                allowed: Self::ALLOWED,
            }),
        }
    }
}

impl TryFrom<String> for PersonChoice {
    type Error = PoseError;

    fn try_from(text: String) -> Result<Self, PoseError> {
        text.parse()
    }
}

impl From<PersonChoice> for String {
    fn from(choice: PersonChoice) -> Self {
        choice.to_string()
    }
}
