//! Sound carried from the driving video: copied or encoded, cut to the clip.

mod support;

use std::path::Path;

use ffmpeg_next::{Packet, media as kind};
use media::MediaError;
use media::video::{AudioOutcome, AudioSource, VideoReader, VideoWriter};
use support::{options, picture, read_all, wav};

struct Track {
    codec: &'static str,
    /// First and last instant with sound, in seconds after the first video frame.
    start_s: f64,
    end_s: f64,
    packet_s: f64,
}

/// The sound track as the container has it.
fn track(path: &Path) -> Track {
    let mut input = ffmpeg_next::format::input(path).expect("open");
    let (index, base, codec, rate) = {
        let audio = input.streams().best(kind::Type::Audio).expect("sound");
        let context = ffmpeg_next::codec::Context::from_parameters(audio.parameters()).expect("context");
        let rate = context.decoder().audio().expect("decoder").rate();
        (audio.index(), f64::from(audio.time_base()), audio.parameters().id().name(), rate)
    };
    let (mut start_s, mut end_s) = (f64::INFINITY, f64::NEG_INFINITY);
    let mut packet = Packet::empty();
    while packet.read(&mut input).is_ok() {
        if packet.stream() == index {
            let pts = packet.pts().expect("pts") as f64 * base;
            start_s = start_s.min(pts);
            end_s = end_s.max(pts + packet.duration() as f64 * base);
        }
        packet = Packet::empty();
    }
    let samples = if codec == "opus" { 960.0 } else { 1024.0 };
    Track { codec, start_s, end_s, packet_s: samples / f64::from(rate) }
}

fn write(path: &Path, audio: AudioSource, frames: usize, rate: f64) -> AudioOutcome {
    let mut options = options(64, 48, rate);
    options.audio = Some(audio);
    let mut writer = VideoWriter::create(path, &options).expect("create");
    for k in 0..frames {
        writer.write(&picture(64, 48, k)).expect("write");
    }
    writer.finish().expect("finish").audio
}

fn source(path: impl AsRef<Path>, start_s: f64) -> AudioSource {
    AudioSource { path: path.as_ref().to_owned(), start_s }
}

#[test]
fn sound_is_cut_to_the_clip_within_a_packet() {
    let folder = tempfile::tempdir().expect("folder");
    let at = |name: &str| folder.path().join(name);
    let tone = wav(&at("tone.wav"), 5.0, 44_100, 2);

    // wav → AAC, 2 s of 5.
    assert_eq!(write(&at("full.mp4"), source(&tone, 0.0), 64, 16.0), AudioOutcome::Encoded);
    // AAC → AAC by copy, from the start and from the middle; AAC → Opus.
    for (name, start_s, frames, outcome, codec) in [
        ("copy.mp4", 0.0, 33, AudioOutcome::Copied, "aac"),
        ("middle.mp4", 1.3, 17, AudioOutcome::Copied, "aac"),
        ("opus.webm", 0.0, 33, AudioOutcome::Encoded, "opus"),
        ("middle.webm", 1.3, 17, AudioOutcome::Encoded, "opus"),
    ] {
        assert_eq!(write(&at(name), source(at("full.mp4"), start_s), frames, 16.0), outcome, "{name}");
        let info = VideoReader::open(at(name)).expect("open").info().clone();
        assert_eq!((info.has_audio, info.audio_codec.as_deref()), (true, Some(codec)), "{name}");
        let track = track(&at(name));
        assert_eq!(track.codec, codec);
        let clip_s = frames as f64 / 16.0;
        assert!((track.end_s - clip_s).abs() <= track.packet_s + 2e-3, "{name}: ends at {}", track.end_s);
        assert!(track.start_s.abs() <= track.packet_s + 2e-3, "{name}: begins at {}", track.start_s);
        let frames_read = read_all(&at(name));
        assert_eq!(frames_read.len(), frames, "{name}");
        assert_eq!(frames_read[0].time_s, 0.0);
    }
}

#[test]
fn sound_shorter_than_the_clip_just_ends() {
    let folder = tempfile::tempdir().expect("folder");
    let tone = wav(&folder.path().join("tone.wav"), 0.5, 22_050, 1);
    for name in ["a.mp4", "a.webm"] {
        let path = folder.path().join(name);
        assert_eq!(write(&path, source(&tone, 0.2), 16, 16.0), AudioOutcome::Encoded);
        let track = track(&path);
        assert!((track.end_s - 0.3).abs() <= track.packet_s + 2e-3, "{name}: ends at {}", track.end_s);
        assert_eq!(read_all(&path).len(), 16);
    }
}

