//! Videos and outputs that cannot work: each gives one clear error or a warning, never a panic, and leaves nothing.

mod support;

use std::fs;
use std::path::Path;

use media::MediaError;
use media::video::{self, MediaWarning, ReadOptions, VideoReader, VideoWriter};
use support::{find, names, options, picture, shown, write};

/// The first error of opening and reading to the end, whichever comes first.
fn failure(path: &Path) -> MediaError {
    let error = match VideoReader::open(path) {
        Err(error) => error,
        Ok(reader) => reader.filter_map(Result::err).next().expect("an error"),
    };
    let text = error.to_string();
    assert!(!text.contains('\n') && text.contains(&path.display().to_string()), "{text}");
    assert_eq!(
        video::probe(path).is_err(),
        video::timestamps(path, &ReadOptions::default()).is_err(),
        "probe and timestamps agree: {text}"
    );
    error
}

#[test]
fn files_that_are_no_video() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("drive.mp4");
    assert!(matches!(failure(&path), MediaError::NotFound { .. }));
    fs::write(&path, "").expect("write");
    assert!(matches!(failure(&path), MediaError::Empty { .. }));
    for text in [
        "hello\n".to_owned(),
        "line\n".repeat(5000),
        "#EXTM3U\nfile:///etc/passwd\n".to_owned(),
        "ffconcat version 1.0\nfile /etc/passwd\n".to_owned(),
    ] {
        fs::write(&path, &text).expect("write");
        let error = failure(&path);
        assert!(matches!(&error, MediaError::NotAVideo { looks_like, .. } if looks_like == "plain text"), "{error}");
        // Some demuxers go by the name.
        let named = folder.path().join("drive.txt");
        fs::write(&named, &text).expect("write");
        assert!(matches!(failure(&named), MediaError::NotAVideo { .. }));
    }
    fs::write(&path, [0u8; 4096]).expect("write");
    failure(&path);
    let noise: Vec<u8> = (0..20_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    fs::write(&path, noise).expect("write");
    failure(&path);
    fs::remove_file(&path).expect("remove");
    fs::create_dir(&path).expect("folder");
    assert!(matches!(failure(&path), MediaError::EmptyFolder { .. }));
}

#[test]
fn cut_files_give_what_is_whole() {
    let folder = tempfile::tempdir().expect("folder");
    for name in ["a.mp4", "a.webm", "a.gif"] {
        let path = folder.path().join(name);
        write(&path, &options(64, 48, 16.0), 40);
        let whole = fs::read(&path).expect("read");
        fs::write(&path, &whole[..whole.len() * 6 / 10]).expect("write");
        let mut reader = VideoReader::open(&path).expect(name);
        let mut count = 0;
        for frame in &mut reader {
            let frame = frame.expect("frame");
            assert_eq!(frame.index, count);
            // The last one may be patched up from half its data.
            assert!(shown(&frame.image) == count % 16 || count > 10, "{name}: frame {count}");
            count += 1;
        }
        assert!((8..40).contains(&count), "{name}: {count} frames");
        let warned = reader
            .warnings()
            .iter()
            .any(|w| matches!(w, MediaWarning::Truncated { decoded, .. } if *decoded == count as u64));
        assert!(warned, "{name}: {:?}", reader.warnings());
        assert!(reader.next().is_none(), "ended stays ended");
        // Cut inside the header: nothing to decode.
        fs::write(&path, &whole[..40]).expect("write");
        let error = failure(&path);
        assert!(!matches!(error, MediaError::NotFound { .. }), "{name}: {error}");
    }
}

#[test]
fn the_index_of_an_mp4_is_missing() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.mp4");
    write(&path, &options(64, 48, 16.0), 10);
    let bytes = fs::read(&path).expect("read");
    // As a recording that was not closed: data, no moov.
    let (moov, mdat) = (find(&bytes, b"moov") - 4, find(&bytes, b"mdat") - 4);
    fs::write(&path, [&bytes[..moov], &bytes[mdat..]].concat()).expect("write");
    let error = failure(&path);
    assert!(matches!(error, MediaError::Damaged { .. }), "{error}");
}

