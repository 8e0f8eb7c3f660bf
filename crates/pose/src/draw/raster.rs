//! The integer drawing algorithms of OpenCV (`imgproc`, 4.x, line type 8, three channels) that the reference uses, with
//! their exact roundings: outlines by Bresenham or by 16.16 fixed-point steps, convex fills by two edges walked down the
//! rows, circles by the midpoint rule. Compared with OpenCV itself by tests/reference/pose.
//!
//! Coordinates are pixels, `[x, y]`, and may lie outside of the image within ±[`MAX_COORDINATE`].

use std::sync::LazyLock;

use image::{Rgb, RgbImage};

/// Largest coordinate that is drawn; keeps fixed-point arithmetic far from overflow.
pub const MAX_COORDINATE: i64 = 1 << 24;

/// Fraction bits of fixed-point coordinates.
const SHIFT: u32 = 16;
const ONE: i64 = 1 << SHIFT;
const HALF: i64 = ONE / 2;

type Point = [i64; 2];

/// Sines of whole degrees 0..=450 as OpenCV tabulates them: seven decimals, single precision.
static SINES: LazyLock<[f64; 451]> = LazyLock::new(|| {
    std::array::from_fn(|degree| {
        let decimals = ((degree as f64).to_radians().sin() * 1e7).round() / 1e7;
        f64::from(decimals as f32)
    })
});

/// Polygon of a full ellipse, one vertex a degree, vertices rounded (half to even) and equal neighbours merged. `axes` are
/// the half axes, the first turned by `angle` degrees.
pub fn ellipse_polygon(centre: Point, axes: [i64; 2], angle: i64) -> Vec<Point> {
    let angle = angle.rem_euclid(360) as usize;
    let (cosine, sine) = (SINES[450 - angle], SINES[angle]);
    let mut polygon: Vec<Point> = Vec::with_capacity(361);
    for degree in 0..=360 {
        let x = axes[0] as f64 * SINES[450 - degree];
        let y = axes[1] as f64 * SINES[degree];
        let vertex = [centre[0] as f64 + x * cosine - y * sine, centre[1] as f64 + x * sine + y * cosine]
            .map(|v| v.round_ties_even() as i64);
        if polygon.last() != Some(&vertex) {
            polygon.push(vertex);
        }
    }
    if polygon.len() == 1 {
        return vec![centre; 2];
    }
    polygon
}

/// Fills a convex polygon and draws its outline.
pub fn fill_convex_polygon(image: &mut RgbImage, polygon: &[Point], colour: Rgb<u8>) {
    let Some(&last) = polygon.last() else {
        return;
    };
    let mut from = last;
    for &to in polygon {
        outline(image, from, to, colour);
        from = to;
    }
    fill_between_edges(image, polygon, 0, colour);
}

/// A line of width 2 with round ends: a rectangle in fixed point and a circle of radius 1 at each end.
pub fn line_of_width_2(image: &mut RgbImage, from: Point, to: Point, colour: Rgb<u8>) {
    let dx = (from[0] - to[0]) as f64;
    let dy = (to[1] - from[1]) as f64;
    let squared = dx * dx + dy * dy;
    if squared > f64::EPSILON {
        let unit = ONE as f64 / squared.sqrt();
        let side = [dy * unit, dx * unit].map(|v| v.round_ties_even() as i64);
        let [from, to] = [from, to].map(|p| p.map(|v| v << SHIFT));
        let corners = [
            [from[0] + side[0], from[1] + side[1]],
            [from[0] - side[0], from[1] - side[1]],
            [to[0] - side[0], to[1] - side[1]],
            [to[0] + side[0], to[1] + side[1]],
        ];
        let mut previous = corners[3];
        for corner in corners {
            fixed_point_outline(image, previous, corner, colour);
            previous = corner;
        }
        fill_between_edges(image, &corners, SHIFT, colour);
    }
    fill_circle(image, from, 1, colour);
    fill_circle(image, to, 1, colour);
}

