//! Reading pictures: formats, depths, orientation, limits, and files that are not what they say.

use std::fs;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use media::MediaError;
use media::image::{probe, read_rgb};

fn scene() -> RgbImage {
    RgbImage::from_fn(40, 24, |x, y| Rgb([(x * 6) as u8, (y * 10) as u8, ((x + y) * 3) as u8]))
}

fn save(folder: &Path, name: &str, picture: &DynamicImage, format: ImageFormat) -> PathBuf {
    let path = folder.join(name);
    picture.save_with_format(&path, format).expect("save");
    path
}

const FORMATS: [(&str, ImageFormat, bool); 6] = [
    ("png", ImageFormat::Png, true),
    ("jpeg", ImageFormat::Jpeg, false),
    ("webp", ImageFormat::WebP, true),
    ("bmp", ImageFormat::Bmp, true),
    ("tiff", ImageFormat::Tiff, true),
    ("gif", ImageFormat::Gif, false),
];

#[test]
fn all_formats_by_content_not_by_name() {
    let folder = tempfile::tempdir().expect("folder");
    for (name, format, lossless) in FORMATS {
        let path = save(folder.path(), &format!("{name}.dat"), &scene().into(), format);
        let info = probe(&path).expect(name);
        assert_eq!((info.width, info.height, info.format), (40, 24, name));
        let read = read_rgb(&path).expect(name);
        let worst = read.as_raw().iter().zip(scene().as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(if lossless { 0 } else { 48 }), "{name}: {worst:?}");
    }
}

#[test]
fn alpha_is_dropped_grey_is_spread_and_16_bits_become_8() {
    let folder = tempfile::tempdir().expect("folder");
    let see_through = image::RgbaImage::from_pixel(20, 20, image::Rgba([200, 100, 50, 0]));
    let path = save(folder.path(), "a.png", &see_through.into(), ImageFormat::Png);
    assert_eq!(read_rgb(path).expect("read")[(3, 3)].0, [200, 100, 50]);
    let grey = image::GrayImage::from_pixel(20, 20, image::Luma([77]));
    let path = save(folder.path(), "g.png", &grey.into(), ImageFormat::Png);
    assert_eq!(read_rgb(path).expect("read")[(3, 3)].0, [77; 3]);
    let deep = image::ImageBuffer::from_pixel(20, 20, Rgb([65535u16, 32896, 0]));
    let path = save(folder.path(), "d.png", &DynamicImage::ImageRgb16(deep), ImageFormat::Png);
    assert_eq!(read_rgb(path).expect("read")[(3, 3)].0, [255, 128, 0]);
}

/// A jpeg with an EXIF block that holds the orientation alone.
fn oriented(folder: &Path, orientation: u8) -> PathBuf {
    let path = save(folder, &format!("o{orientation}.jpg"), &scene().into(), ImageFormat::Jpeg);
    let plain = fs::read(&path).expect("read");
    let mut exif = b"\xff\xe1\0\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    fs::write(&path, [&plain[..2], &exif, &plain[2..]].concat()).expect("write");
    path
}

#[test]
fn exif_orientation_is_applied() {
    let folder = tempfile::tempdir().expect("folder");
    let upright = read_rgb(oriented(folder.path(), 1)).expect("read");
    assert_eq!(upright.dimensions(), (40, 24));
    for (orientation, turned) in [
        (3, image::imageops::rotate180(&upright)),
        (6, image::imageops::rotate90(&upright)),
        (8, image::imageops::rotate270(&upright)),
        (2, image::imageops::flip_horizontal(&upright)),
    ] {
        let path = oriented(folder.path(), orientation);
        assert_eq!(read_rgb(&path).expect("read"), turned, "{orientation}");
        let info = probe(&path).expect("probe");
        assert_eq!((info.width, info.height), turned.dimensions());
    }
}

fn one_line(error: &MediaError) {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() > 20, "{text}");
}

#[test]
fn truncated_files_are_errors_in_every_format() {
    let folder = tempfile::tempdir().expect("folder");
    // Noise, so that no format can finish early.
    let mut state = 1u32;
    let noise = RgbImage::from_fn(64, 64, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Rgb([(state >> 24) as u8, (state >> 16) as u8, (state >> 8) as u8])
    });
    for (name, format, _) in FORMATS {
        let path = save(folder.path(), name, &noise.clone().into(), format);
        let whole = fs::read(&path).expect("read");
        for keep in [whole.len() - whole.len() / 10, whole.len() / 2, 30] {
            fs::write(&path, &whole[..keep]).expect("write");
            let error = read_rgb(&path).expect_err(name);
            assert!(matches!(&error, MediaError::Damaged { kind, .. } if kind == name), "{name} {keep}: {error}");
            one_line(&error);
        }
    }
}

#[test]
fn every_other_file_is_named_for_what_it_is() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("ref.png");
    let error = read_rgb(&path).expect_err("absent");
    assert!(matches!(error, MediaError::NotFound { .. }));
    assert!(matches!(read_rgb(folder.path()), Err(MediaError::IsDirectory { .. })));
    fs::write(&path, "").expect("write");
    assert!(matches!(read_rgb(&path), Err(MediaError::Empty { .. })));
    for (bytes, expected) in [
        (&b"just a note\n"[..], "plain text"),
        (b"\0\0\0\x20ftypisom", "an mp4 or mov video"),
        (b"<!DOCTYPE html>", "a web page (a failed download?)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer (run `git lfs pull`)"),
    ] {
        fs::write(&path, bytes).expect("write");
        let error = read_rgb(&path).expect_err(expected);
        assert!(matches!(&error, MediaError::NotAnImage { looks_like, .. } if looks_like == expected), "{error}");
        one_line(&error);
    }
}

#[test]
fn sizes_are_checked_from_the_header() {
    let folder = tempfile::tempdir().expect("folder");
    let path = save(folder.path(), "a.png", &scene().into(), ImageFormat::Png);
    let mut bytes = fs::read(&path).expect("read");
    for (width, height, fits) in [(100_000u32, 100_000u32, false), (16_385, 20, false), (16_000, 16_000, false)] {
        bytes[16..20].copy_from_slice(&width.to_be_bytes());
        bytes[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        fs::write(&path, &bytes).expect("write");
        let error = read_rgb(&path).expect_err("too large");
        assert_eq!(matches!(error, MediaError::TooLarge { .. }), !fits, "{error}");
        one_line(&error);
    }
    let tiny = RgbImage::new(15, 40);
    let path = save(folder.path(), "t.png", &tiny.into(), ImageFormat::Png);
    assert!(matches!(read_rgb(&path), Err(MediaError::TooSmall { width: 15, height: 40, .. })));
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0u32, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1))))
}

#[cfg(unix)]
#[test]
fn unreadable_is_not_missing() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("folder");
    let path = save(folder.path(), "a.png", &scene().into(), ImageFormat::Png);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("chmod");
    match read_rgb(&path) {
        Err(MediaError::Unreadable { .. }) => {}
        // The administrator may read everything.
        Ok(_) if fs::File::open(&path).is_ok() => {}
        other => panic!("{other:?}"),
    }
}
