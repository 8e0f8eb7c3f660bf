//! Sound decoded, resampled, cut by the sample and encoded again.

use ffmpeg_next::format::context::{Input, Output};
use ffmpeg_next::software::resampling;
use ffmpeg_next::{ChannelLayout, Error, Packet, Rational, codec, decoder, encoder, format, frame};

use super::codecs::sound_encoders;
use super::muxer;
use super::writer::OutputKind;

/// Bits a second of encoded sound.
const BIT_RATE: usize = 160_000;

/// The sound packets of the source file.
pub(super) struct Source<'a> {
    pub input: &'a mut Input,
    pub index: usize,
    /// Seconds a tick.
    pub time_base: f64,
    /// Source time of the clip's start, in seconds.
    pub offset_s: f64,
}

impl Source<'_> {
    /// Sound that cannot be read ends there; it is no reason to lose the video.
    pub fn next(&mut self) -> Option<Packet> {
        loop {
            let mut packet = Packet::empty();
            match packet.read(self.input) {
                Ok(()) if packet.stream() == self.index => return Some(packet),
                Ok(()) | Err(Error::Other { errno: ffmpeg_next::error::EAGAIN }) => {}
                Err(_) => return None,
            }
        }
    }
}

/// What the resampler was made for.
type Shape = (format::Sample, ChannelLayout, u32);

/// Decodes, resamples to planes of f32, cuts by the sample, and encodes.
pub(super) struct Transcoder {
    decoder: decoder::Audio,
    resampler: Option<(resampling::Context, Shape)>,
    encoder: encoder::audio::Encoder,
    layout: ChannelLayout,
    rate: u32,
    /// Decoded sound and the clip time of its first sample, waiting for its turn.
    held: Option<(i64, Vec<Vec<f32>>)>,
    /// Samples ready to encode, one vector a channel.
    ready: Vec<Vec<f32>>,
    /// Clip time, in samples, of the first ready sample.
    ready_start: i64,
    source_ended: bool,
}

impl Transcoder {
    /// None if a codec is missing or the source's parameters make no sense.
    pub fn open(
        parameters: codec::Parameters,
        time_base: Rational,
        kind: OutputKind,
        output: &mut Output,
    ) -> Option<Self> {
        let mut unopened = codec::Context::from_parameters(parameters).ok()?.decoder();
        unopened.set_packet_time_base(time_base);
        let decoder = unopened.audio().ok()?;
        let codec = sound_encoders(kind).iter().find_map(|name| encoder::find_by_name(name))?;
        let layout = if decoder.channels() == 1 { ChannelLayout::MONO } else { ChannelLayout::STEREO };
        let rate = match decoder.rate() {
            rate @ (44_100 | 48_000) if codec.name() != "libopus" => rate,
            _ => 48_000,
        };
        let sample = match codec.name() {
            "libopus" => format::Sample::F32(format::sample::Type::Packed),
            _ => format::Sample::F32(format::sample::Type::Planar),
        };
        let mut audio = codec::Context::new_with_codec(codec).encoder().audio().ok()?;
        audio.set_rate(rate as i32);
        audio.set_format(sample);
        audio.set_channel_layout(layout);
        audio.set_channels(layout.channels());
        audio.set_bit_rate(BIT_RATE);
        audio.set_time_base(Rational(1, rate as i32));
        audio.set_flags(muxer::codec_flags(output));
        let encoder = audio.open_as(codec).ok()?;
        let mut stream = output.add_stream(codec).ok()?;
        stream.set_parameters(&encoder);
        stream.set_time_base(Rational(1, rate as i32));
        Some(Self {
            decoder,
            resampler: None,
            ready: vec![Vec::new(); layout.channels() as usize],
            encoder,
            layout,
            rate,
            held: None,
            ready_start: 0,
            source_ended: false,
        })
    }

    pub fn clock(&self) -> Rational {
        Rational(1, self.rate as i32)
    }

    fn ready_end(&self) -> i64 {
        self.ready_start + self.ready[0].len() as i64
    }

    /// Encodes up to `time_s`, in whole packets unless this is the end.
    pub fn advance(
        &mut self,
        source: &mut Source,
        time_s: f64,
        last: bool,
        out: &mut Vec<Packet>,
    ) -> Result<(), Error> {
        let wanted = (time_s * f64::from(self.rate)).round() as i64;
        self.fill(source, wanted);
        if last {
            let keep = (wanted - self.ready_start).max(0) as usize;
            self.ready.iter_mut().for_each(|channel| channel.truncate(keep));
        }
        let packet_samples = match self.encoder.frame_size() {
            0 => 1024,
            n => n as usize,
        };
        while self.ready[0].len() >= packet_samples || (last && !self.ready[0].is_empty()) {
            let count = packet_samples.min(self.ready[0].len());
            let frame = self.take_frame(count);
            self.encoder.send_frame(&frame)?;
            self.collect(out)?;
        }
        if last {
            self.encoder.send_eof()?;
            self.collect(out)?;
        }
        Ok(())
    }

