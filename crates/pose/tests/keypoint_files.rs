//! Keypoint files: exact round trips, and one clear message for everything that can be wrong.

use pose::json::{MAX_BYTES, ReadOptions, parse, read, to_string, write};
use pose::{FrameKeypoints, PoseClip, PoseError, ReferenceKeypoints, WholeBody};
use proptest::prelude::*;
use serde_json::{Value, json};

fn person(start: f64) -> WholeBody {
    WholeBody {
        points: std::array::from_fn(|i| [start + i as f64, start * 0.1 - i as f64 / 3.0]),
        scores: std::array::from_fn(|i| i as f64 / 133.0),
    }
}

fn clip() -> PoseClip {
    PoseClip {
        width: 720,
        height: 1280,
        fps: 29.97,
        frames: vec![
            FrameKeypoints { people: vec![person(0.1), person(300.0)] },
            FrameKeypoints::default(),
            FrameKeypoints { people: vec![person(-7.5)] },
        ],
        reference: Some(ReferenceKeypoints { width: 864, height: 1184, people: vec![person(1.0 / 3.0)] }),
    }
}

fn parsed(text: &str) -> Result<PoseClip, PoseError> {
    parse(text.as_bytes(), ReadOptions::default())
}

/// The message for the clip above after a change to its JSON.
fn message(change: impl Fn(&mut Value)) -> String {
    let mut value: Value = serde_json::from_str(&to_string(&clip()).unwrap()).unwrap();
    change(&mut value);
    parsed(&value.to_string()).unwrap_err().to_string()
}

#[test]
fn a_file_round_trips_and_appears_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.json");
    write(&path, &clip()).unwrap();
    assert_eq!(read(&path, ReadOptions::default()).unwrap(), clip());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file");
    let without = PoseClip { reference: None, ..clip() };
    assert_eq!(parsed(&to_string(&without).unwrap()).unwrap(), without);
    let marked = format!("\u{feff}{}", to_string(&clip()).unwrap());
    assert_eq!(parsed(&marked).unwrap(), clip(), "byte order mark");
}

proptest! {
    #[test]
    fn any_finite_numbers_round_trip(
        numbers in prop::collection::vec(
            prop_oneof![prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO, -2000.0..2000.0f64],
            399..=399,
        ),
        fps in 0.001..1000.0f64,
    ) {
        let person = WholeBody {
            points: std::array::from_fn(|i| [numbers[3 * i], numbers[3 * i + 1]]),
            scores: std::array::from_fn(|i| numbers[3 * i + 2]),
        };
        let clip = PoseClip { fps, frames: vec![FrameKeypoints { people: vec![person] }], ..clip() };
        let back = parsed(&to_string(&clip).unwrap()).unwrap();
        prop_assert_eq!(&back, &clip);
        // `==` takes -0 for 0; the text does not.
        prop_assert_eq!(to_string(&back).unwrap(), to_string(&clip).unwrap());
    }

    #[test]
    fn garbage_is_an_error_not_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let options = ReadOptions { openpose_fps: Some(30.0) };
        prop_assert!(parse(&bytes, options).is_err());
    }

    #[test]
    fn a_cut_file_is_an_error(at in 0..1000usize) {
        let text = to_string(&clip()).unwrap();
        let at = at * (text.len() - 3) / 1000;
        prop_assert!(parsed(&text[..at]).is_err());
    }
}

#[test]
fn messages_name_frame_person_and_field() {
    for (found, wanted) in [
        (
            message(|v| {
                let points = &mut v["frames"][2]["people"][0]["keypoints"];
                points.as_array_mut().unwrap().pop();
            }),
            "frame 2, person 0: `keypoints` has 132 keypoints; expected 133",
        ),
        (
            message(|v| {
                let points = &mut v["reference"]["people"][0]["keypoints"];
                points.as_array_mut().unwrap().push(json!([1, 2, 3]));
            }),
            "reference, person 0: `keypoints` has 134 keypoints",
        ),
        (
            message(|v| v["frames"][0]["people"][1]["keypoints"][17] = json!([1, 2])),
            "`frames[0].people[1].keypoints[17]`: invalid length 2, expected a keypoint [x, y, score]",
        ),
        (
            message(|v| v["frames"][0]["people"][1]["keypoints"][17] = json!([1, 2, 3, 4])),
            "`frames[0].people[1].keypoints[17]`: invalid length 4",
        ),
        (
            message(|v| v["frames"][0]["people"][1]["keypoints"][17][1] = Value::Null),
            "`frames[0].people[1].keypoints[17][1]`: invalid type: null, expected f64",
        ),
        (message(|v| v["frames"][1]["people"] = json!("nobody")), "`frames[1].people`: invalid type: string"),
        (message(|v| v["refernce"] = json!(1)), "unknown field `refernce`"),
        (message(|v| drop(v.as_object_mut().unwrap().remove("fps"))), "missing field `fps`"),
        (message(|v| v["frames"] = json!([])), "no frames"),
        (message(|v| v["version"] = json!(2)), "version 2; this program reads version 1"),
        (message(|v| v["version"] = json!("1")), "`version`: invalid type: string"),
        (message(|v| v["format"] = json!("coco")), "`format` is \"coco\"; expected"),
        (message(|v| drop(v.as_object_mut().unwrap().remove("format"))), "`format` is missing"),
        (message(|v| v["fps"] = json!(0)), "fps is 0; expected a number above 0"),
        (message(|v| v["width"] = json!(0)), "driving video is 0x1280; each side must be 1 to 65535"),
        (message(|v| v["width"] = json!(-3)), "`width`: invalid value"),
        (message(|v| v["reference"]["height"] = json!(70000)), "reference picture is 864x70000"),
    ] {
        assert!(found.contains(wanted), "{found}\n  should say: {wanted}");
    }
}

