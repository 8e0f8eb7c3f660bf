//! Writing and reading back: containers, times, rotation, tags, identical bytes, nothing left behind.

mod support;

use std::fs;

use media::MediaError;
use media::video::{self, AudioOutcome, FrameMode, ReadOptions, ShortClip, VideoReader, VideoWriter};
use support::{find, fps, names, options, picture, read_all, shown, write};

const SETTINGS: &str = r#"{"seed":106060,"prompt":"a \"quoted\" ünïcode; = # prompt\nwith lines","version":"0.1.0"}"#;

#[test]
fn every_container_round_trips() {
    let folder = tempfile::tempdir().expect("folder");
    for (name, rate, codec) in [
        ("a.mp4", 16.0, "h264"),
        ("ntsc.mp4", 29.97, "h264"),
        ("b.webm", 16.0, "vp9"),
        ("c.gif", 16.0, "gif"),
        ("frames", 16.0, "pictures"),
    ] {
        let path = folder.path().join(name);
        let mut options = options(64, 48, rate);
        options.comment = Some(SETTINGS.to_owned());
        options.title = Some("dance".to_owned());
        let written = write(&path, &options, 13);
        assert_eq!((written.frames, written.audio), (13, AudioOutcome::NotAsked));

        let reader = VideoReader::open(&path).expect(name);
        let info = reader.info().clone();
        assert_eq!((info.width, info.height, info.rotation), (64, 48, 0), "{name}");
        assert_eq!(info.codec, codec);
        assert!(!info.has_audio && !info.variable_frame_rate, "{name}: {info:?}");
        // The last frame of a gif ends on a hundredth of a second.
        let off = (info.avg_fps - options.fps.as_f64()).abs();
        assert!(off < if name == "c.gif" { 0.2 } else { 0.05 }, "{name}: {info:?}");
        let duration = 13.0 / options.fps.as_f64();
        assert!((info.duration_s.expect("duration") - duration).abs() < 0.011, "{name}: {info:?}");
        if name.ends_with("mp4") || name == "frames" {
            assert_eq!(info.frames, Some(13), "{name}");
        }
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(json(&info.metadata["comment"]), json(SETTINGS), "{name}");
        if name != "c.gif" {
            assert_eq!(info.metadata["title"], "dance", "{name}");
        }
        if name != "frames" {
            assert_eq!(info.metadata["comment"], SETTINGS, "{name}");
        }

        let frames = read_all(&path);
        assert_eq!(frames.len(), 13, "{name}");
        for (k, frame) in frames.iter().enumerate() {
            assert_eq!(frame.index, k);
            assert_eq!(frame.image.dimensions(), (64, 48));
            assert_eq!(shown(&frame.image), k, "{name}");
            let time = k as f64 / options.fps.as_f64();
            let rounding = if name == "c.gif" { 5.1e-3 } else { 6e-4 };
            assert!((frame.time_s - time).abs() < rounding, "{name}: frame {k} at {}", frame.time_s);
        }
        assert!(reader.warnings().is_empty());
        let times = video::timestamps(&path, &ReadOptions::default()).expect("timestamps");
        assert_eq!(times, frames.iter().map(|f| f.time_s).collect::<Vec<_>>(), "{name}");
        assert_eq!(video::probe(&path).expect("probe"), info);
    }
    assert_eq!(names(folder.path()), ["a.mp4", "b.webm", "c.gif", "frames", "ntsc.mp4"]);
    assert_eq!(names(&folder.path().join("frames"))[..2], ["frame_0000.png", "frame_0001.png"]);
}

