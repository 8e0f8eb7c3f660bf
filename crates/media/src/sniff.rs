//! Says what a file looks like from its first bytes, and refuses what cannot be media at all.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{MediaError, Result};

/// Opens a regular, non-empty file and returns it with up to 128 of its first bytes.
///
/// # Errors
/// Missing, unreadable, a folder, or zero bytes.
pub(crate) fn open_file(path: &Path) -> Result<(File, Vec<u8>)> {
    let fail = |source| MediaError::open(path, source);
    let meta = std::fs::metadata(path).map_err(fail)?;
    if meta.is_dir() {
        return Err(MediaError::IsDirectory { path: path.to_owned() });
    }
    let mut file = File::open(path).map_err(fail)?;
    if meta.is_file() && meta.len() == 0 {
        return Err(MediaError::Empty { path: path.to_owned() });
    }
    let mut head = Vec::with_capacity(128);
    (&mut file).take(128).read_to_end(&mut head).map_err(fail)?;
    if head.is_empty() {
        return Err(MediaError::Empty { path: path.to_owned() });
    }
    std::io::Seek::rewind(&mut file).map_err(fail)?;
    Ok((file, head))
}

/// The size in pixels a file's first bytes state. FFmpeg forgets a size it will not decode.
pub(crate) fn stated_size(head: &[u8]) -> Option<(u64, u64)> {
    if head.get(8..12) == Some(b"AVI ") && head.get(24..28) == Some(b"avih") {
        let side = |at: usize| Some(u64::from(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?)));
        return Some((side(64)?, side(68)?));
    }
    if head.starts_with(b"GIF8") {
        let side = |at: usize| Some(u64::from(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?)));
        return Some((side(6)?, side(8)?));
    }
    if head.starts_with(b"\x89PNG") {
        let side = |at: usize| Some(u64::from(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?)));
        return Some((side(16)?, side(20)?));
    }
    None
}

/// A few words for what begins with these bytes.
pub(crate) fn looks_like(head: &[u8]) -> String {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let known = [
        (0, &b"\x89PNG"[..], "a png picture"),
        (0, b"\xff\xd8\xff", "a jpeg picture"),
        (0, b"GIF8", "a gif"),
        (8, b"WEBP", "a webp picture"),
        (8, b"AVI ", "an avi video"),
        (8, b"WAVE", "a wav sound file"),
        (4, b"ftypavif", "an avif picture (convert it to png)"),
        (4, b"ftyphei", "a heic picture (convert it to png)"),
        (4, b"ftypmif1", "a heif picture (convert it to png)"),
        (4, b"ftyp", "an mp4 or mov video"),
        (0, b"\x1aE\xdf\xa3", "a matroska or webm video"),
        (0, b"OggS", "an ogg file"),
        (0, b"ID3", "an mp3 sound file"),
        (0, b"fLaC", "a flac sound file"),
        (0, b"%PDF", "a pdf document"),
        (0, b"PK\x03\x04", "a zip archive"),
        (0, b"\x1f\x8b", "a gzip archive"),
        (0, b"\x7fELF", "a program"),
        (0, b"8BPS", "a photoshop picture (convert it to png)"),
        (0, b"#EXR", "an exr picture (convert it to png)"),
        (0, b"GGUF", "a gguf checkpoint"),
        (8, b"{\"", "a safetensors checkpoint"),
        (0, b"BM", "a bmp picture"),
        (0, b"II*\0", "a tiff picture"),
        (0, b"MM\0*", "a tiff picture"),
    ];
    if let Some((_, _, name)) = known.iter().find(|(offset, magic, _)| at(*offset, magic)) {
        return (*name).to_owned();
    }
    if head.iter().all(|&b| b == 0) {
        return "zero bytes only".to_owned();
    }
    let trimmed = head.trim_ascii_start().to_ascii_lowercase();
    if trimmed.starts_with(b"<!doctype html") || trimmed.starts_with(b"<html") {
        return "a web page (a failed download?)".to_owned();
    }
    if trimmed.starts_with(b"<svg") || trimmed.starts_with(b"<?xml") {
        return "xml or svg".to_owned();
    }
    if head.starts_with(b"version https://git-lfs") {
        return "a git-lfs pointer (run `git lfs pull`)".to_owned();
    }
    let text = |b: u8| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
    // A cut in the middle of a character at the end of the sample is still text.
    let utf8 = match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(e) => e.valid_up_to() + 4 > head.len(),
    };
    if utf8 && head.iter().all(|&b| text(b)) {
        return "plain text".to_owned();
    }
    "unknown binary data".to_owned()
}

#[cfg(test)]
mod tests {
    use super::looks_like;

    #[test]
    fn names_common_mistakes() {
        assert_eq!(looks_like(b"hello world\n"), "plain text");
        assert_eq!(looks_like("Grüße".as_bytes()), "plain text");
        assert_eq!(looks_like(b"<!DOCTYPE html><html>"), "a web page (a failed download?)");
        assert_eq!(looks_like(b"\0\0\0\x18ftypmp42"), "an mp4 or mov video");
        assert_eq!(looks_like(b"version https://git-lfs.github.com/spec/v1"), "a git-lfs pointer (run `git lfs pull`)");
        assert_eq!(looks_like(&[0; 64]), "zero bytes only");
        assert_eq!(looks_like(&[1, 2, 3, 255, 254]), "unknown binary data");
    }
}
