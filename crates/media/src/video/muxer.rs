//! H.264 in mp4 and VP9 in webm through FFmpeg, with sound.

use std::path::{Path, PathBuf};

use ::image::RgbImage;
use ffmpeg_next::codec::{self, threading};
use ffmpeg_next::format::context::Output;
use ffmpeg_next::format::{self, Pixel};
use ffmpeg_next::{Dictionary, Error, Packet, Rational, color as tags, encoder};

use super::audio::{AudioFeed, AudioOutcome};
use super::codecs::picture_encoder;
use super::color;
use super::writer::{OutputKind, WriterOptions};
use crate::error::{MediaError, Result};
use crate::output::PendingFile;

/// A fixed number: x264's output depends on it, and the same frames must give the same bytes on every machine.
const ENCODER_THREADS: usize = 4;

pub(super) struct Muxer {
    target: PathBuf,
    // Before `pending`: the file must be closed when it is renamed or removed.
    output: Output,
    pending: PendingFile,
    encoder: encoder::video::Encoder,
    clock: Rational,
    frame_ticks: i64,
    last_ticks: i64,
    feed: Option<AudioFeed>,
    pub audio: AudioOutcome,
}

/// Flags every encoder of this output needs.
pub(super) fn codec_flags(output: &Output) -> codec::Flags {
    let mut flags = codec::Flags::BITEXACT;
    if output.format().flags().contains(format::Flags::GLOBAL_HEADER) {
        flags |= codec::Flags::GLOBAL_HEADER;
    }
    flags
}

impl Muxer {
    pub fn create(target: &Path, kind: OutputKind, options: &WriterOptions) -> Result<Self> {
        super::init_ffmpeg();
        let (pending, _) = PendingFile::create(target)?;
        let refused = match Self::begin(target, pending, kind, options, true)? {
            Ok(muxer) => return Ok(muxer),
            Err(refused) => refused,
        };
        // A copied track can be refused by the container; an encoded one is not.
        let (pending, _) = refused;
        Self::begin(target, pending, kind, options, false)?.map_err(|(_, error)| MediaError::write(target, error))
    }

    /// The inner error is a refused header and gives the file back.
    fn begin(
        target: &Path,
        pending: PendingFile,
        kind: OutputKind,
        options: &WriterOptions,
        may_copy: bool,
    ) -> Result<std::result::Result<Self, (PendingFile, Error)>> {
        let fail = |e: Error| MediaError::write(target, e);
        let temp = pending.temp_path().to_str();
        // The prefix keeps a name with a colon from being taken for a protocol.
        let url = format!("file:{}", temp.ok_or_else(|| MediaError::PathNotUtf8 { path: target.to_owned() })?);
        let container = if kind == OutputKind::Webm { "webm" } else { "mp4" };
        let codec_name = picture_encoder(kind).unwrap_or_default();
        let mut output = format::output_as(&url, container).map_err(fail)?;
        let codec = encoder::find_by_name(codec_name)
            .ok_or_else(|| MediaError::EncoderMissing { path: target.to_owned(), codec: codec_name })?;
        let (ticks_per_s, frame_ticks) = options.fps.clock();
        let clock = Rational(1, ticks_per_s as i32);
        let rate = Rational(options.fps.numerator() as i32, options.fps.denominator() as i32);

        let mut video = codec::Context::new_with_codec(codec).encoder().video().map_err(fail)?;
        video.set_width(options.width);
        video.set_height(options.height);
        video.set_format(Pixel::YUV420P);
        video.set_time_base(clock);
        video.set_frame_rate(Some(rate));
        video.set_aspect_ratio(Rational(1, 1));
        video.set_colorspace(tags::Space::BT709);
        video.set_color_range(tags::Range::MPEG);
        video.set_color_primaries(tags::Primaries::BT709);
        video.set_color_transfer_characteristic(tags::TransferCharacteristic::BT709);
        video.set_flags(codec_flags(&output));
        video.set_threading(threading::Config {
            kind: threading::Type::Frame,
            count: ENCODER_THREADS,
            ..Default::default()
        });
        let encoder = video.open_as_with(codec, encoder_settings(kind, options)).map_err(fail)?;

        let mut stream = output.add_stream(codec).map_err(fail)?;
        stream.set_parameters(&encoder);
        stream.set_time_base(clock);
        stream.set_avg_frame_rate(rate);
        let (feed, audio) = match &options.audio {
            Some(source) => AudioFeed::open(source, kind, may_copy, &mut output, target)?,
            None => (None, AudioOutcome::NotAsked),
        };

        let mut metadata = Dictionary::new();
        for (key, text) in [("title", &options.title), ("comment", &options.comment)] {
            if let Some(text) = text {
                // C strings end at a NUL.
                metadata.set(key, &text.replace('\0', " "));
            }
        }
        output.set_metadata(metadata);
        let mut settings = Dictionary::new();
        settings.set("fflags", "+bitexact");
        if kind == OutputKind::Mp4 {
            settings.set("movflags", "+faststart");
        }
        if let Err(error) = output.write_header_with(settings).map(drop) {
            drop(output);
            return Ok(Err((pending, error)));
        }
        Ok(Ok(Self {
            target: target.to_owned(),
            output,
            pending,
            encoder,
            clock,
            frame_ticks: i64::from(frame_ticks),
            last_ticks: -1,
            feed,
            audio,
        }))
    }

