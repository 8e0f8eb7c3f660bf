//! Drawing against OpenCV itself: random primitives and skeletons with the CRC-32 of what OpenCV drew.
//! tests/reference/pose/generate.py wrote the file; `STEADYDANCE_RASTER_CASES` names another one.

use image::{Rgb, RgbImage};
use pose::draw::raster::{ellipse_polygon, fill_circle, fill_convex_polygon, line_of_width_2};
use pose::{AlignedPose, Palette, Size, draw_poses};
use serde_json::Value;

const COLOUR: Rgb<u8> = Rgb([10, 20, 30]);

fn crc32(bytes: &[u8]) -> u32 {
    let byte = |mut crc: u32, byte: &u8| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
        crc
    };
    !bytes.iter().fold(!0, byte)
}

fn numbers<const N: usize>(value: &Value) -> [i64; N] {
    std::array::from_fn(|i| value[i].as_i64().unwrap())
}

fn point(value: &Value) -> [f64; 2] {
    [value[0].as_f64().unwrap(), value[1].as_f64().unwrap()]
}

fn person(value: &Value) -> AlignedPose {
    AlignedPose {
        body: std::array::from_fn(|i| point(&value["body"][i])),
        visible: std::array::from_fn(|i| value["visible"][i].as_bool().unwrap()),
        hands: std::array::from_fn(|h| std::array::from_fn(|i| point(&value["hands"][h][i]))),
    }
}

fn draw(case: &Value) -> RgbImage {
    let [width, height] = numbers(&case["size"]).map(|side: i64| side as u32);
    let mut canvas = RgbImage::new(width, height);
    if let Some(people) = case["people"].as_array() {
        let people: Vec<AlignedPose> = people.iter().map(person).collect();
        return draw_poses(&people, Size::new(width, height), Palette::OpenPose);
    } else if case["ellipse"].is_array() {
        let [x, y, a, b, angle] = numbers(&case["ellipse"]);
        fill_convex_polygon(&mut canvas, &ellipse_polygon([x, y], [a, b], angle), COLOUR);
    } else if case["circle"].is_array() {
        let [x, y, radius] = numbers(&case["circle"]);
        fill_circle(&mut canvas, [x, y], radius, COLOUR);
    } else {
        let [x0, y0, x1, y1] = numbers(&case["line"]);
        line_of_width_2(&mut canvas, [x0, y0], [x1, y1], COLOUR);
    }
    canvas
}

#[test]
fn equals_opencv() {
    let text = match std::env::var_os("STEADYDANCE_RASTER_CASES") {
        Some(path) => std::fs::read_to_string(path).unwrap(),
        None => include_str!("fixtures/raster.jsonl").to_owned(),
    };
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let canvas = draw(&case);
        count += 1;
        if u64::from(crc32(&canvas)) != case["crc32"].as_u64().unwrap() {
            let drawn = canvas.pixels().filter(|p| p.0 != [0; 3]).count();
            wrong.push(format!("{drawn} pixels drawn: {line:.300}"));
        }
    }
    eprintln!("{count} drawings compared, {} differ", wrong.len());
    assert!(count > 0);
    let first = &wrong[..wrong.len().min(5)];
    assert!(wrong.is_empty(), "{} of {count} differ, as\n{}", wrong.len(), first.join("\n"));
}