#[test]
fn a_stream_without_frames() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.mp4");
    write(&path, &options(64, 48, 16.0), 1);
    let mut bytes = fs::read(&path).expect("read");
    // No samples: the counts of stts, stsz, stsc and stco become 0.
    for (name, count_at) in [(b"stts", 8), (b"stsz", 12), (b"stsc", 8), (b"stco", 8)] {
        let at = find(&bytes, name) + count_at;
        bytes[at..at + 4].fill(0);
    }
    fs::write(&path, bytes).expect("write");
    let error = failure(&path);
    assert!(matches!(error, MediaError::NoFrames { .. }), "{error}");
}

#[test]
fn a_header_of_100000_pixels() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.webm");
    write(&path, &options(64, 48, 16.0), 3);
    let mut bytes = fs::read(&path).expect("read");
    // PixelWidth and PixelHeight, one byte each, become one PixelWidth of four bytes; the height is then unknown.
    let at = find(&bytes, &[0xb0, 0x81, 64, 0xba, 0x81, 48]);
    bytes[at..at + 6].copy_from_slice(&[0xb0, 0x84, 0, 1, 0x86, 0xa0]);
    fs::write(&path, &bytes).expect("write");
    // FFmpeg takes that, or the codec's own size, or none.
    match VideoReader::open(&path) {
        Err(error) => assert!(matches!(error, MediaError::TooLarge { .. } | MediaError::NoFrames { .. }), "{error}"),
        Ok(reader) => assert_eq!((reader.info().width, reader.info().height), (64, 48)),
    }

    // A gif says its size plainly.
    let path = folder.path().join("a.gif");
    write(&path, &options(64, 48, 16.0), 3);
    let mut bytes = fs::read(&path).expect("read");
    bytes[6..10].fill(0xff);
    fs::write(&path, &bytes).expect("write");
    let error = failure(&path);
    assert!(matches!(error, MediaError::TooLarge { width: 65535, height: 65535, .. }), "{error}");

    // A png of 100 000 a side under a video's name.
    let path = folder.path().join("a.mp4");
    picture(16, 16, 0).save_with_format(&path, image::ImageFormat::Png).expect("save");
    let mut bytes = fs::read(&path).expect("read");
    for at in [16, 20] {
        bytes[at..at + 4].copy_from_slice(&100_000u32.to_be_bytes());
    }
    fs::write(&path, &bytes).expect("write");
    failure(&path);
}

/// An uncompressed avi of any size, odd ones too, with `count` frames.
fn avi(path: &Path, width: u32, height: u32, count: u32) {
    let stride = (width * 3).div_ceil(4) * 4;
    let frame_bytes = stride.saturating_mul(height);
    let chunk = |name: &[u8; 4], body: &[u8]| {
        let mut out = name.to_vec();
        out.extend((body.len() as u32).to_le_bytes());
        out.extend(body);
        out.resize(out.len().next_multiple_of(2), 0);
        out
    };
    let words = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let avih = words(&[100_000, 0, 0, 0, count, 0, 1, 0, width, height, 0, 0, 0, 0]);
    let mut strh = b"vidsDIB ".to_vec();
    strh.extend(words(&[0, 0, 0, 1, 10, 0, count, 0, 0, 0, 0, 0]));
    let mut strf = words(&[40, width, height]);
    strf.extend([1, 0, 24, 0]);
    strf.extend(words(&[0, frame_bytes, 0, 0, 0, 0]));
    let strl = [&b"strl"[..], &chunk(b"strh", &strh), &chunk(b"strf", &strf)].concat();
    let hdrl = [&b"hdrl"[..], &chunk(b"avih", &avih), &chunk(b"LIST", &strl)].concat();
    let mut movi = b"movi".to_vec();
    for k in 0..count {
        let mut frame = vec![0u8; frame_bytes as usize];
        // Bottom-up: the first row in the file is the lowest.
        frame[(stride * (height - 1)) as usize..].iter_mut().for_each(|v| *v = 40 * (k + 1) as u8);
        movi.extend(chunk(b"00db", &frame));
    }
    let riff = [&b"AVI "[..], &chunk(b"LIST", &hdrl), &chunk(b"LIST", &movi)].concat();
    fs::write(path, chunk(b"RIFF", &riff)).expect("write");
}

