//! How often something is done.

use std::time::Duration;

/// A time between two of something, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval(pub Option<Duration>);

/// Longest interval: a year says as much as never.
const MOST_SECONDS: f64 = 3.2e7;

/// Seconds, or `off`.
pub fn interval(text: &str) -> Result<Interval, String> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(Interval(None));
    }
    let seconds = text.parse().ok().filter(|s| (0.0..=MOST_SECONDS).contains(s));
    let seconds = seconds.ok_or_else(|| format!("expected seconds from 0 to {MOST_SECONDS}, or off"))?;
    Ok(Interval(Some(Duration::from_secs_f64(seconds))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_or_off() {
        assert_eq!(interval("off"), Ok(Interval(None)));
        assert_eq!(interval("1.5"), Ok(Interval(Some(Duration::from_millis(1500)))));
        for wrong in ["-1", "NaN", "inf", "", "soon"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
