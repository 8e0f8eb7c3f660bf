//! Whether it is still the same person: colours of the figure and of its parts.

use image::RgbImage;
use palette::color_difference::Ciede2000;
use palette::white_point::D65;
use palette::{FromColor, Lab, Srgb};
use pose::WholeBody;

use super::Mask;
use super::joints::is_visible;

/// CIELAB under D65.
type Colour = Lab<D65, f64>;

/// Parts of a body that have a colour of their own.
const PARTS: usize = 6;
/// Joints of each part's bones as pairs of COCO's 17: head, trunk, arms, legs.
const BONES: [&[[usize; 2]]; PARTS] = [
    &[[0, 1], [0, 2], [1, 3], [2, 4], [3, 4]],
    &[[5, 6], [5, 11], [6, 12], [11, 12], [5, 12], [6, 11]],
    &[[5, 7], [7, 9]],
    &[[6, 8], [8, 10]],
    &[[11, 13], [13, 15]],
    &[[12, 14], [14, 16]],
];
/// A part that shows fewer pixels in a frame has no mean colour there.
const LEAST_PIXELS: usize = 12;

/// How far the figure's colours are from the truth's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Appearance {
    /// Mean CIEDE2000 difference of the figure's pixels to the truth's at the same place, 0 to about 100, lower is
    /// better; 1 is just noticeable. Motion that is wrong counts too.
    pub pixels: f64,
    /// The same of the mean colours of the body's parts: the figure's pixels of a frame go to the nearest of head,
    /// trunk, arms and legs of the target pose, and output and truth are averaged in CIELAB over each part; the mean is
    /// over parts of at least 12 pixels and frames. Small errors of motion hardly count. `None` without poses.
    pub parts: Option<f64>,
}

/// Compares the colours of a clip's figure with the truth's. `targets` are the poses that the truth shows, `None` where
/// it shows another. `None` when there is no figure, or lengths or sizes differ.
pub fn appearance(
    frames: &[RgbImage],
    truth: &[RgbImage],
    masks: &[Mask],
    targets: &[Option<WholeBody>],
) -> Option<Appearance> {
    if frames.len() != truth.len() || frames.len() != masks.len() {
        return None;
    }
    let (mut pixels, mut count, mut parts, mut part_count) = (0.0, 0usize, 0.0, 0usize);
    for (i, (frame, truth)) in frames.iter().zip(truth).enumerate() {
        if frame.dimensions() != truth.dimensions() || frame.len() != 3 * masks[i].len() {
            return None;
        }
        let bones = targets.get(i).and_then(Option::as_ref).map(Bones::of);
        let mut sums = [PartSum::default(); PARTS];
        for p in (0..masks[i].len()).filter(|p| masks[i][*p]) {
            let (a, b) = (lab(frame, p), lab(truth, p));
            pixels += a.difference(b);
            count += 1;
            let place = [(p as u32 % frame.width()) as f64 + 0.5, (p as u32 / frame.width()) as f64 + 0.5];
            if let Some(part) = bones.as_ref().and_then(|b| b.nearest(place)) {
                sums[part].add(a, b);
            }
        }
        for difference in sums.iter().filter_map(PartSum::difference) {
            parts += difference;
            part_count += 1;
        }
    }
    (count > 0).then(|| Appearance {
        pixels: pixels / count as f64,
        parts: (part_count > 0).then(|| parts / part_count as f64),
    })
}

fn lab(picture: &RgbImage, pixel: usize) -> Colour {
    let p = &picture.as_raw()[3 * pixel..3 * pixel + 3];
    Lab::from_color(Srgb::new(p[0], p[1], p[2]).into_format::<f64>())
}

/// Colours of one part, summed up.
#[derive(Clone, Copy, Default)]
struct PartSum {
    sums: [[f64; 3]; 2],
    count: usize,
}

impl PartSum {
    fn add(&mut self, a: Colour, b: Colour) {
        for (sum, colour) in self.sums.iter_mut().zip([a, b]) {
            for (sum, value) in sum.iter_mut().zip([colour.l, colour.a, colour.b]) {
                *sum += value;
            }
        }
        self.count += 1;
    }