/// The level of the sound by hundredths of a second, decoded from a written file.
fn levels(path: &Path) -> Vec<f64> {
    let mut input = ffmpeg_next::format::input(path).expect("open");
    let audio = input.streams().best(kind::Type::Audio).expect("sound");
    let (index, base) = (audio.index(), f64::from(audio.time_base()));
    let context = ffmpeg_next::codec::Context::from_parameters(audio.parameters()).expect("context");
    let mut unopened = context.decoder();
    unopened.set_packet_time_base(audio.time_base());
    let mut decoder = unopened.audio().expect("decoder");
    let mut levels = vec![0.0f64; 500];
    let mut ended = false;
    loop {
        let mut frame = ffmpeg_next::frame::Audio::empty();
        if decoder.receive_frame(&mut frame).is_ok() {
            let start = frame.timestamp().expect("time") as f64 * base;
            for (i, sample) in frame.plane::<f32>(0).iter().enumerate() {
                let at = (start + i as f64 / f64::from(frame.rate())) * 100.0;
                if (0.0..500.0).contains(&at) {
                    let level = &mut levels[at as usize];
                    *level = level.max(f64::from(sample.abs()));
                }
            }
            continue;
        }
        if ended {
            return levels;
        }
        let mut packet = Packet::empty();
        match packet.read(&mut input) {
            Ok(()) if packet.stream() == index => decoder.send_packet(&packet).expect("send"),
            Ok(()) => {}
            Err(_) => {
                ended = true;
                decoder.send_eof().expect("end");
            }
        }
    }
}

/// A tone that begins at 1 s must begin at 0.4 s in a clip that starts at 0.6 s: sound and picture stay together.
#[test]
fn sound_stays_in_step() {
    let folder = tempfile::tempdir().expect("folder");
    let at = |name: &str| folder.path().join(name);
    let tone = wav(&at("tone.wav"), 3.0, 48_000, 2);
    let mut bytes = std::fs::read(&tone).expect("read");
    bytes[44..44 + 48_000 * 4].fill(0);
    std::fs::write(&tone, bytes).expect("write");

    write(&at("full.mp4"), source(&tone, 0.0), 48, 16.0);
    write(&at("cut.mp4"), source(at("full.mp4"), 0.6), 16, 16.0);
    write(&at("cut.webm"), source(at("full.mp4"), 0.6), 16, 16.0);
    for (name, begin) in [("full.mp4", 1.0), ("cut.mp4", 0.4), ("cut.webm", 0.4)] {
        let onset = levels(&at(name)).iter().position(|&level| level > 0.2).expect("a tone") as f64 / 100.0;
        assert!((onset - begin).abs() <= 0.025, "{name}: begins at {onset}, not {begin}");
    }
}

#[test]
fn what_cannot_carry_sound_says_so() {
    let folder = tempfile::tempdir().expect("folder");
    let at = |name: &str| folder.path().join(name);
    let tone = wav(&at("tone.wav"), 1.0, 48_000, 2);
    assert_eq!(write(&at("a.gif"), source(&tone, 0.0), 3, 16.0), AudioOutcome::ContainerCannot);
    assert_eq!(write(&at("frames"), source(&tone, 0.0), 3, 16.0), AudioOutcome::ContainerCannot);
    support::write(&at("silent.mp4"), &options(64, 48, 16.0), 3);
    assert_eq!(write(&at("b.mp4"), source(at("silent.mp4"), 0.0), 3, 16.0), AudioOutcome::SourceSilent);
    assert_eq!(write(&at("c.mp4"), source(at("frames"), 0.0), 3, 16.0), AudioOutcome::SourceSilent);
    assert!(!VideoReader::open(at("b.mp4")).expect("open").info().has_audio);
    assert!(matches!(VideoReader::open(&tone), Err(MediaError::NoVideoStream { .. })));

    let mut options = options(64, 48, 16.0);
    options.audio = Some(source(at("absent.mp4"), 0.0));
    assert!(matches!(VideoWriter::create(at("d.mp4"), &options), Err(MediaError::NotFound { .. })));
    options.audio = Some(source(&tone, f64::NAN));
    assert!(matches!(VideoWriter::create(at("d.mp4"), &options), Err(MediaError::Setting { .. })));
    assert!(support::names(folder.path()).iter().all(|name| !name.starts_with(".d") && name != "d.mp4"));
}

#[test]
fn same_sound_same_bytes() {
    let folder = tempfile::tempdir().expect("folder");
    let tone = wav(&folder.path().join("tone.wav"), 2.0, 44_100, 2);
    for name in ["mp4", "webm"] {
        let bytes = [0, 1].map(|copy| {
            let path = folder.path().join(format!("{copy}.{name}"));
            write(&path, source(&tone, 0.1), 20, 16.0);
            std::fs::read(path).expect("read")
        });
        assert!(bytes[0] == bytes[1], "{name}");
    }
}