/// A filled circle by the midpoint rule.
pub fn fill_circle(image: &mut RgbImage, centre: Point, radius: i64, colour: Rgb<u8>) {
    let [cx, cy] = centre;
    let (mut error, mut dx, mut dy) = (0, radius, 0);
    let (mut plus, mut minus) = (1, 2 * radius - 1);
    while dx >= dy {
        for (row, reach) in [(cy - dy, dx), (cy + dy, dx), (cy - dx, dy), (cy + dx, dy)] {
            fill_row(image, row, cx - reach, cx + reach, colour);
        }
        dy += 1;
        error += plus;
        plus += 2;
        if error > 0 {
            error -= minus;
            dx -= 1;
            minus -= 2;
        }
    }
}

/// Pixels `left..=right` of a row, as far as they are in the image.
fn fill_row(image: &mut RgbImage, row: i64, left: i64, right: i64, colour: Rgb<u8>) {
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    if !(0..height).contains(&row) {
        return;
    }
    let (left, right) = (left.max(0), right.min(width - 1));
    if left > right {
        return;
    }
    let start = 3 * (row * width + left) as usize;
    let end = 3 * (row * width + right + 1) as usize;
    let pixels: &mut [u8] = image;
    for pixel in pixels[start..end].chunks_exact_mut(3) {
        pixel.copy_from_slice(&colour.0);
    }
}

fn put(image: &mut RgbImage, x: i64, y: i64, colour: Rgb<u8>) {
    fill_row(image, y, x, x, colour);
}

/// The part of a line within 0..=`right`, 0..=`bottom` (Cohen-Sutherland; rows first, offsets truncated), or `None`.
fn clip(from: Point, to: Point, right: i64, bottom: i64) -> Option<[Point; 2]> {
    const ABOVE_OR_BELOW: u8 = 12;
    const BELOW: u8 = 8;
    const LEFT: u8 = 1;
    let side = |x: i64| u8::from(x < 0) | u8::from(x > right) << 1;
    let code = |p: Point| side(p[0]) | u8::from(p[1] < 0) << 2 | u8::from(p[1] > bottom) << 3;
    let mut ends = [from, to];
    let mut codes = ends.map(code);
    let undecided = |codes: [u8; 2]| codes[0] & codes[1] == 0 && codes[0] | codes[1] != 0;
    // Distance to go along one axis, per unit of the other.
    let along = |distance: i64, run: i64, rise: i64| (distance as f64 * run as f64 / rise as f64) as i64;
    if undecided(codes) {
        for i in 0..2 {
            if codes[i] & ABOVE_OR_BELOW != 0 {
                let [[x1, y1], [x2, y2]] = ends;
                let edge = if codes[i] < BELOW { 0 } else { bottom };
                ends[i] = [ends[i][0] + along(edge - ends[i][1], x2 - x1, y2 - y1), edge];
                codes[i] = side(ends[i][0]);
            }
        }
        if undecided(codes) {
            for i in 0..2 {
                if codes[i] != 0 {
                    let [[x1, y1], [x2, y2]] = ends;
                    let edge = if codes[i] == LEFT { 0 } else { right };
                    ends[i] = [edge, ends[i][1] + along(edge - ends[i][0], y2 - y1, x2 - x1)];
                    codes[i] = 0;
                }
            }
        }
    }
    (codes == [0, 0]).then_some(ends)
}

/// A line one pixel wide between whole pixels, eight-connected, from left to right.
fn outline(image: &mut RgbImage, from: Point, to: Point, colour: Rgb<u8>) {
    let (right, bottom) = (i64::from(image.width()) - 1, i64::from(image.height()) - 1);
    let Some([mut from, mut to]) = clip(from, to, right, bottom) else {
        return;
    };
    if to[0] < from[0] {
        std::mem::swap(&mut from, &mut to);
    }
    let (dx, dy) = (to[0] - from[0], (to[1] - from[1]).abs());
    let down = if to[1] < from[1] { -1 } else { 1 };
    let steep = dy > dx;
    let (long, short) = if steep { (dy, dx) } else { (dx, dy) };
    let mut error = long - 2 * short;
    let [mut x, mut y] = from;
    for _ in 0..=long {
        put(image, x, y, colour);
        let aside = error < 0;
        error += if aside { 2 * long } else { 0 } - 2 * short;
        if steep {
            y += down;
            x += i64::from(aside);
        } else {
            x += 1;
            y += if aside { down } else { 0 };
        }
    }
}