#[test]
fn colours_survive() {
    let folder = tempfile::tempdir().expect("folder");
    let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [128, 128, 128], [153, 0, 85]];
    for name in ["a.mp4", "b.webm", "c.gif", "frames"] {
        let path = folder.path().join(name);
        let mut options = options(32, 32, 10.0);
        options.crf = Some(4);
        let mut writer = VideoWriter::create(&path, &options).expect("create");
        for colour in colours {
            writer.write(&image::RgbImage::from_pixel(32, 32, image::Rgb(colour))).expect("write");
        }
        writer.finish().expect("finish");
        for (frame, colour) in read_all(&path).iter().zip(colours) {
            let got = frame.image.get_pixel(16, 16).0;
            let off = got.iter().zip(colour).map(|(a, b)| a.abs_diff(b)).max().expect("3 samples");
            assert!(
                off <= if name.contains('4') || name.contains('w') { 4 } else { 0 },
                "{name}: {colour:?} → {got:?}"
            );
        }
    }
}

#[test]
fn variable_frame_rate_keeps_its_times() {
    let folder = tempfile::tempdir().expect("folder");
    let times = [0.0, 0.04, 0.08, 0.5, 0.54, 1.2, 1.3, 2.0];
    for (name, rounding) in [("v.mp4", 1e-4), ("v.webm", 6e-4), ("v.gif", 5.1e-3)] {
        let path = folder.path().join(name);
        let mut writer = VideoWriter::create(&path, &options(64, 48, 25.0)).expect("create");
        for (k, time) in times.into_iter().enumerate() {
            writer.write_at(&picture(64, 48, k), time).expect("write");
        }
        assert!((writer.finish().expect("finish").duration_s - 2.04).abs() < 1e-9);
        let reader = VideoReader::open(&path).expect("open");
        assert!(name == "v.gif" || reader.info().variable_frame_rate, "{name}: {:?}", reader.info());
        let frames: Vec<_> = reader.map(|frame| frame.expect("frame")).collect();
        assert_eq!(frames.len(), times.len());
        for (frame, time) in frames.iter().zip(times) {
            assert!((frame.time_s - time).abs() < rounding, "{name}: {} for {time}", frame.time_s);
            assert_eq!(shown(&frame.image), frame.index, "{name}");
        }
        let listed = video::timestamps(&path, &ReadOptions::default()).expect("timestamps");
        assert_eq!(listed, frames.iter().map(|f| f.time_s).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn times_must_rise() {
    let folder = tempfile::tempdir().expect("folder");
    let mut writer = VideoWriter::create(folder.path().join("a.gif"), &options(16, 16, 10.0)).expect("create");
    let frame = picture(16, 16, 0);
    writer.write_at(&frame, 1.0).expect("first");
    for bad in [1.0, 0.5, f64::NAN, f64::INFINITY] {
        assert!(matches!(writer.write_at(&frame, bad), Err(MediaError::TimeOrder { .. })), "{bad}");
    }
    writer.write(&frame).expect("one frame later");
    assert!((writer.finish().expect("finish").duration_s - 1.2).abs() < 1e-9);
}

/// Writes the matrix of a clockwise turn into an mp4's track header.
fn set_rotation(path: &std::path::Path, quarter_turns: usize) {
    let mut bytes = fs::read(path).expect("read");
    // tkhd version 0: the matrix stands 40 bytes after the version.
    let at = find(&bytes, b"tkhd") + 4 + 40;
    let (a, b, c, d) = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)][quarter_turns];
    for (i, value) in [a, b, 0, c, d, 0].into_iter().enumerate() {
        let fixed: i32 = value * 65536;
        bytes[at + i * 4..][..4].copy_from_slice(&fixed.to_be_bytes());
    }
    fs::write(path, bytes).expect("write");
}

#[test]
fn rotation_is_applied() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("r.mp4");
    let upright = picture(64, 48, 3);
    for turns in 0..4 {
        // What a phone held sideways stores: the scene turned the other way.
        let stored = match turns {
            1 => image::imageops::rotate270(&upright),
            2 => image::imageops::rotate180(&upright),
            3 => image::imageops::rotate90(&upright),
            _ => upright.clone(),
        };
        let options = options(stored.width(), stored.height(), 10.0);
        let mut writer = VideoWriter::create(&path, &options).expect("create");
        writer.write(&stored).expect("write");
        writer.finish().expect("finish");
        set_rotation(&path, turns);
        let reader = VideoReader::open(&path).expect("open");
        let info = reader.info();
        assert_eq!((info.width, info.height, info.rotation), (64, 48, turns as u32 * 90));
        let frame = &read_all(&path)[0].image;
        assert_eq!(frame.dimensions(), (64, 48));
        assert_eq!(shown(frame), 3, "{turns} quarter turns");
        // The blue ramp tells top from bottom.
        assert!(frame.get_pixel(40, 44)[2] > frame.get_pixel(40, 2)[2] + 40, "{turns} quarter turns");
    }
}