#[test]
fn tiny_and_odd_sizes_decode() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("odd.avi");
    avi(&path, 7, 5, 4);
    let reader = VideoReader::open(&path).expect("open");
    assert_eq!((reader.info().width, reader.info().height), (7, 5));
    let frames: Vec<_> = reader.map(|f| f.expect("frame")).collect();
    assert_eq!(frames.len(), 4);
    for (k, frame) in frames.iter().enumerate() {
        assert_eq!(frame.image.get_pixel(6, 0).0, [40 * (k + 1) as u8; 3], "upper row");
        assert_eq!(frame.image.get_pixel(6, 4).0, [0; 3], "lower row");
        assert!((frame.time_s - k as f64 / 10.0).abs() < 1e-6);
    }
    avi(&path, 100_000, 100_000, 0);
    let error = failure(&path);
    assert!(matches!(error, MediaError::TooLarge { width: 100_000, height: 100_000, .. }), "{error}");
}

/// The index in front of a webm names the elements too, so the element itself is the last match.
fn find_last(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).rposition(|window| window == needle).expect("needle")
}

#[test]
fn the_size_changes_in_the_middle() {
    let folder = tempfile::tempdir().expect("folder");
    let (first, second) = (folder.path().join("1.gif"), folder.path().join("2.webm"));
    // Two webm files' clusters behind one header: VP9 carries the size in each key frame.
    let other = folder.path().join("3.webm");
    write(&second, &options(64, 48, 16.0), 3);
    write(&other, &options(96, 64, 16.0), 3);
    let (mut a, b) = (fs::read(&second).expect("read"), fs::read(&other).expect("read"));
    const CLUSTER: [u8; 4] = [0x1f, 0x43, 0xb6, 0x75];
    const CUES: [u8; 4] = [0x1c, 0x53, 0xbb, 0x6b];
    a.truncate(find_last(&a, &CUES));
    let mut tail = b[find_last(&b, &CLUSTER)..find_last(&b, &CUES)].to_vec();
    // The second cluster's time: 1 s instead of 0.
    let time = find(&tail, &[0xe7, 0x81]);
    tail[time + 2] = 250;
    // The segment's length no longer holds; unknown length is allowed.
    let segment = find(&a, &[0x18, 0x53, 0x80, 0x67]) + 4;
    a[segment..segment + 8].copy_from_slice(&[0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    a.extend(tail);
    fs::write(&first, &a).expect("write");
    let mut reader = VideoReader::open(&first).expect("open");
    let frames: Vec<_> = (&mut reader).map(|f| f.expect("frame")).collect();
    assert_eq!(frames.len(), 6);
    assert!(frames.iter().all(|f| f.image.dimensions() == (64, 48)));
    assert_eq!(shown(&frames[1].image), 1);
    let changed = MediaWarning::SizeChanged { frame: 3, width: 96, height: 64 };
    assert!(reader.warnings().contains(&changed), "{:?}", reader.warnings());
}

/// Flips every byte of the header region and some of the data in turn: any result but a panic or a hang will do.
#[test]
fn damaged_bytes_never_panic() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a");
    for name in ["a.mp4", "a.webm", "a.gif"] {
        let good = folder.path().join(name);
        write(&good, &options(32, 32, 16.0), 3);
        let whole = fs::read(&good).expect("read");
        let step = whole.len() / 150 + 1;
        for at in (0..whole.len()).step_by(step) {
            let mut bytes = whole.clone();
            bytes[at] = !bytes[at];
            fs::write(&path, &bytes).expect("write");
            if let Ok(reader) = VideoReader::open(&path) {
                assert!(reader.take(50).count() <= 50);
            }
        }
    }
}

#[test]
fn outputs_that_cannot_be() {
    let folder = tempfile::tempdir().expect("folder");
    let at = |name: &str| folder.path().join(name);
    let create = |name: &str, options| match VideoWriter::create(at(name), &options) {
        Ok(_) => panic!("{name} was accepted"),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "{text}");
            error
        }
    };
    let good = || options(64, 48, 16.0);
    assert!(matches!(create("a.avi", good()), MediaError::UnknownExtension { extension, .. } if extension == ".avi"));
    assert!(matches!(create("absent/a.mp4", good()), MediaError::Unwritable { .. }));
    assert!(create("absent/a.mp4", good()).to_string().contains("does not exist"));
    fs::create_dir(at("dir.mp4")).expect("folder");
    assert!(matches!(create("dir.mp4", good()), MediaError::OutputIsDirectory { .. }));
    fs::create_dir(at("full")).expect("folder");
    fs::write(at("full/x"), "").expect("write");
    assert!(matches!(create("full", good()), MediaError::OutputExists { .. }));
    fs::write(at("file"), "").expect("write");
    assert!(matches!(create("file", good()), MediaError::OutputExists { .. }));
    assert!(matches!(create("file/a.mp4", good()), MediaError::Unwritable { .. }));
    for name in ["a.mp4", "a.webm"] {
        assert!(matches!(create(name, options(63, 48, 16.0)), MediaError::OddSize { width: 63, .. }));
        let mut bad = good();
        bad.crf = Some(64);
        assert!(matches!(create(name, bad), MediaError::Setting { name: "crf", .. }));
    }
    assert!(matches!(create("a.mp4", options(0, 48, 16.0)), MediaError::OddSize { .. }));
    assert!(matches!(create("a.mp4", options(20_000, 48, 16.0)), MediaError::TooLarge { .. }));
    let mut bad = good();
    bad.preset = "warp".to_owned();
    assert!(matches!(create("a.mp4", bad), MediaError::Setting { name: "preset", .. }));
    assert_eq!(names(folder.path()), ["dir.mp4", "file", "full"]);

    // An empty folder may become the output.
    fs::create_dir(at("empty")).expect("folder");
    write(&at("empty"), &good(), 2);
    assert_eq!(names(&at("empty")), ["frame_0000.png", "frame_0001.png", "settings.json"]);
}