    fn difference(&self) -> Option<f64> {
        let mean = |[l, a, b]: [f64; 3]| {
            let n = self.count as f64;
            Colour::new(l / n, a / n, b / n)
        };
        (self.count >= LEAST_PIXELS).then(|| mean(self.sums[0]).difference(mean(self.sums[1])))
    }
}

/// The visible bones of a pose.
struct Bones(Vec<(usize, [[f64; 2]; 2])>);

impl Bones {
    fn of(person: &WholeBody) -> Self {
        let seen = |bone: &&[usize; 2]| bone.iter().all(|joint| is_visible(person, *joint));
        let ends = |bone: &[usize; 2]| bone.map(|joint| person.points[joint]);
        let bones = BONES.iter().enumerate();
        Self(bones.flat_map(|(part, bones)| bones.iter().filter(seen).map(move |b| (part, ends(b)))).collect())
    }

    /// The part whose bone is nearest.
    fn nearest(&self, place: [f64; 2]) -> Option<usize> {
        let distances = self.0.iter().map(|(part, bone)| (*part, distance(place, *bone)));
        distances.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(part, _)| part)
    }
}

/// From a point to a line segment.
fn distance([x, y]: [f64; 2], [[ax, ay], [bx, by]]: [[f64; 2]; 2]) -> f64 {
    let (dx, dy) = (bx - ax, by - ay);
    let length = (dx * dx + dy * dy).max(1e-12);
    let t = (((x - ax) * dx + (y - ay) * dy) / length).clamp(0.0, 1.0);
    (x - ax - t * dx).hypot(y - ay - t * dy)
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use pose::WHOLE_BODY_POINTS;

    use super::*;

    /// A left arm along the upper edge, a right shin along the lower one, both 40 pixels long.
    fn target() -> WholeBody {
        let (mut points, mut scores) = ([[0.0; 2]; WHOLE_BODY_POINTS], [0.0; WHOLE_BODY_POINTS]);
        for (joint, place) in
            [(5, [0.0, 0.0]), (7, [20.0, 0.0]), (9, [40.0, 0.0]), (14, [0.0, 20.0]), (16, [40.0, 20.0])]
        {
            (points[joint], scores[joint]) = (place, 0.9);
        }
        WholeBody { points, scores }
    }

    #[test]
    fn parts_are_compared_by_their_mean_colours() {
        let whole = vec![vec![true; 800]];
        let picture = |arm: [u8; 3]| vec![RgbImage::from_fn(40, 20, |_, y| Rgb(if y < 10 { arm } else { [90; 3] }))];
        let (truth, targets) = (picture([200, 40, 40]), [Some(target())]);
        let look = |frames: &[RgbImage]| appearance(frames, &truth, &whole, &targets).unwrap();
        assert_eq!(look(&truth), Appearance { pixels: 0.0, parts: Some(0.0) });
        let blue = look(&picture([40, 40, 200]));
        // The arm is half of the pixels and one of two parts.
        assert!((blue.pixels - blue.parts.unwrap()).abs() < 1e-9 && blue.pixels > 10.0, "{blue:?}");
        // A pattern in other places has the same mean.
        let striped = |phase: u32| {
            let level = |x: u32| if x % 2 == phase { 200 } else { 50 };
            vec![RgbImage::from_fn(40, 20, |x, _| Rgb([level(x); 3]))]
        };
        let moved = appearance(&striped(1), &striped(0), &whole, &targets).unwrap();
        assert!(moved.parts.unwrap() < 1e-9 && moved.pixels > 10.0, "{moved:?}");
        assert_eq!(appearance(&truth, &truth, &whole, &[None]).unwrap().parts, None);
    }

    /// Rows of the test data of Sharma, Wu, Dalal: "The CIEDE2000 color-difference formula" (2005).
    #[test]
    fn differences_are_those_of_the_standard() {
        for (a, b, expected) in [
            ([50.0, 2.6772, -79.7751], [50.0, 0.0, -82.7485], 2.0425),
            ([50.0, 2.5, 0.0], [73.0, 25.0, -18.0], 27.1492),
            ([2.0776, 0.0795, -1.135], [0.9033, -0.0636, -0.5514], 0.9082),
        ] {
            let colour = |[l, a, b]: [f64; 3]| Colour::new(l, a, b);
            assert!((colour(a).difference(colour(b)) - expected).abs() < 1e-4);
        }
    }
}