#[test]
fn not_json() {
    let text = to_string(&clip()).unwrap();
    for (text, wanted) in [
        ("", "EOF"),
        ("hello", "expected value"),
        ("\u{0}\u{1}", "expected value"),
        ("{\"format\": \"steadydance-keypoints\"", "EOF"),
        (&text.replacen("0.1,", "NaN,", 1), "`frames[0].people[0].keypoints[0]"),
        (&text.replacen("0.1,", "1e999,", 1), "number out of range"),
        (&format!("{text} more"), "trailing characters"),
        (&"[".repeat(100_000), "keypoint file, `[0]"),
        (&format!("{{\"people\": {}", "[".repeat(100_000)), "EOF while parsing a list"),
    ] {
        let found = parsed(text).unwrap_err().to_string();
        assert!(found.contains(wanted), "{found}\n  should say: {wanted}");
    }
}

#[test]
fn files_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let options = ReadOptions::default();
    let missing = read(&folder.path().join("none.json"), options).unwrap_err();
    assert!(matches!(missing, PoseError::Read { .. }), "{missing}");
    assert!(read(folder.path(), options).is_err(), "a folder");
    let huge = folder.path().join("huge.json");
    // Sparse: costs no disk.
    let file = std::fs::File::create(&huge).unwrap();
    file.set_len(MAX_BYTES + 1).unwrap();
    let error = read(&huge, options).unwrap_err();
    assert!(matches!(error, PoseError::TooLarge { bytes, .. } if bytes == MAX_BYTES + 1), "{error}");
    let error = write(&folder.path().join("no/such/folder.json"), &clip()).unwrap_err();
    assert!(matches!(error, PoseError::Write { .. }), "{error}");
}

#[test]
fn invalid_clips_are_not_written() {
    let mut bad = clip();
    bad.frames[2].people[0].scores[5] = f64::NAN;
    let error = to_string(&bad).unwrap_err().to_string();
    assert!(error.contains("frame 2, person 0, keypoint 5: score is NaN"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    assert!(write(&folder.path().join("bad.json"), &bad).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

fn openpose(pose: usize, canvas: [u32; 2], scale: f64) -> Value {
    let triples = |count: usize, start: f64| -> Vec<f64> {
        let points = (0..count).flat_map(|i| [(start + i as f64) * scale, i as f64 * scale, 1.0]);
        points.collect()
    };
    json!({
        "people": [{
            "person_id": [-1],
            "pose_keypoints_2d": triples(pose, 0.0),
            "hand_left_keypoints_2d": triples(21, 100.0),
            "hand_right_keypoints_2d": Value::Null,
        }],
        "canvas_width": canvas[0],
        "canvas_height": canvas[1],
    })
}

#[test]
fn openpose_files() {
    let options = ReadOptions { openpose_fps: Some(24.0) };
    let read = |value: Value| parse(value.to_string().as_bytes(), options);
    let body = read(openpose(18, [512, 512], 1.0)).unwrap();
    let person = &body.frames[0].people[0];
    // Joints 5 (left shoulder), 2 (right shoulder), 10 (right ankle) of OpenPose.
    assert_eq!([5, 6, 16].map(|i| person.points[i][0]), [5.0, 2.0, 10.0]);
    assert_eq!(person.points[91], [100.0, 0.0]);
    assert_eq!((person.scores[91], person.scores[112], person.scores[17]), (1.0, 0.0, 0.0));
    assert_eq!((body.fps, body.width), (24.0, 512));

    let clip = read(json!([openpose(25, [512, 256], 1.0), openpose(25, [1024, 512], 2.0)])).unwrap();
    assert_eq!(clip.frames[0], clip.frames[1], "brought to one size");
    let person = &clip.frames[0].people[0];
    // BODY_25: hips 9 and 12 rather than 8 and 11, and feet.
    assert_eq!([11, 12, 17, 22].map(|i| person.points[i][0]), [12.0, 9.0, 19.0, 24.0]);

    let fractions = read(openpose(18, [512, 512], 1.0 / 512.0)).unwrap();
    assert_eq!(fractions.frames[0], body.frames[0], "fractions of the canvas");

    let error = parsed(&openpose(18, [512, 512], 1.0).to_string()).unwrap_err();
    assert!(matches!(error, PoseError::OpenPoseNeedsFps), "{error}");
    let error = read(openpose(17, [512, 512], 1.0)).unwrap_err().to_string();
    assert!(error.contains("frame 0, person 0: `pose_keypoints_2d` has 17"), "{error}");
    assert!(matches!(read(json!([])), Err(PoseError::NoFrames)));
    let error = read(openpose(18, [512, 0], 1.0)).unwrap_err();
    assert!(matches!(error, PoseError::ImageSize { .. }), "{error}");
}
