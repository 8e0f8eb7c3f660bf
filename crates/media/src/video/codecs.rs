//! Which codecs each kind of output needs, and which of them this machine's FFmpeg has.

use ffmpeg_next::encoder;
use serde::Serialize;

use super::OutputKind;

/// What this machine can write.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Codecs {
    /// Versions of FFmpeg's libraries, say `avcodec 62.11.100, avformat 62.3.100`.
    pub ffmpeg: String,
    /// Each kind of output.
    pub outputs: Vec<OutputCodecs>,
}

/// The codecs of one kind of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutputCodecs {
    /// `mp4`, `webm`, `gif`, or `png` for folders of pictures.
    pub kind: &'static str,
    /// The encoder of pictures; `None` where none of FFmpeg's is used.
    pub encoder: Option<&'static str>,
    /// Whether pictures can be written.
    pub found: bool,
    /// The encoder of sound that is used; `None` where there is none, or the kind has no sound. Without it tracks that the
    /// container takes as they are are still copied.
    pub sound: Option<&'static str>,
}

/// Asks FFmpeg what it has. Opens nothing.
pub fn codecs() -> Codecs {
    super::init_ffmpeg();
    let kinds = [(OutputKind::Mp4, "mp4"), (OutputKind::Webm, "webm"), (OutputKind::Gif, "gif")];
    let output = |(kind, name)| {
        let picture = picture_encoder(kind);
        OutputCodecs {
            kind: name,
            encoder: picture,
            found: picture.is_none_or(|name| encoder::find_by_name(name).is_some()),
            sound: sound_encoders(kind).iter().copied().find(|name| encoder::find_by_name(name).is_some()),
        }
    };
    let version = |name: &str, v: u32| format!("{name} {}.{}.{}", v >> 16, v >> 8 & 0xff, v & 0xff);
    Codecs {
        ffmpeg: [
            version("avcodec", ffmpeg_next::codec::version()),
            version("avformat", ffmpeg_next::format::version()),
            version("swscale", ffmpeg_next::software::scaling::version()),
        ]
        .join(", "),
        outputs: kinds.into_iter().chain([(OutputKind::PngFolder, "png")]).map(output).collect(),
    }
}

/// FFmpeg's encoder of pictures for a kind of output; gif and png are written without FFmpeg.
pub(super) fn picture_encoder(kind: OutputKind) -> Option<&'static str> {
    match kind {
        OutputKind::Mp4 => Some("libx264"),
        OutputKind::Webm => Some("libvpx-vp9"),
        OutputKind::Gif | OutputKind::PngFolder => None,
    }
}

/// FFmpeg's encoders of sound for a kind of output, the best first.
pub(super) fn sound_encoders(kind: OutputKind) -> &'static [&'static str] {
    match kind {
        OutputKind::Mp4 => &["aac"],
        OutputKind::Webm => &["libopus", "libvorbis"],
        OutputKind::Gif | OutputKind::PngFolder => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_told_and_those_without_ffmpeg_are_found() {
        let codecs = codecs();
        let kinds: Vec<_> = codecs.outputs.iter().map(|o| o.kind).collect();
        assert_eq!(kinds, ["mp4", "webm", "gif", "png"]);
        assert!(codecs.outputs.iter().all(|o| o.encoder.is_some() || o.found && o.sound.is_none()));
        assert!(codecs.ffmpeg.starts_with("avcodec ") && codecs.ffmpeg.matches('.').count() == 6, "{}", codecs.ffmpeg);
    }
}
