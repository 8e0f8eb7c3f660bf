//! From the frames a clip has to the frames a model wants.

use crate::error::{MediaError, Result};
use serde::{Deserialize, Serialize};

/// How a clip's frames become the model's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrameMode {
    /// Keep the speed of the motion: frame k is the one on screen at k/fps seconds.
    #[default]
    KeepTime,
    /// Frame k is the clip's frame k, whatever its time, as the reference pipeline does; a 30 fps clip then plays
    /// slower at 16 fps.
    OneToOne,
}

/// What to do with a clip that is too short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShortClip {
    /// Refuse, naming the largest number of frames that fits.
    #[default]
    Error,
    /// Repeat the last frame.
    HoldLast,
}

/// Times of containers are rounded to a millisecond; a frame that begins this much late is still on time.
const ROUNDING_S: f64 = 1e-3;

/// For each of `num_frames` output frames, the index of the clip's frame to show.
///
/// `timestamps_s` are the clip's frame times in seconds, rising, as [`timestamps`](super::timestamps) or the reader
/// give them; the first counts as 0. The last frame is taken to last as long as the middle one of all frames.
/// `target_fps` is used by [`FrameMode::KeepTime`] only.
///
/// # Errors
/// No frame at all, a rate that is not above 0, and with [`ShortClip::Error`] a clip that gives fewer frames.
pub fn resample_indices(
    timestamps_s: &[f64],
    target_fps: f64,
    num_frames: usize,
    mode: FrameMode,
    short_clip: ShortClip,
) -> Result<Vec<usize>> {
    if !(target_fps > 0.0 && target_fps <= super::FrameRate::MAX) {
        return Err(MediaError::FrameRate { fps: target_fps, max: super::FrameRate::MAX });
    }
    let available = available_frames(timestamps_s, target_fps, mode);
    if available == 0 || (available < num_frames && short_clip == ShortClip::Error) {
        return Err(MediaError::ClipTooShort {
            wanted: num_frames,
            available,
            largest: largest_clip_length(available),
        });
    }
    let last = timestamps_s.len() - 1;
    Ok(match mode {
        FrameMode::OneToOne => (0..num_frames).map(|k| k.min(last)).collect(),
        FrameMode::KeepTime => {
            let slack = ROUNDING_S.min(0.25 / target_fps);
            let start = timestamps_s[0];
            (0..num_frames)
                .map(|k| {
                    let time = start + k as f64 / target_fps + slack;
                    timestamps_s.partition_point(|&t| t <= time).saturating_sub(1)
                })
                .collect()
        }
    })
}

/// How many frames at `target_fps` the clip gives without repeating its end.
pub fn available_frames(timestamps_s: &[f64], target_fps: f64, mode: FrameMode) -> usize {
    let (Some(first), Some(last)) = (timestamps_s.first(), timestamps_s.last()) else {
        return 0;
    };
    match mode {
        FrameMode::OneToOne => timestamps_s.len(),
        FrameMode::KeepTime => {
            let mut steps: Vec<f64> = timestamps_s.windows(2).map(|pair| pair[1] - pair[0]).collect();
            steps.sort_by(f64::total_cmp);
            let last_frame = steps.get(steps.len() / 2).copied().unwrap_or(0.0);
            let duration = last - first + last_frame;
            // Frame k is shown when k/fps lies before the end; the slack keeps 2.7 s · 30/s at 81, not 82.
            let slack = ROUNDING_S.min(0.25 / target_fps);
            (((duration - slack) * target_fps).ceil().max(1.0)) as usize
        }
    }
}

/// The largest 4·n+1 (n ≥ 0) that is at most `available`: what the models' causal VAE takes.
pub fn largest_clip_length(available: usize) -> Option<usize> {
    available.checked_sub(1).map(|n| n / 4 * 4 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn constant(fps: f64, count: usize) -> Vec<f64> {
        (0..count).map(|i| i as f64 / fps).collect()
    }

    #[test]
    fn thirty_to_sixteen_keeps_time() {
        let times = constant(30.0, 81);
        assert_eq!(available_frames(&times, 16.0, FrameMode::KeepTime), 44);
        let indices = resample_indices(&times, 16.0, 41, FrameMode::KeepTime, ShortClip::Error).unwrap();
        assert_eq!(indices[..6], [0, 1, 3, 5, 7, 9]);
        assert_eq!(indices[40], 75);
        let one = resample_indices(&times, 16.0, 81, FrameMode::OneToOne, ShortClip::Error).unwrap();
        assert_eq!(one, (0..81).collect::<Vec<_>>());
    }

    #[test]
    fn same_rate_is_identity_even_with_rounded_times() {
        for fps in [16.0, 24.0, 29.97, 30.0, 60.0] {
            let rounded: Vec<f64> = constant(fps, 81).iter().map(|t| (t * 1000.0).round() / 1000.0).collect();
            let indices = resample_indices(&rounded, fps, 81, FrameMode::KeepTime, ShortClip::Error).unwrap();
            assert_eq!(indices, (0..81).collect::<Vec<_>>(), "{fps}");
            assert_eq!(available_frames(&rounded, fps, FrameMode::KeepTime), 81, "{fps}");
        }
    }

    #[test]
    fn a_pause_is_held_and_a_burst_is_thinned() {
        // 0.5 s on the first frame, then ten frames in 0.1 s, then 0.4 s on the last.
        let mut times = vec![0.0];
        times.extend((0..10).map(|i| 0.5 + f64::from(i) * 0.01));
        times.push(1.0);
        let indices = resample_indices(&times, 10.0, 10, FrameMode::KeepTime, ShortClip::Error).unwrap();
        assert_eq!(indices, [0, 0, 0, 0, 0, 1, 10, 10, 10, 10]);
    }

    #[test]
    fn too_short_names_what_fits_or_holds() {
        let times = constant(16.0, 20);
        let error = resample_indices(&times, 16.0, 81, FrameMode::KeepTime, ShortClip::Error).unwrap_err();
        assert!(matches!(error, MediaError::ClipTooShort { wanted: 81, available: 20, largest: Some(17) }));
        let held = resample_indices(&times, 16.0, 25, FrameMode::KeepTime, ShortClip::HoldLast).unwrap();
        assert_eq!(held[18..], [18, 19, 19, 19, 19, 19, 19]);
        assert!(resample_indices(&[], 16.0, 5, FrameMode::KeepTime, ShortClip::HoldLast).is_err());
        assert!(resample_indices(&times, 0.0, 5, FrameMode::KeepTime, ShortClip::Error).is_err());
        let one = resample_indices(&[0.0], 16.0, 1, FrameMode::KeepTime, ShortClip::Error).unwrap();
        assert_eq!(one, [0]);
    }

    proptest! {
        /// Indices exist, never go back, and each lies in the display interval of its time.
        #[test]
        fn indices_rise_and_fit(steps in prop::collection::vec(0.002f64..0.2, 1..60), fps in 1.0f64..60.0) {
            let mut times = vec![0.0];
            for step in steps { times.push(times[times.len() - 1] + step); }
            let count = available_frames(&times, fps, FrameMode::KeepTime);
            let indices = resample_indices(&times, fps, count, FrameMode::KeepTime, ShortClip::Error).unwrap();
            prop_assert!(indices.windows(2).all(|pair| pair[0] <= pair[1]));
            for (k, &i) in indices.iter().enumerate() {
                let time = k as f64 / fps;
                prop_assert!(times[i] <= time + ROUNDING_S);
                prop_assert!(times.get(i + 1).is_none_or(|&next| next > time));
            }
        }
    }
}