/// Nobody can create a file in /proc, not even the administrator.
#[cfg(target_os = "linux")]
#[test]
fn an_unwritable_place() {
    for name in ["/proc/out.mp4", "/proc/out.gif", "/proc/out"] {
        let error = VideoWriter::create(name, &options(64, 48, 16.0)).err().expect("refused");
        assert!(matches!(error, MediaError::Unwritable { .. }), "{error}");
        assert!(error.to_string().starts_with(&format!("{name}: cannot be created (")), "{error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_with_a_colon_or_percent_is_a_name() {
    let folder = tempfile::tempdir().expect("folder");
    for name in ["http:a.mp4", "a%04d.webm", "pipe:1.mp4", "-y.gif", "ünï cödé.mp4", "a'b\"c.mp4"] {
        let path = folder.path().join(name);
        write(&path, &options(64, 48, 16.0), 2);
        assert_eq!(support::read_all(&path).len(), 2, "{name}");
    }
    assert_eq!(names(folder.path()).len(), 6);
}

#[test]
#[ignore = "needs a file system of about 1 MB, named by STEADYDANCE_TEST_SMALL_DISK"]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let folder = std::env::var_os("STEADYDANCE_TEST_SMALL_DISK").expect("a small file system");
    let path = Path::new(&folder).join("a.mp4");
    let mut options = options(640, 480, 16.0);
    options.crf = Some(0);
    let mut writer = VideoWriter::create(&path, &options).expect("create");
    let mut state = 1u32;
    let result = (0..200).try_for_each(|_| {
        let noise = image::RgbImage::from_fn(640, 480, |_, _| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            image::Rgb([(state >> 24) as u8, (state >> 16) as u8, (state >> 8) as u8])
        });
        writer.write(&noise)
    });
    let error = result.and_then(|()| writer.finish().map(drop)).expect_err("full");
    assert!(error.to_string().contains("No space left"), "{error}");
    assert!(names(Path::new(&folder)).is_empty());
}
