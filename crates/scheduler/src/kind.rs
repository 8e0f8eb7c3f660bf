//! The samplers by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A step rule, under the name that a command line, a preset or a job file uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SamplerKind {
    /// `unipc`: FlowUniPC, order 2, bh2, x0-prediction; the default of Wan 2.1 and SteadyDancer.
    #[serde(rename = "unipc")]
    UniPc,
    /// `dpm++`: DPM-Solver++ 2M, midpoint, as Wan 2.1 ships it.
    #[serde(rename = "dpm++")]
    DpmPp,
    /// `dpm++-sde`: SDE-DPM-Solver++ 2M, midpoint; ComfyUI-WanVideoWrapper calls it `dpm++_sde`.
    #[serde(rename = "dpm++-sde", alias = "dpm++_sde")]
    DpmPpSde,
    /// `euler`: one Euler step of the flow per sigma.
    #[serde(rename = "euler")]
    Euler,
    /// `lcm`: predict x0, then noise it afresh to the next sigma.
    #[serde(rename = "lcm")]
    Lcm,
    /// `rcm`: rCM / TurboDiffusion, stochastic: predict x0, then noise it afresh to the next sigma.
    #[serde(rename = "rcm")]
    Rcm,
    /// `rcm-ode`: rCM / TurboDiffusion, deterministic: Euler on rCM's sigmas.
    #[serde(rename = "rcm-ode")]
    RcmOde,
}

impl SamplerKind {
    /// Every sampler, in the order in which they are listed to a user.
    pub const ALL: [SamplerKind; 7] =
        [Self::UniPc, Self::DpmPp, Self::DpmPpSde, Self::Euler, Self::Lcm, Self::Rcm, Self::RcmOde];

    /// The name that [`FromStr`] reads and [`fmt::Display`] writes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UniPc => "unipc",
            Self::DpmPp => "dpm++",
            Self::DpmPpSde => "dpm++-sde",
            Self::Euler => "euler",
            Self::Lcm => "lcm",
            Self::Rcm => "rcm",
            Self::RcmOde => "rcm-ode",
        }
    }

    /// Whether the rule draws fresh noise at each step but the last.
    pub const fn is_stochastic(self) -> bool {
        matches!(self, Self::DpmPpSde | Self::Lcm | Self::Rcm)
    }

    /// Whether the network receives `1000·sigma` cut to an integer, as the multistep solvers of Wan 2.1 do.
    pub(crate) const fn truncates_timesteps(self) -> bool {
        matches!(self, Self::UniPc | Self::DpmPp | Self::DpmPpSde)
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for SamplerKind {
    type Err = UnknownSampler;

    /// Reads a name without regard to case; `_` counts as `-`, so the wrapper's `dpm++_sde` is understood.
    ///
    /// # Errors
    /// [`UnknownSampler`], which lists the names.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = text.trim().to_ascii_lowercase().replace('_', "-");
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == wanted)
            .ok_or_else(|| UnknownSampler { found: text.to_owned() })
    }
}

/// A sampler name that is none of [`SamplerKind::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sampler is {found:?}; expected one of {}", names())]
pub struct UnknownSampler {
    /// The text as it was given.
    pub found: String,
}

fn names() -> String {
    SamplerKind::ALL.map(SamplerKind::name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for kind in SamplerKind::ALL {
            assert_eq!(kind.to_string().parse::<SamplerKind>(), Ok(kind));
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(serde_json::from_str::<SamplerKind>(&json).unwrap(), kind);
        }
        assert_eq!("DPM++_SDE".parse::<SamplerKind>(), Ok(SamplerKind::DpmPpSde));
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let message = "dpm".parse::<SamplerKind>().unwrap_err().to_string();
        assert_eq!(message, "sampler is \"dpm\"; expected one of unipc, dpm++, dpm++-sde, euler, lcm, rcm, rcm-ode");
    }
}
