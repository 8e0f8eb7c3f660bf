//! A sandbox per test, the binary in it, and files of every bad kind.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use image::codecs::gif::GifEncoder;
use image::{Frame, Rgb, RgbImage};
use tempfile::TempDir;

/// Folders of one test: `work` is current, `out` takes results, `tmp` is TMPDIR.
pub struct Sandbox {
    root: TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["work", "out", "tmp", "config/steadydance"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        Self { root }
    }

    /// A path in the current folder of the program.
    pub fn work(&self, name: &str) -> PathBuf {
        self.root.path().join("work").join(name)
    }

    /// A path in the folder of results.
    pub fn out(&self, name: &str) -> PathBuf {
        self.root.path().join("out").join(name)
    }

    /// The user's configuration file.
    pub fn user_config(&self) -> PathBuf {
        self.root.path().join("config/steadydance/config.toml")
    }

    /// Writes a file into the current folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.work(name), content).unwrap();
        self.work(name)
    }

    /// The program with nothing of this machine's settings.
    pub fn program(&self) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_steadydance"));
        for (variable, _) in std::env::vars_os() {
            // The hub's variables and proxies belong to whoever runs the tests.
            let ours = |v: &str| v.starts_with("STEADYDANCE_") || v.contains("COLOR");
            let hubs =
                |v: &str| ["HF_", "HUGGING", "TRANSFORMERS_", "XDG_CACHE", "SSL_CERT"].iter().any(|p| v.starts_with(p));
            let proxy = |v: &str| v.to_ascii_uppercase().ends_with("_PROXY");
            if variable.to_str().is_some_and(|v| ours(v) || hubs(v) || proxy(v)) {
                command.env_remove(variable);
            }
        }
        command
            .current_dir(self.work(""))
            .env("HOME", self.root.path())
            .env("XDG_CONFIG_HOME", self.root.path().join("config"))
            .env("TMPDIR", self.root.path().join("tmp"));
        command
    }

    /// Runs it to its end.
    pub fn run<A: AsRef<std::ffi::OsStr>>(&self, arguments: &[A]) -> Outcome {
        self.run_with(arguments, &[])
    }

    /// Runs it with environment variables.
    pub fn run_with<A: AsRef<std::ffi::OsStr>>(&self, arguments: &[A], variables: &[(&str, &str)]) -> Outcome {
        let mut program = self.program();
        program.args(arguments).envs(variables.iter().copied());
        let shown = format!("{:?}", arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>());
        let output = Command::from_std(program).timeout(std::time::Duration::from_secs(300)).output().unwrap();
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            shown,
        }
    }

    /// Neither results nor temporary files are there.
    pub fn assert_nothing_written(&self, what: &str) {
        for folder in ["out", "tmp"] {
            let found: Vec<_> =
                fs::read_dir(self.root.path().join(folder)).unwrap().map(|e| e.unwrap().path()).collect();
            assert!(found.is_empty(), "{what}: left in {folder}: {found:?}");
        }
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    shown: String,
}

impl Outcome {
    /// It succeeded; gives stdout.
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "{}\nstderr: {}", self.shown, self.stderr);
        &self.stdout
    }

    /// It succeeded; stdout is one JSON value.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.ok()).unwrap_or_else(|e| panic!("{}: {e}:\n{}", self.shown, self.stdout))
    }

    /// It failed as documented: this code, one line that says what, and nothing on stdout.
    pub fn fails(&self, code: i32, mentions: &[&str]) {
        self.fails_with_output(code, mentions);
        assert!(self.stdout.is_empty(), "stdout of {}: {}", self.shown, self.stdout);
    }

    /// The same of a command that has written its result, or events, by then.
    pub fn fails_with_output(&self, code: i32, mentions: &[&str]) {
        let context =
            format!("{}\nexit code {:?}\nstdout: {}\nstderr: {}", self.shown, self.code, self.stdout, self.stderr);
        assert_eq!(self.code, Some(code), "{context}");
        let errors: Vec<_> = self.stderr.lines().filter(|l| l.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "one error line: {context}");
        for text in mentions {
            assert!(errors[0].contains(text), "{text:?} is missing: {context}");
        }
        for word in ["panicked", "internal error", "backtrace"] {
            assert!(!self.stderr.contains(word), "{word}: {context}");
        }
    }
}

/// Our fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pipeline_tiny").join(name)
}

/// `run` with the tiny model on the fixture's picture and poses, in seconds; more arguments override none of these.
pub fn tiny_run(output: &Path) -> Vec<String> {
    tiny_run_of(&fixture("model"), &fixture("portrait_9/ref.png"), &fixture("portrait_9/pose"), output)
}

/// The same with other files.
pub fn tiny_run_of(model: &Path, picture: &Path, pose: &Path, output: &Path) -> Vec<String> {
    let path = |p: &Path| p.to_str().unwrap().to_owned();
    let mut arguments: Vec<String> =
        ["run", "--size", "64x64", "--size-rule", "area", "--num-frames", "9", "--steps", "2"]
            .map(str::to_owned)
            .to_vec();
    for (flag, value) in [("--model", model), ("--ref", picture), ("--pose", pose), ("--output", output)] {
        arguments.extend([flag.to_owned(), path(value)]);
    }
    arguments
}

