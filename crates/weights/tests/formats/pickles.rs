use std::io::Write;

use candle_core::DType;
use weights::{Checkpoint, Format, WeightsError};

use super::support::{expected, open, values};

#[test]
fn every_protocol_gives_the_state_dict() {
    let expected = expected("pickles");
    for name in ["protocol2.pth", "protocol3.pth", "protocol4.pth", "protocol5.pth", "legacy.pth"] {
        let checkpoint = open(name);
        assert_eq!(checkpoint.format() == Format::LegacyPickle, name == "legacy.pth");
        for entry in expected.entries() {
            assert_eq!(checkpoint.shape(&entry.name), Some(entry.shape.as_slice()), "{name}: {}", entry.name);
            let want = values(&expected, &entry.name, DType::F32);
            assert_eq!(values(&checkpoint, &entry.name, DType::F32), want, "{name}: {}", entry.name);
        }
        let others: Vec<_> = checkpoint.entries().filter(|e| !e.is_loadable()).map(|e| e.dtype.to_string()).collect();
        assert_eq!(others, ["BOOL", "I64"], "{name}");
        assert_eq!(checkpoint.entries().len(), expected.entries().len() + 2);
    }
}

/// A `torch.save` archive of this program with one storage, `0`, of 32 bytes.
fn archive(program: &[u8], more: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("m/data.pkl", program), ("m/data/0", &[0; 32])].iter().chain(more) {
        zip.start_file(*name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn text(t: &str) -> Vec<u8> {
    [b"X".as_slice(), &(t.len() as u32).to_le_bytes(), t.as_bytes()].concat()
}

/// The operations that make a tensor of shape [`rows`, `columns`] with these strides in storage 0.
fn tensor(class: &str, sizes: [u8; 4]) -> Vec<u8> {
    let [rows, columns, a, b] = sizes;
    let storage = [text("storage"), format!("ctorch\n{class}\n").into_bytes(), text("0"), text("cpu")].concat();
    let sizes = [b'K', rows, b'K', columns, 0x86, b'K', a, b'K', b, 0x86];
    let parts: [&[u8]; 6] =
        [b"ctorch._utils\n_rebuild_tensor_v2\n((", &storage, b"K\x08tQK\x00", &sizes, b"\x89}", b"tR"];
    parts.concat()
}

fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|(k, v)| [text(k), v.clone(), b"s".to_vec()].concat()).collect();
    [b"}".to_vec(), items].concat()
}

fn program(object: Vec<u8>) -> Vec<u8> {
    [b"\x80\x02".to_vec(), object, b".".to_vec()].concat()
}