/// A line one pixel wide between fixed-point positions.
fn fixed_point_outline(image: &mut RgbImage, from: Point, to: Point, colour: Rgb<u8>) {
    let right = (i64::from(image.width()) << SHIFT) - 1;
    let bottom = (i64::from(image.height()) << SHIFT) - 1;
    let Some([mut from, mut to]) = clip(from, to, right, bottom) else {
        return;
    };
    let flat = (to[0] - from[0]).abs() > (to[1] - from[1]).abs();
    // `along` is the axis that advances by whole pixels.
    let (along, across) = if flat { (0, 1) } else { (1, 0) };
    if to[along] < from[along] {
        std::mem::swap(&mut from, &mut to);
    }
    let length = to[along] - from[along];
    let step = ((to[across] - from[across]) << SHIFT) / (length | 1);
    put(image, (to[0] + HALF) >> SHIFT, (to[1] + HALF) >> SHIFT, colour);
    let start = (from[along] + HALF) >> SHIFT;
    let mut beside = from[across] + HALF;
    for at in start..=start + (length >> SHIFT) {
        let (x, y) = if flat { (at, beside >> SHIFT) } else { (beside >> SHIFT, at) };
        put(image, x, y, colour);
        beside += step;
    }
}

/// One of the two chains of a convex polygon, walked from its top.
struct Chain {
    /// Vertex at the lower end of the current edge.
    vertex: usize,
    /// Steps to the next vertex: 1, or all but one.
    direction: usize,
    /// Fixed-point x in the current row, and its change a row.
    x: i64,
    slope: i64,
    /// First row below the current edge.
    end: i64,
}

/// Fills the rows between the left and right chains of a convex polygon whose coordinates have `shift` fraction bits.
fn fill_between_edges(image: &mut RgbImage, polygon: &[Point], shift: u32, colour: Rgb<u8>) {
    let count = polygon.len();
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    let rounding = (1i64 << shift) >> 1;
    let pixel = |v: i64| (v + rounding) >> shift;
    let extent = |axis: usize| {
        let values = polygon.iter().map(|p| p[axis]);
        Some([pixel(values.clone().min()?), pixel(values.max()?)])
    };
    let (Some([left, right]), Some([top, bottom])) = (extent(0), extent(1)) else {
        return;
    };
    if count < 3 || right < 0 || bottom < 0 || left >= width || top >= height {
        return;
    }
    let bottom = bottom.min(height - 1);
    let first = (0..count).min_by_key(|&i| polygon[i][1]).unwrap_or(0);
    let chain = |direction| Chain { vertex: first, direction, x: -ONE, slope: 0, end: top };
    let mut chains = [chain(1), chain(count - 1)];
    // Both chains together use every edge once.
    let mut edges_left = count;
    let mut row = top;
    while row <= bottom {
        for chain in chains.iter_mut().filter(|chain| row >= chain.end) {
            let mut start = chain.vertex;
            loop {
                if edges_left == 0 {
                    return;
                }
                edges_left -= 1;
                let next = (start + chain.direction) % count;
                let end = pixel(polygon[next][1]);
                if end > row {
                    let fixed = |i: usize| polygon[i][0] << (SHIFT - shift);
                    let rows = end - row;
                    chain.x = fixed(start);
                    // Rounded for rising slopes, truncated towards zero as C divides.
                    chain.slope = ((fixed(next) - fixed(start)) * 2 + rows) / (2 * rows);
                    chain.end = end;
                    chain.vertex = next;
                    break;
                }
                start = next;
            }
        }
        let [a, b] = [&chains[0], &chains[1]].map(|chain| chain.x);
        let span = [a.min(b), a.max(b)].map(|x| (x + HALF) >> SHIFT);
        fill_row(image, row, span[0], span[1], colour);
        // Rows above the image draw nothing: go straight to the next edge or the first visible row.
        let rows = if row < 0 { chains.iter().map(|c| c.end).fold(0, i64::min).max(row + 1) - row } else { 1 };
        for chain in &mut chains {
            chain.x += chain.slope * rows;
        }
        row += rows;
    }
}
