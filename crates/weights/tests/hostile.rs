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
    for program in [run.as_bytes(), rebuild, b"\xff\xff\xff", b"", &deep, &long] {
        archive(&file, program);
        assert!(
            matches!(Checkpoint::open(&file), Err(WeightsError::Damaged { .. })),
            "{:?}",
            &program[..program.len().min(40)]
        );
    }
    assert!(!witness.exists());
    std::fs::write(&file, b"PK\x03\x04 and nothing of an archive").unwrap();
    damaged(&file, "zip");
}