/// A picture with something in it.
pub fn picture(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let v = |k: u32| ((x * 7 + y * 13 + seed * 31) * k % 251) as u8;
        Rgb([v(1), v(3), v(5)])
    })
}

/// A PNG file of that size.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture(width, height, 1).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A folder of drawn poses.
pub fn pose_folder(folder: &Path, frames: u32, width: u32, height: u32) {
    fs::create_dir_all(folder).unwrap();
    for i in 0..frames {
        picture(width, height, i).save(folder.join(format!("{i:04}.png"))).unwrap();
    }
}

/// The header of a PNG that claims a size, with no pixels behind it.
pub fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\r".to_vec();
    bytes.extend(&chunk);
    bytes.extend(crc32(&chunk).to_be_bytes());
    bytes.extend(b"\0\0\0\x04IDAT\0\0\0\0\0\0\0\0");
    bytes
}

/// The checksum of PNG chunks.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 })
    })
}

/// A video: an animated GIF.
pub fn gif(frames: u32, width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for i in 0..frames {
        let rgba = image::DynamicImage::ImageRgb8(picture(width, height, i)).into_rgba8();
        encoder.encode_frame(Frame::new(rgba)).unwrap();
    }
    drop(encoder);
    bytes
}

fn mp4_box(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut bytes = (content.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend(kind);
    bytes.extend(content);
    bytes
}

/// An mp4 whose copy stopped before its index: frames' bytes, but nothing says where they are.
pub fn mp4_without_index() -> Vec<u8> {
    let mut bytes = mp4_box(b"ftyp", b"isom\0\0\x02\0isomiso2avc1mp41");
    bytes.extend(&mp4_box(b"mdat", &[0x5a; 5000])[..3000]);
    bytes
}

/// A complete mp4 that has no track at all.
pub fn mp4_without_tracks() -> Vec<u8> {
    mp4_with(&[])
}

/// A complete mp4 with a video track of 64x64 pixels in which there is not one frame.
pub fn mp4_without_frames() -> Vec<u8> {
    let numbers = |values: &[u32]| values.iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<u8>>();
    let mut tkhd = numbers(&[3, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000]);
    tkhd.extend(numbers(&[64 << 16, 64 << 16]));
    let mdhd = numbers(&[0, 0, 0, 1000, 0, 0x55c4_0000]);
    let mut hdlr = numbers(&[0, 0]);
    hdlr.extend(b"vide\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let mut mp4v = numbers(&[0, 1, 0, 0, 0, 0, 64 << 16 | 64, 0x48_0000, 0x48_0000, 0]);
    mp4v.extend([0, 1]);
    mp4v.extend([0; 32]);
    mp4v.extend([0, 24, 0xff, 0xff]);
    let mut stsd = numbers(&[0, 1]);
    stsd.extend(mp4_box(b"mp4v", &mp4v));
    let mut stbl = mp4_box(b"stsd", &stsd);
    for (kind, words) in [(b"stts", 2), (b"stsc", 2), (b"stsz", 3), (b"stco", 2)] {
        stbl.extend(mp4_box(kind, &numbers(&vec![0; words])));
    }
    let mut minf = mp4_box(b"vmhd", &numbers(&[1, 0, 0]));
    minf.extend(mp4_box(b"stbl", &stbl));
    let mut mdia = mp4_box(b"mdhd", &mdhd);
    mdia.extend(mp4_box(b"hdlr", &hdlr));
    mdia.extend(mp4_box(b"minf", &minf));
    let mut trak = mp4_box(b"tkhd", &tkhd);
    trak.extend(mp4_box(b"mdia", &mdia));
    mp4_with(&mp4_box(b"trak", &trak))
}

fn mp4_with(tracks: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 100];
    header[12..16].copy_from_slice(&1000u32.to_be_bytes());
    header[20..24].copy_from_slice(&0x10000u32.to_be_bytes());
    header[96..100].copy_from_slice(&2u32.to_be_bytes());
    let mut bytes = mp4_box(b"ftyp", b"isom\0\0\x02\0isomiso2avc1mp41");
    bytes.extend(mp4_box(b"moov", &[mp4_box(b"mvhd", &header), tracks.to_vec()].concat()));
    bytes
}

/// A sound file: a tenth of a second of silence.
pub fn wav() -> Vec<u8> {
    let mut bytes = b"RIFF".to_vec();
    bytes.extend(1636u32.to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend(8000u32.to_le_bytes());
    bytes.extend(16000u32.to_le_bytes());
    bytes.extend(b"\x02\0\x10\0data");
    bytes.extend(1600u32.to_le_bytes());
    bytes.extend([0; 1600]);
    bytes
}

/// A copy of the tiny model that may be damaged.
pub fn model_copy(to: &Path) {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    copy(&fixture("model"), to);
}

/// A safetensors file taken apart: header and data.
pub fn safetensors_parts(bytes: &[u8]) -> (serde_json::Value, Vec<u8>) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), bytes[8 + length..].to_vec())
}

/// And put together.
pub fn safetensors_file(header: &serde_json::Value, data: &[u8]) -> Vec<u8> {
    let header = serde_json::to_vec(header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(data);
    bytes
}
