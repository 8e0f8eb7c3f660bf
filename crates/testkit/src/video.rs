//! Clips to compute with, and how far apart two are.

use candle_core::{Device, Result, Tensor};

/// `[B, C, T, H, W]` f32 in [−1, 1], smooth in space and time as pictures are.
///
/// # Errors
/// None that a shape of a test meets.
pub fn smooth([b, c, t, h, w]: [usize; 5]) -> Result<Tensor> {
    let mut values = Vec::with_capacity(b * c * t * h * w);
    for i in 0..b * c {
        for t in 0..t {
            for y in 0..h {
                for x in 0..w {
                    let (x, y, t) = (x as f32, y as f32, t as f32 + i as f32);
                    values.push((0.11 * x + 0.3 * t).sin() * (0.07 * y - 0.2 * t).cos());
                }
            }
        }
    }
    Tensor::from_vec(values, (b, c, t, h, w), &Device::Cpu)
}

/// Peak signal to noise ratio in decibels, of the range of `want`, both f32.
///
/// # Errors
/// They are of different shapes.
pub fn psnr(got: &Tensor, want: &Tensor) -> Result<f64> {
    let square = got.sub(want)?.sqr()?.flatten_all()?.to_vec1::<f32>()?;
    let want = want.flatten_all()?.to_vec1::<f32>()?;
    let (low, high) = want.iter().fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
    let mean = square.iter().copied().map(f64::from).sum::<f64>() / square.len() as f64;
    Ok(10.0 * (f64::from(high - low).powi(2) / mean).log10())
}