#[test]
fn same_frames_same_bytes() {
    let folder = tempfile::tempdir().expect("folder");
    for name in ["mp4", "webm", "gif"] {
        let mut bytes = Vec::new();
        for copy in 0..6u8 {
            // An encoder that reads memory it never wrote shows with another heap.
            drop((0..200u8).map(|k| vec![k.wrapping_add(copy * 41); 12_000 + usize::from(k) * 37]).collect::<Vec<_>>());
            let path = folder.path().join(format!("{copy}.{name}"));
            let mut options = options(96, 64, 16.0);
            options.preset = "medium".to_owned();
            options.comment = Some(SETTINGS.to_owned());
            write(&path, &options, 30);
            bytes.push(fs::read(path).expect("read"));
        }
        assert!(bytes.iter().all(|other| *other == bytes[0]), "{name}");
    }
}

#[test]
fn index_stands_in_front() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.mp4");
    write(&path, &options(64, 48, 16.0), 5);
    let bytes = fs::read(&path).expect("read");
    assert!(find(&bytes, b"moov") < find(&bytes, b"mdat"));
    // BT.709, limited range, for players that do not look into the stream.
    let colr = find(&bytes, b"colrnclx");
    assert_eq!(bytes[colr + 8..colr + 15], [0, 1, 0, 1, 0, 1, 0]);
}

#[test]
fn nothing_is_left_of_an_aborted_write() {
    let folder = tempfile::tempdir().expect("folder");
    for name in ["a.mp4", "a.webm", "a.gif", "a"] {
        let path = folder.path().join(name);
        for cancel in [false, true] {
            let mut writer = VideoWriter::create(&path, &options(64, 48, 16.0)).expect("create");
            writer.write(&picture(64, 48, 0)).expect("write");
            assert!(!path.exists(), "{name} shows before it is complete");
            assert_eq!(names(folder.path()).len(), 1, "{name}: one temporary");
            match cancel {
                true => writer.cancel(),
                false => drop(writer),
            }
            assert!(names(folder.path()).is_empty(), "{name}");
        }
        let writer = VideoWriter::create(&path, &options(64, 48, 16.0)).expect("create");
        assert!(matches!(writer.finish(), Err(MediaError::NothingWritten { .. })), "{name}");
        let mut writer = VideoWriter::create(&path, &options(64, 48, 16.0)).expect("create");
        let wrong = writer.write(&picture(32, 48, 0)).expect_err("size");
        assert!(matches!(wrong, MediaError::FrameSize { index: 0, width: 32, .. }));
        drop(writer);
        assert!(names(folder.path()).is_empty(), "{name}");
    }
}

#[test]
fn an_older_output_stays_until_the_new_one_is_complete() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.mp4");
    fs::write(&path, "older").expect("write");
    drop(VideoWriter::create(&path, &options(64, 48, 16.0)).expect("create"));
    assert_eq!(fs::read(&path).expect("read"), b"older");
    write(&path, &options(64, 48, 16.0), 2);
    assert_eq!(read_all(&path).len(), 2);
}

