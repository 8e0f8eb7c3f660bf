//! The driving video's sound, cut to the clip: copied where the container takes it, encoded again where not.

use std::path::{Path, PathBuf};

use ffmpeg_next::codec::Id;
use ffmpeg_next::format::context::{Input, Output};
use ffmpeg_next::{Error, Packet, Rational, media};

use super::stream;
use super::transcode::{Source, Transcoder};
use super::writer::OutputKind;
use crate::error::{MediaError, Result};

/// Where the sound of an output comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct AudioSource {
    /// A video or sound file.
    pub path: PathBuf,
    /// Where in the file's video (or sound, if it has no video) the clip begins, in seconds.
    pub start_s: f64,
}

/// What became of the sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AudioOutcome {
    /// None was asked for.
    NotAsked,
    /// The source has no sound track.
    SourceSilent,
    /// gif and picture folders cannot hold sound.
    ContainerCannot,
    /// The installed FFmpeg cannot decode the source's sound or has no encoder for the output's.
    NoCodec,
    /// The packets were copied unchanged.
    Copied,
    /// Decoded and encoded again.
    Encoded,
}

/// Sound packets of the clip, pulled as the video advances.
pub(super) struct AudioFeed {
    input: Input,
    index: usize,
    time_base: Rational,
    /// Source time of the clip's start, in seconds.
    offset_s: f64,
    target: PathBuf,
    out_index: usize,
    mode: Mode,
}

enum Mode {
    Copy { peeked: Option<Packet>, ended: bool },
    Encode(Box<Transcoder>),
}

impl AudioFeed {
    /// Opens the source and adds a stream for it to `output`, before the header is written. Returns the outcome alone
    /// where there will be no sound.
    pub fn open(
        source: &AudioSource,
        kind: OutputKind,
        may_copy: bool,
        output: &mut Output,
        target: &Path,
    ) -> Result<(Option<Self>, AudioOutcome)> {
        if source.path.is_dir() {
            return Ok((None, AudioOutcome::SourceSilent));
        }
        let input = stream::open(&source.path)?;
        let Some(audio) = input.streams().best(media::Type::Audio) else {
            return Ok((None, AudioOutcome::SourceSilent));
        };
        // Frame times count from the first video frame, so the sound's must too.
        let video_start = input.streams().best(media::Type::Video).map(|video| {
            let ticks = video.start_time();
            if ticks == ffmpeg_next::ffi::AV_NOPTS_VALUE { 0.0 } else { ticks as f64 * f64::from(video.time_base()) }
        });
        let (index, time_base) = (audio.index(), audio.time_base());
        let parameters = audio.parameters();
        let fail = |e: Error| MediaError::write(target, e);
        let out_index = output.nb_streams() as usize;
        let copy = may_copy && kind == OutputKind::Mp4 && parameters.id() == Id::AAC;
        let mode = if copy {
            let mut added = output.add_stream(None::<ffmpeg_next::Codec>).map_err(fail)?;
            added.set_parameters(parameters);
            added.set_time_base(time_base);
            Mode::Copy { peeked: None, ended: false }
        } else {
            match Transcoder::open(parameters, time_base, kind, output) {
                Some(transcoder) => Mode::Encode(Box::new(transcoder)),
                None => return Ok((None, AudioOutcome::NoCodec)),
            }
        };
        let outcome = if copy { AudioOutcome::Copied } else { AudioOutcome::Encoded };
        let feed = Self {
            index,
            time_base,
            offset_s: source.start_s + video_start.unwrap_or(0.0),
            target: target.to_owned(),
            out_index,
            mode,
            input,
        };
        Ok((Some(feed), outcome))
    }

    /// Writes the sound that begins before `time_s` of the clip; with `last`, cuts it there and empties the encoder.
    pub fn pull(&mut self, time_s: f64, last: bool, output: &mut Output) -> Result<()> {
        let out_base = output.stream(self.out_index).map_or(self.time_base, |s| s.time_base());
        let mut source = Source {
            input: &mut self.input,
            index: self.index,
            time_base: f64::from(self.time_base),
            offset_s: self.offset_s,
        };
        let mut packets = Vec::new();
        match &mut self.mode {
            Mode::Copy { peeked, ended } => {
                let offset_ticks = (self.offset_s / source.time_base).round() as i64;
                while !*ended {
                    let Some(mut packet) = peeked.take().or_else(|| source.next()) else {
                        *ended = true;
                        break;
                    };
                    let Some(pts) = packet.pts().or(packet.dts()).map(|pts| pts - offset_ticks) else {
                        continue;
                    };
                    if pts as f64 * source.time_base >= time_s {
                        *peeked = Some(packet);
                        break;
                    }
                    if pts + packet.duration().max(1) <= 0 {
                        continue;
                    }
                    packet.set_pts(Some(pts));
                    packet.set_dts(Some(pts));
                    packet.set_position(-1);
                    packet.rescale_ts(self.time_base, out_base);
                    packets.push(packet);
                }
            }
            Mode::Encode(transcoder) => {
                let fail = |e| MediaError::write(&self.target, e);
                transcoder.advance(&mut source, time_s, last, &mut packets).map_err(fail)?;
                for packet in &mut packets {
                    packet.rescale_ts(transcoder.clock(), out_base);
                }
            }
        }
        for mut packet in packets {
            packet.set_stream(self.out_index);
            packet.write_interleaved(output).map_err(|e| MediaError::write(&self.target, e))?;
        }
        Ok(())
    }
}