    /// Makes samples ready up to `wanted`, with silence where the source has none.
    fn fill(&mut self, source: &mut Source, wanted: i64) {
        while self.ready_end() < wanted {
            let Some((start, mut samples)) = self.held.take() else {
                if self.source_ended {
                    return;
                }
                self.decode(source);
                continue;
            };
            let gap = start - self.ready_end();
            if gap > 0 {
                let silence = gap.min(wanted - self.ready_end()) as usize;
                self.ready.iter_mut().for_each(|channel| channel.resize(channel.len() + silence, 0.0));
                self.held = Some((start, samples));
            } else {
                // What lies before the clip, or overlaps what is there already, is dropped.
                let skip = usize::try_from(-gap).unwrap_or(usize::MAX).min(samples[0].len());
                for (ready, channel) in self.ready.iter_mut().zip(&mut samples) {
                    ready.extend(channel.drain(..).skip(skip));
                }
            }
        }
    }

    /// Decodes until a frame is held or the source ends.
    fn decode(&mut self, source: &mut Source) {
        loop {
            let mut frame = frame::Audio::empty();
            match self.decoder.receive_frame(&mut frame) {
                Ok(()) => {
                    if self.hold(frame, source).is_some() {
                        return;
                    }
                }
                Err(Error::Eof) => break,
                Err(_) => match source.next() {
                    // A damaged packet is a short silence.
                    Some(packet) => drop(self.decoder.send_packet(&packet)),
                    None if self.decoder.send_eof().is_err() => break,
                    None => {}
                },
            }
        }
        self.source_ended = true;
    }

    fn hold(&mut self, mut frame: frame::Audio, source: &Source) -> Option<()> {
        if frame.channel_layout().is_empty() {
            frame.set_channel_layout(ChannelLayout::default(i32::from(frame.channels())));
        }
        let shape = (frame.format(), frame.channel_layout(), frame.rate());
        if self.resampler.as_ref().is_none_or(|(_, made_for)| *made_for != shape) {
            let planar = format::Sample::F32(format::sample::Type::Planar);
            let made = resampling::Context::get(shape.0, shape.1, shape.2, planar, self.layout, self.rate).ok()?;
            self.resampler = Some((made, shape));
        }
        let (resampler, _) = self.resampler.as_mut()?;
        // Room for the ratio of the rates and for what the filter still holds.
        let room = frame.samples() * self.rate as usize / shape.2.max(1) as usize + 256;
        let planar = format::Sample::F32(format::sample::Type::Planar);
        let mut resampled = frame::Audio::new(planar, room, self.layout);
        resampled.set_rate(self.rate);
        // Times of the samples that come out, not of those that went in.
        let delay_s = resampler.delay().map_or(0.0, |d| d.input as f64 / f64::from(shape.2));
        resampler.run(&frame, &mut resampled).ok()?;
        let start = match frame.timestamp() {
            Some(ticks) => {
                let clip_s = ticks as f64 * source.time_base - source.offset_s - delay_s;
                let start = (clip_s * f64::from(self.rate)).round() as i64;
                // Rounded container times must not tear continuous sound.
                let drift = start - self.ready_end();
                if self.ready[0].is_empty() && self.ready_start == 0 || drift.abs() > i64::from(self.rate) / 20 {
                    start
                } else {
                    self.ready_end()
                }
            }
            None => self.ready_end(),
        };
        let samples: Vec<Vec<f32>> =
            (0..self.ready.len()).map(|c| resampled.plane::<f32>(c)[..resampled.samples()].to_vec()).collect();
        (!samples[0].is_empty()).then(|| self.held = Some((start, samples)))
    }

    fn take_frame(&mut self, count: usize) -> frame::Audio {
        let format = self.encoder.format();
        let mut frame = frame::Audio::new(format, count, self.layout);
        frame.set_rate(self.rate);
        frame.set_pts(Some(self.ready_start));
        let channels = self.ready.len();
        for (c, samples) in self.ready.iter_mut().enumerate() {
            if format.is_packed() {
                let plane: &mut [u8] = frame.data_mut(0);
                for (i, sample) in samples.drain(..count).enumerate() {
                    plane[(i * channels + c) * 4..][..4].copy_from_slice(&sample.to_ne_bytes());
                }
            } else {
                frame.plane_mut::<f32>(c)[..count].copy_from_slice(&samples[..count]);
                samples.drain(..count);
            }
        }
        self.ready_start += count as i64;
        frame
    }

    fn collect(&mut self, out: &mut Vec<Packet>) -> Result<(), Error> {
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => out.push(packet),
                Err(Error::Eof | Error::Other { errno: ffmpeg_next::error::EAGAIN }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