#[cfg(unix)]
#[test]
fn outputs_have_normal_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("folder");
    let plain = folder.path().join("plain");
    fs::write(&plain, "").expect("write");
    let path = folder.path().join("a.mp4");
    write(&path, &options(64, 48, 16.0), 1);
    let mode = |path| fs::metadata(path).expect("metadata").permissions().mode();
    assert_eq!(mode(&path), mode(&plain));
}

#[test]
fn folders_sort_naturally_and_must_match() {
    let folder = tempfile::tempdir().expect("folder");
    for k in [0, 2, 10, 1] {
        picture(64, 48, k).save(folder.path().join(format!("pose_{k}.png"))).expect("save");
    }
    fs::write(folder.path().join("notes.txt"), "not a picture").expect("write");
    let options = ReadOptions { folder_fps: fps(24.0) };
    let reader = VideoReader::open_with(folder.path(), &options).expect("open");
    assert_eq!(reader.info().frames, Some(4));
    let frames: Vec<_> = reader.map(|f| f.expect("frame")).collect();
    assert_eq!(frames.iter().map(|f| shown(&f.image)).collect::<Vec<_>>(), [0, 1, 2, 10]);
    assert_eq!(frames[3].time_s, 3.0 / 24.0);
    picture(64, 50, 3).save(folder.path().join("pose_3.png")).expect("save");
    let error = VideoReader::open(folder.path()).err().expect("sizes differ");
    assert!(matches!(error, MediaError::MixedSizes { height: 50, first_height: 48, .. }), "{error}");
}

#[test]
fn chosen_frames_come_in_order_and_repeat() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.mp4");
    write(&path, &options(64, 48, 30.0), 15);
    let chosen = |indices: &[usize]| -> Vec<usize> {
        let reader = VideoReader::open(&path).expect("open");
        reader.frames_at(indices.to_vec()).map(|frame| shown(&frame.expect("frame"))).collect()
    };
    assert_eq!(chosen(&[0, 0, 2, 4, 4, 9]), [0, 0, 2, 4, 4, 9]);
    assert_eq!(chosen(&[13, 14, 20]), [13, 14, 14]);
    assert!(chosen(&[]).is_empty());

    let times = video::timestamps(&path, &ReadOptions::default()).expect("timestamps");
    let indices = video::resample_indices(&times, 16.0, 5, FrameMode::KeepTime, ShortClip::Error).expect("indices");
    assert_eq!(chosen(&indices), [0, 1, 3, 5, 7]);
}

#[test]
fn readers_and_writers_can_change_threads() {
    fn check<T: Send>() {}
    check::<VideoReader>();
    check::<VideoWriter>();
}

#[test]
fn same_file_sees_through_spelling() {
    let folder = tempfile::tempdir().expect("folder");
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    fs::write(&a, "1").expect("write");
    fs::write(&b, "1").expect("write");
    fs::create_dir(folder.path().join("sub")).expect("folder");
    assert!(video::same_file(&a, folder.path().join("sub/../a")));
    assert!(video::same_file(folder.path().join("sub/../absent"), folder.path().join("absent")));
    assert!(video::same_file(&a, folder.path().join("./a")));
    assert!(!video::same_file(&a, &b));
    assert!(!video::same_file(&a, folder.path().join("absent")));
    assert!(video::same_file(folder.path().join("absent"), folder.path().join("./absent")));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&a, folder.path().join("link")).expect("link");
        fs::hard_link(&a, folder.path().join("hard")).expect("hard link");
        assert!(video::same_file(&a, folder.path().join("link")));
        assert!(video::same_file(&a, folder.path().join("hard")));
    }
}