fn said(bytes: Vec<u8>) -> String {
    match Checkpoint::from_bytes("m.pth", bytes) {
        Err(error @ WeightsError::Damaged { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn names(object: Vec<u8>) -> Vec<String> {
    let checkpoint = Checkpoint::from_bytes("m.pth", archive(&program(object), &[])).unwrap();
    checkpoint.entries().map(|e| e.name.clone()).collect()
}

#[test]
fn state_dicts_under_customary_keys_come_before_what_lies_beside_them() {
    let w = || tensor("FloatStorage", [2, 4, 4, 1]);
    assert_eq!(names(dict(&[("w", w())])), ["w"]);
    let state = dict(&[("w", w())]);
    let beside = [("rng_state", w()), ("model", state.clone()), ("args", b"cargparse\nNamespace\n)\x81}b".to_vec())];
    assert_eq!(names(dict(&beside)), ["w"]);
    assert_eq!(names(dict(&[("model", dict(&[("module", state.clone())]))])), ["w"]);
    // An ordered dictionary made of a list of pairs, as Python 2 wrote it.
    let pairs = [b"ccollections\nOrderedDict\n(](".to_vec(), text("w"), w(), b"\x86etR".to_vec()].concat();
    assert_eq!(names(pairs), ["w"]);
    assert_eq!(
        names(dict(&[("w", w()), ("t._extra_state", b"cio\nBytesIO\n)R".to_vec()), ("n", b"K\x01".to_vec())])),
        ["w"]
    );
}

#[test]
fn classes_in_the_place_of_tensors_are_refused_by_name() {
    let w = tensor("FloatStorage", [2, 4, 4, 1]);
    let system = b"cos\nsystem\n(X\x02\x00\x00\x00idtR".to_vec();
    let in_dict = said(archive(&program(dict(&[("w", w.clone()), ("x", system.clone())])), &[]));
    assert!(in_dict.contains("x is made by os.system"), "{in_dict}");
    assert!(said(archive(&program(dict(&[("x", system.clone())])), &[])).contains("os.system"));
    assert!(said(archive(&program(system), &[])).contains("it holds os.system, not a state dict"));
    let quantised = b"ctorch._utils\n_rebuild_qtensor\n)R".to_vec();
    assert!(
        said(archive(&program(dict(&[("w", w), ("q", quantised)])), &[])).contains("torch._utils._rebuild_qtensor")
    );
    let complex = tensor("ComplexDoubleStorage", [2, 4, 4, 1]);
    assert!(
        said(archive(&program(dict(&[("c", complex)])), &[])).contains("tensor c has the type ComplexDoubleStorage")
    );
}

#[test]
fn strides_gather_and_may_not_repeat() {
    let of = |sizes| archive(&program(dict(&[("w", tensor("FloatStorage", sizes))])), &[]);
    for sizes in [[4, 2, 1, 4], [2, 2, 4, 2], [1, 8, 77, 1], [0, 9, 9, 1]] {
        let checkpoint = Checkpoint::from_bytes("m", of(sizes)).unwrap();
        assert_eq!(values(&checkpoint, "w", DType::F32).len(), usize::from(sizes[0]) * usize::from(sizes[1]));
    }
    for sizes in [[2, 4, 0, 1], [2, 4, 1, 1], [100, 100, 0, 0]] {
        assert!(said(of(sizes)).contains("repeats stored elements"), "{sizes:?}");
    }
    assert!(said(of([3, 4, 4, 1])).contains("larger than its storage"));
    let w = program(dict(&[("w", tensor("FloatStorage", [2, 4, 4, 1]))]));
    assert!(said(archive(&w, &[("m/byteorder", b"big")])).contains("big-endian"));
    assert!(Checkpoint::from_bytes("m", archive(&w, &[("m/byteorder", b"little")])).is_ok());
}

#[test]
fn programs_that_would_grow_or_nest_without_end() {
    // Each list holds the one before it ten times over: 10^1000 elements if they were copied.
    let mut bomb = b"\x80\x02]q\x00".to_vec();
    for _ in 0..1000 {
        bomb.extend(b"](h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00eq\x00");
    }
    bomb.push(b'.');
    assert!(said(archive(&bomb, &[])).contains("no state dict"));
    // A dictionary that holds itself under every customary key.
    let mut own = b"\x80\x02}q\x00".to_vec();
    for key in ["state_dict", "model", "module", "model_state"] {
        own.extend([text(key), b"h\x00s".to_vec()].concat());
    }
    own.push(b'.');
    assert!(said(archive(&own, &[])).contains("no state dict"));
    let many = [b"\x80\x02".to_vec(), vec![b']'; 3 << 20], b".".to_vec()].concat();
    assert!(said(archive(&many, &[])).contains("more than 1048576 values"));
    let deep = [b"\x80\x02".to_vec(), vec![b']'; 500_000], vec![b'a'; 499_999], b".".to_vec()].concat();
    assert!(said(archive(&deep, &[])).contains("no state dict"));
    let marks = [b"\x80\x02".to_vec(), vec![b'('; 3 << 20], b".".to_vec()].concat();
    assert!(said(archive(&marks, &[])).contains("more than"));
    let name = "n".repeat(5000);
    assert!(
        said(archive(&program(dict(&[(&name, b"N".to_vec()), ("w", tensor("FloatStorage", [1, 1, 1, 1]))])), &[]))
            .contains("5000 bytes")
    );
    for (program, says) in [
        (b"\x80\x06.".as_slice(), "protocol 6"),
        (b"\x80\x02h\x07.", "place 7"),
        (b"\x80\x02t.", "a mark that it has not set"),
        (b"\x80\x02(R.", "has not made"),
        (b"\x80\x02\x82\x01.", "operation 0x82 at byte 2"),
        (b"\x80\x02.", "has not made"),
    ] {
        let said = said(archive(program, &[]));
        assert!(said.contains(says), "{said}");
    }
}
