//! Decoding one video stream with FFmpeg.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use ::image::RgbImage;
use ffmpeg_next::codec::{self, threading};
use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::{Dictionary, Error, Packet, Rational, decoder, format, frame, media};

use super::color;
use super::info::{MediaWarning, VideoInfo, rate_varies, tags};
use super::orientation::Orientation;
use crate::error::{MediaError, Result};
use crate::image::{MAX_PIXELS, check_size};
use crate::resize::{Size, bicubic_pil};
use crate::sniff;

/// More decoding threads only cost memory.
const MAX_THREADS: usize = 8;

/// Opens a media file. FFmpeg sees an open file, never a path: no name is taken for a protocol or a pattern, and
/// formats that fetch other files cannot.
pub(super) fn open(path: &Path) -> Result<Input> {
    super::init_ffmpeg();
    let (file, head) = sniff::open_file(path)?;
    let not_a_video = || MediaError::NotAVideo { path: path.to_owned(), looks_like: sniff::looks_like(&head) };
    if let Some((width, height)) = sniff::stated_size(&head) {
        check_size(path, width, height)?;
    }
    let io = StreamIo::from_read_seek(file).map_err(|e| MediaError::damaged(path, "file", e))?;
    let input = format::input_from_stream(io, None, None).map_err(|e| {
        let looks_like = sniff::looks_like(&head);
        match looks_like.contains("video") || looks_like == "a gif" {
            true => MediaError::damaged(path, looks_like.trim_start_matches("an ").trim_start_matches("a "), e),
            false => not_a_video(),
        }
    })?;
    // FFmpeg can draw plain text as video; nobody means that.
    if input.format().name() == "tty" {
        return Err(not_a_video());
    }
    Ok(input)
}

/// The main video stream; cover pictures of sound files do not count.
pub(super) fn video_stream(input: &Input, path: &Path) -> Result<usize> {
    let best = input.streams().best(media::Type::Video);
    best.filter(|stream| !stream.disposition().contains(Disposition::ATTACHED_PIC))
        .map(|stream| stream.index())
        .ok_or_else(|| MediaError::NoVideoStream { path: path.to_owned(), container: input.format().name().to_owned() })
}

/// Whether the file's last byte is `byte`.
fn ends_with(path: &Path, byte: u8) -> bool {
    let mut last = [0];
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)
    });
    read.is_ok() && last[0] == byte
}

/// A video stream being decoded.
pub(super) struct StreamSource {
    path: PathBuf,
    input: Input,
    index: usize,
    time_base: Rational,
    decoder: decoder::Video,
    orientation: Orientation,
    /// Seconds a frame lasts if nothing else says so.
    nominal_frame_s: f64,
    expected: Option<u64>,
    first_timestamp: Option<i64>,
    last_time_s: f64,
    decoded: u64,
    /// Stored size of the first frame, before the rotation.
    size: Option<(u32, u32)>,
    draining: bool,
    finished: bool,
    read_failed: bool,
    corrupt_packets: u64,
    warnings: VecDeque<MediaWarning>,
}

