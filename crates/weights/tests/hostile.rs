//! Checkpoints made to harm: each is one error, nothing is run, nothing large is allocated.

use std::io::Write;
use std::path::Path;

use weights::{Checkpoint, KeyMap, WeightsError};

fn damaged(path: &Path, says: &str) {
    match Checkpoint::open(path) {
        Err(WeightsError::Damaged { problem, .. }) => assert!(problem.contains(says), "{problem}"),
        other => panic!("{other:?}"),
    }
}

fn safetensors(path: &Path, header: &str, data: &[u8]) {
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.write_all(data).unwrap();
}

#[test]
fn indexes_name_plain_shards_only() {
    let folder = tempfile::tempdir().unwrap();
    let index = folder.path().join("m.safetensors.index.json");
    for name in
        ["m.safetensors.index.json", "../m.safetensors", "/etc/passwd", ".hidden.safetensors", "a/b.safetensors"]
    {
        std::fs::write(&index, format!("{{\"weight_map\": {{\"w\": \"{name}\"}}}}")).unwrap();
        damaged(&index, "plain name");
    }
    std::fs::write(&index, "{\"weight_map\": {\"w\": \"gone.safetensors\"}}").unwrap();
    assert!(matches!(Checkpoint::open(&index), Err(WeightsError::MissingShards { count: 1, .. })));
    std::fs::write(&index, "[]").unwrap();
    damaged(&index, "index");
}

#[test]
fn impossible_shapes_are_refused_whatever_zeros_they_hide_behind() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.safetensors");
    let huge = 1u64 << 62;
    safetensors(&file, &format!("{{\"w\":{{\"dtype\":\"F32\",\"shape\":[{huge},0],\"data_offsets\":[0,0]}}}}"), b"");
    damaged(&file, "impossible shape");
}

#[test]
fn scalars_under_names_that_are_joined_stay_apart() {
    const JOIN: KeyMap = KeyMap::identity().join(&[("qkv", ["q", "k", "v"])]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.safetensors");
    let scalar = |name: &str, at: usize| {
        format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[{at},{}]}}", at + 4)
    };
    let header = format!("{{{},{},{}}}", scalar("q", 0), scalar("k", 4), scalar("v", 8));
    safetensors(&file, &header, &[0; 12]);
    let names: Vec<_> = Checkpoint::open(&file).unwrap().rename(&JOIN).entries().map(|e| e.name.clone()).collect();
    assert_eq!(names, ["k", "q", "v"]);
}

/// A `torch.save` archive with this program.
fn archive(path: &Path, program: &[u8]) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("archive/data.pkl", stored).unwrap();
    zip.write_all(program).unwrap();
    zip.finish().unwrap();
}

#[test]
fn pickles_run_nothing_and_malformed_ones_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.pth");
    let witness = folder.path().join("witness");
    // os.system("touch …"), torch's rebuild with no arguments, and bytes that are no program.
    let run = format!("cos\nsystem\n(S'touch {}'\ntR.", witness.display());
    let rebuild = b"\x80\x02}(X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(tRu.".as_slice();
    // Lists in lists, as deep as the program is long.
    let depth = 500_000;
    let deep = [b"\x80\x02".as_slice(), &vec![b']'; depth], &vec![b'a'; depth - 1], b"."].concat();
    let long = vec![b'N'; 3 << 20];
    // A tensor called "w\n", and one whose class has a line break and a terminal's escape in its name.
    let name = b"\x80\x02}(X\x02\x00\x00\x00w\nctorch._utils\n_rebuild_tensor_v2\n)Ru.".as_slice();
    let class = b"\x80\x04}(\x8c\x01w\x8c\x03a\nb\x8c\x02\x1b[\x93)Ru.".as_slice();
    for program in [run.as_bytes(), rebuild, b"\xff\xff\xff", b"", &deep, &long, name, class] {
        archive(&file, program);
        let shown = &program[..program.len().min(40)];
        match Checkpoint::open(&file) {
            Err(error @ WeightsError::Damaged { .. }) => {
                assert!(!error.to_string().contains(char::is_control), "{shown:?}: {error}");
            }
            other => panic!("{shown:?}: {other:?}"),
        }
    }
    assert!(!witness.exists());
    std::fs::write(&file, b"PK\x03\x04 and nothing of an archive").unwrap();
    damaged(&file, "zip");
}

/// A file as `torch.save` wrote it before its zip archives: `{"state_dict": {"w": tensor of shape [2, 3]}}`.
fn legacy(elements: u64) -> Vec<u8> {
    let text = |t: &str| [b"X".as_slice(), &(t.len() as u32).to_le_bytes(), t.as_bytes()].concat();
    let storage = [
        b"(".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("94"),
        text("cpu"),
        b"K\x06NtQ".to_vec(),
    ];
    // Storage, offset, shape, strides, no gradient, no hooks.
    let tensor = [
        b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
        storage.concat(),
        b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89}tR".to_vec(),
    ];
    let inner = [b"}".to_vec(), text("w"), tensor.concat(), b"s".to_vec()].concat();
    let object = [b"\x80\x02}".to_vec(), text("state_dict"), inner, b"s.".to_vec()].concat();
    let keys = [b"\x80\x02]".to_vec(), text("94"), b"a.".to_vec()].concat();
    let mut file = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    file.extend(object.into_iter().chain(keys).chain(elements.to_le_bytes()));
    file.extend((0..6).flat_map(|i| (i as f32).to_le_bytes()));
    file
}

#[test]
fn pickles_from_before_zip_archives_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pth");
    std::fs::write(&path, legacy(6)).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.format(), weights::Format::LegacyPickle);
    let w = checkpoint.load("w", &[2, 3], None, &candle_core::Device::Cpu).unwrap();
    assert_eq!(w.to_vec2::<f32>().unwrap(), [[0., 1., 2.], [3., 4., 5.]]);

    for elements in [5, 7, u64::MAX] {
        std::fs::write(&path, legacy(elements)).unwrap();
        damaged(&path, if elements == 5 { "larger than its storage" } else { "of a file of" });
    }
    let whole = legacy(6);
    for length in 15..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(matches!(Checkpoint::open(&path), Err(WeightsError::Damaged { .. })), "{length}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
    #[test]
    fn legacy_pickles_with_wrong_bits_never_panic(at in 15..200usize, bits in 1..=255u8) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.pth");
        let mut file = legacy(6);
        let at = at % file.len();
        file[at] ^= bits;
        std::fs::write(&path, file).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(&path) {
            for entry in checkpoint.entries() {
                let _ = checkpoint.load(&entry.name, &entry.shape, None, &candle_core::Device::Cpu);
            }
        }
    }
}