    pub fn write(&mut self, image: &RgbImage, time_s: f64) -> Result<()> {
        // Two times may round to one tick.
        let ticks = ((time_s / f64::from(self.clock)).round() as i64).max(self.last_ticks + 1);
        self.last_ticks = ticks;
        let mut frame = color::to_yuv420(image);
        frame.set_pts(Some(ticks));
        if let Some(feed) = &mut self.feed {
            feed.pull(time_s, false, &mut self.output)?;
        }
        self.encoder.send_frame(&frame).map_err(|e| MediaError::write(&self.target, e))?;
        self.drain()
    }

    pub fn finish(mut self, end_s: f64) -> Result<()> {
        if let Some(feed) = &mut self.feed {
            feed.pull(end_s, true, &mut self.output)?;
        }
        let fail = |e: Error| MediaError::write(&self.target, e);
        self.encoder.send_eof().map_err(fail)?;
        self.drain()?;
        self.output.write_trailer().map_err(|e| MediaError::write(&self.target, e))?;
        drop(self.output);
        self.pending.commit()
    }

    fn drain(&mut self) -> Result<()> {
        let fail = |e: Error| MediaError::write(&self.target, e);
        let out_base = self.output.stream(0).map_or(self.clock, |s| s.time_base());
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {
                    packet.set_stream(0);
                    packet.set_duration(self.frame_ticks);
                    packet.rescale_ts(self.clock, out_base);
                    packet.write_interleaved(&mut self.output).map_err(fail)?;
                }
                Err(Error::Eof | Error::Other { errno: ffmpeg_next::error::EAGAIN }) => return Ok(()),
                Err(error) => return Err(fail(error)),
            }
        }
    }
}

fn encoder_settings(kind: OutputKind, options: &WriterOptions) -> Dictionary<'static> {
    let mut settings = Dictionary::new();
    settings.set("crf", &options.crf_or_default(kind).to_string());
    // `to_yuv420` puts chroma in the middle of its four pixels.
    settings.set("chroma_sample_location", "center");
    match kind {
        OutputKind::Webm => {
            // Constant quality, at a speed that suits short clips.
            for (key, value) in [("b", "0"), ("deadline", "good"), ("cpu-used", "4"), ("row-mt", "1")] {
                settings.set(key, value);
            }
        }
        _ => {
            settings.set("preset", &options.preset);
            if avx512() {
                settings.set("x264-params", "asm=avx2");
            }
        }
    }
    settings
}

/// x264's AVX-512 macroblock tree reads memory it never wrote (seen with x264 0.164: the output changes with glibc's
/// `MALLOC_PERTURB_`); its AVX2 code gives the same bytes every time, and the same as SSE4.
fn avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}