impl StreamSource {
    pub fn open(path: &Path) -> Result<(Self, VideoInfo)> {
        let input = open(path)?;
        let index = video_stream(&input, path)?;
        let no_stream = || MediaError::NoFrames { path: path.to_owned() };
        let stream = input.stream(index).ok_or_else(no_stream)?;
        let parameters = stream.parameters();
        let codec_name = parameters.id().name().to_owned();
        let unsupported = || MediaError::UnsupportedCodec { path: path.to_owned(), codec: codec_name.clone() };

        let mut context =
            codec::Context::from_parameters(parameters).map_err(|e| MediaError::damaged(path, "video", e))?;
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS));
        context.set_threading(threading::Config { kind: threading::Type::Frame, count: threads, ..Default::default() });
        let codec = decoder::find(context.id()).ok_or_else(unsupported)?;
        let mut options = Dictionary::new();
        options.set("max_pixels", &MAX_PIXELS.to_string());
        let mut unopened = context.decoder();
        unopened.set_packet_time_base(stream.time_base());
        let decoder = unopened.open_as_with(codec, options).and_then(|opened| opened.video()).map_err(|e| match e {
            Error::DecoderNotFound | Error::PatchWelcome => unsupported(),
            other => MediaError::damaged(path, "video", other),
        })?;
        check_size(path, u64::from(decoder.width()), u64::from(decoder.height()))?;
        if decoder.width() == 0 || decoder.height() == 0 {
            return Err(no_stream());
        }

        let orientation = Orientation::of(&stream);
        let rate = |r: Rational| {
            if r.0 > 0 && r.1 > 0 { f64::from(r) } else { 0.0 }
        };
        let (avg_fps, r_frame_rate) = (rate(stream.avg_frame_rate()), rate(stream.rate()));
        let seconds = |ticks: i64, base: f64| (ticks > 0).then_some(ticks as f64 * base);
        let duration_s =
            seconds(stream.duration(), f64::from(stream.time_base())).or_else(|| seconds(input.duration(), 1e-6));
        let audio = input.streams().best(media::Type::Audio);
        let mut metadata = tags(&stream.metadata());
        metadata.extend(tags(&input.metadata()));
        let (mut width, mut height) = (decoder.width(), decoder.height());
        if orientation.swaps_sides() {
            (width, height) = (height, width);
        }
        // An edit list can hide most of the frames the container counts.
        let by_duration = duration_s.map(|s| (s * avg_fps) as u64).filter(|&n| n > 0);
        let counted = u64::try_from(stream.frames()).ok().filter(|&n| n > 0);
        let frames = counted.filter(|&n| by_duration.is_none_or(|shown| n <= shown + 2));
        let info = VideoInfo {
            width,
            height,
            rotation: orientation.degrees(),
            avg_fps,
            r_frame_rate,
            duration_s,
            frames,
            codec: codec_name,
            container: input.format().name().to_owned(),
            has_audio: audio.is_some(),
            audio_codec: audio.map(|stream| stream.parameters().id().name().to_owned()),
            variable_frame_rate: rate_varies(path)?,
            metadata,
        };
        let nominal_frame_s = if avg_fps > 0.0 { 1.0 / avg_fps } else { 1.0 / 25.0 };
        // A gif states no length; its last byte says whether it is complete.
        let cut = info.container == "gif" && !ends_with(path, 0x3b);
        let expected = info.frames.filter(|_| !cut).or(by_duration);
        let source = Self {
            path: path.to_owned(),
            index,
            time_base: stream.time_base(),
            decoder,
            orientation,
            nominal_frame_s,
            expected,
            first_timestamp: None,
            last_time_s: f64::NEG_INFINITY,
            decoded: 0,
            size: None,
            draining: false,
            finished: false,
            read_failed: cut,
            corrupt_packets: 0,
            warnings: VecDeque::new(),
            input,
        };
        Ok((source, info))
    }

    /// The next frame, upright, and its time; none at the end.
    pub fn next_frame(&mut self) -> Result<Option<(RgbImage, f64)>> {
        if self.finished {
            return Ok(None);
        }
        loop {
            let mut decoded = frame::Video::empty();
            match self.decoder.receive_frame(&mut decoded) {
                Ok(()) => return self.finish_frame(&decoded).map(Some),
                Err(Error::Other { errno: ffmpeg_next::error::EAGAIN }) if !self.draining => self.feed(),
                Err(Error::Eof) => break,
                // A decoder that fails while being emptied has nothing more to give.
                Err(_) if self.draining => break,
                Err(_) => {
                    self.corrupt_packets += 1;
                    self.feed();
                }
            }
        }
        self.finished = true;
        if self.decoded == 0 {
            return Err(MediaError::NoFrames { path: self.path.clone() });
        }
        self.note_truncation();
        Ok(None)
    }

    pub fn warnings(&mut self) -> std::collections::vec_deque::Drain<'_, MediaWarning> {
        self.warnings.drain(..)
    }

    /// Gives the decoder the stream's next packet, or the end.
    fn feed(&mut self) {
        loop {
            let mut packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() != self.index => {}
                Ok(()) => {
                    if packet.is_corrupt() || self.decoder.send_packet(&packet).is_err() {
                        self.corrupt_packets += 1;
                    }
                    return;
                }
                Err(Error::Other { errno: ffmpeg_next::error::EAGAIN }) => {}
                Err(error) => {
                    self.read_failed |= error != Error::Eof;
                    self.draining = true;
                    // Sending the end twice is the only way this fails.
                    let _ = self.decoder.send_eof();
                    return;
                }
            }
        }
    }

    fn finish_frame(&mut self, decoded: &frame::Video) -> Result<(RgbImage, f64)> {
        let number = self.decoded;
        let (width, height) = (decoded.width(), decoded.height());
        check_size(&self.path, u64::from(width), u64::from(height))?;
        let mut rgb = color::to_rgb(decoded).map_err(|e| MediaError::damaged(&self.path, "video", e))?;
        let first = *self.size.get_or_insert((width, height));
        if first != (width, height) {
            if !self.warnings.iter().any(|w| matches!(w, MediaWarning::SizeChanged { .. })) {
                self.warnings.push_back(MediaWarning::SizeChanged { frame: number, width, height });
            }
            rgb = bicubic_pil(&rgb, Size::new(first.0 as usize, first.1 as usize));
        }
        let time_s = self.time_of(decoded);
        self.decoded += 1;
        self.last_time_s = time_s;
        Ok((self.orientation.apply(rgb), time_s))
    }

    /// Seconds since the first frame. A missing or falling time is replaced by one frame after the last.
    fn time_of(&mut self, decoded: &frame::Video) -> f64 {
        let stated = decoded.timestamp().map(|ticks| {
            let first = *self.first_timestamp.get_or_insert(ticks);
            (ticks - first) as f64 * f64::from(self.time_base)
        });
        match stated {
            Some(time) if time > self.last_time_s => time,
            _ if self.decoded == 0 => 0.0,
            _ => self.last_time_s + self.nominal_frame_s,
        }
    }

    fn note_truncation(&mut self) {
        if self.corrupt_packets > 0 {
            self.warnings.push_back(MediaWarning::Corrupt { packets: self.corrupt_packets });
        }
        // Edit lists cut a frame or two at either end of a healthy file.
        let missing = self.expected.map_or(0, |expected| expected.saturating_sub(self.decoded));
        let suspicious = self.read_failed || self.corrupt_packets > 0;
        if self.read_failed || (suspicious && missing > 0) || missing > self.decoded / 50 + 2 {
            self.warnings.push_back(MediaWarning::Truncated { decoded: self.decoded, expected: self.expected });
        }
    }
}