/// One second of a codec this crate reads but does not write, through FFmpeg directly.
fn write_with(path: &std::path::Path, codec_name: &str, settings: &[(&str, &str)]) -> Option<()> {
    use ffmpeg_next::{Dictionary, Packet, Rational, codec, encoder, format, frame};
    ffmpeg_next::init().ok()?;
    ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Quiet);
    let codec = encoder::find_by_name(codec_name)?;
    let mut output = format::output(path).expect("output");
    let mut video = codec::Context::new_with_codec(codec).encoder().video().expect("video");
    video.set_width(64);
    video.set_height(48);
    video.set_format(format::Pixel::YUV420P);
    video.set_time_base(Rational(1, 10));
    video.set_frame_rate(Some(Rational(10, 1)));
    if output.format().flags().contains(format::Flags::GLOBAL_HEADER) {
        video.set_flags(codec::Flags::GLOBAL_HEADER);
    }
    let mut options = Dictionary::new();
    settings.iter().for_each(|(key, value)| options.set(key, value));
    let mut encoder = video.open_as_with(codec, options).expect("encoder");
    output.add_stream(codec).expect("stream").set_parameters(&encoder);
    output.write_header().expect("header");
    let base = output.stream(0).expect("stream").time_base();
    for k in 0..11 {
        if k < 10 {
            let mut frame = frame::Video::new(format::Pixel::YUV420P, 64, 48);
            for (plane, value) in [(0, 40), (1, 128), (2, 128)] {
                frame.data_mut(plane).fill(value);
            }
            let stride = frame.stride(0);
            for line in frame.data_mut(0).chunks_mut(stride) {
                line[k * 4..k * 4 + 4].fill(220);
            }
            frame.set_pts(Some(k as i64));
            encoder.send_frame(&frame).expect("send");
        } else {
            encoder.send_eof().expect("end");
        }
        let mut packet = Packet::empty();
        while encoder.receive_packet(&mut packet).is_ok() {
            packet.set_stream(0);
            packet.set_duration(1);
            packet.rescale_ts(Rational(1, 10), base);
            packet.write_interleaved(&mut output).expect("write");
            packet = Packet::empty();
        }
    }
    output.write_trailer().expect("trailer");
    Some(())
}

#[test]
fn codecs_of_other_makers_are_read() {
    let folder = tempfile::tempdir().expect("folder");
    let mut read = 0;
    for (name, encoder, codec, settings) in [
        ("hevc.mov", "libx265", "hevc", &[("x265-params", "log-level=none")][..]),
        ("hevc.mp4", "libx265", "hevc", &[("x265-params", "log-level=none:bframes=3")]),
        ("av1.mkv", "libaom-av1", "av1", &[("cpu-used", "8"), ("usage", "realtime")]),
        ("av1.mp4", "libaom-av1", "av1", &[("cpu-used", "8"), ("usage", "realtime")]),
        ("vp9.mkv", "libvpx-vp9", "vp9", &[("cpu-used", "8")]),
        ("vp8.webm", "libvpx", "vp8", &[("cpu-used", "8"), ("b", "2M")]),
        ("mpeg4.avi", "mpeg4", "mpeg4", &[("b", "2M")]),
        ("mpeg2.ts", "mpeg2video", "mpeg2video", &[("b", "2M"), ("strict", "-2")]),
        ("h264.mov", "libx264", "h264", &[("preset", "fast"), ("bf", "3")]),
    ] {
        let path = folder.path().join(name);
        if write_with(&path, encoder, settings).is_none() {
            println!("no {encoder} here; {name} not tried");
            continue;
        }
        read += 1;
        let reader = VideoReader::open(&path).expect(name);
        assert_eq!(reader.info().codec, codec);
        assert!(!reader.info().variable_frame_rate, "{name}: {:?}", reader.info());
        let frames: Vec<_> = reader.map(|frame| frame.expect(name)).collect();
        assert_eq!(frames.len(), 10, "{name}");
        for (k, frame) in frames.iter().enumerate() {
            assert_eq!(shown(&frame.image), k, "{name}");
            assert!((frame.time_s - k as f64 / 10.0).abs() < 1.1e-3, "{name}: {}", frame.time_s);
        }
    }
    // mpeg4 and mpeg2 are FFmpeg's own and always there.
    assert!(read >= 2);
}
