//! Pictures in overlapping tiles, each of which goes through a half of the VAE by itself, and their results put together.
//!
//! Where tiles overlap their results are mixed with weights that rise and fall linearly and sum to one, so that there is no
//! seam. What a convolution sees beyond a tile's border is zeros, and attention sees the tile alone: results near borders
//! inside of the picture differ from those of the whole, the less the larger the overlap. A tile that covers the picture is
//! the whole, to the bit.

use candle_core::{Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Config, VaeError};

/// The largest tile that may be computed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tile {
    /// Height and width at most, in pixels: a multiple of 8.
    pub size: usize,
    /// Least overlap of neighbours, in pixels: a multiple of 8, at most half of the size.
    pub overlap: usize,
}

impl Tile {
    /// The customary overlap.
    const OVERLAP: usize = 64;

    /// Tiles of `size` pixels with an overlap of 64, or of a quarter where that is less.
    pub fn new(size: usize) -> Self {
        Self { size, overlap: Self::OVERLAP.min(size / 32 * 8).max(8) }
    }

    /// Whether tiles can be cut like this.
    ///
    /// # Errors
    /// [`VaeError::Tile`].
    pub fn check(&self, config: &Config) -> std::result::Result<(), VaeError> {
        let (Self { size, overlap }, stride) = (*self, config.spatial_stride());
        let fits = |n: usize| n > 0 && n.is_multiple_of(stride);
        if fits(size) && fits(overlap) && overlap <= size / 2 {
            return Ok(());
        }
        Err(VaeError::Tile { size, overlap, stride })
    }
}

/// A side of the picture cut into pieces of one length, in latent pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Axis {
    length: usize,
    starts: Vec<usize>,
}

impl Axis {
    fn new(full: usize, tile: Option<(usize, usize)>) -> Self {
        match tile {
            Some((most, overlap)) if full > most => {
                let count = (full - overlap).div_ceil(most - overlap);
                // No longer than so many pieces need: the overlap is what was asked for, rounding aside.
                let length = (full + (count - 1) * overlap).div_ceil(count);
                Self { length, starts: (0..count).map(|i| (full - length) * i / (count - 1)).collect() }
            }
            _ => Self { length: full, starts: vec![0] },
        }
    }

    /// The share of piece `i` in each of its positions, `scale` for each latent pixel.
    fn shares(&self, i: usize, scale: usize) -> Vec<f32> {
        let ramp = |width: usize, at: usize| ((at as f32 + 0.5) / width as f32).min(1.0);
        // Without regard to the others: rising from the end of what is shared with the one before, falling likewise.
        let raw = |i: usize, at: usize| {
            let (start, length) = (self.starts[i], self.length);
            let before = i.checked_sub(1).map_or(0, |j| self.starts[j] + length - start);
            let after = self.starts.get(i + 1).map_or(0, |next| start + length - next);
            let rising = if before == 0 { 1.0 } else { ramp(before * scale, at) };
            let falling = if after == 0 { 1.0 } else { ramp(after * scale, length * scale - 1 - at) };
            rising.min(falling)
        };
        let share = |at: usize| {
            let place = self.starts[i] * scale + at;
            let all: f32 = (0..self.starts.len())
                .filter_map(|j| Some((j, place.checked_sub(self.starts[j] * scale)?)))
                .filter(|(_, at)| *at < self.length * scale)
                .map(|(j, at)| raw(j, at))
                .sum();
            raw(i, at) / all
        };
        (0..self.length * scale).map(share).collect()
    }
}

/// How a picture is cut: row by row of tiles that are all of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiles {
    rows: Axis,
    columns: Axis,
    stride: usize,
}

impl Tiles {
    /// Of a picture of `height` and `width` pixels; without a tile, or with one that covers it, it is one tile.
    ///
    /// # Errors
    /// [`VaeError::Size`] and [`VaeError::Tile`].
    pub fn new(
        config: &Config,
        height: usize,
        width: usize,
        tile: Option<Tile>,
    ) -> std::result::Result<Self, VaeError> {
        config.check_size(height, width)?;
        if let Some(tile) = tile {
            tile.check(config)?;
        }
        let stride = config.spatial_stride();
        let cut = tile.map(|t| (t.size / stride, t.overlap / stride));
        Ok(Self { rows: Axis::new(height / stride, cut), columns: Axis::new(width / stride, cut), stride })
    }

    /// Number of tiles.
    #[allow(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.rows.starts.len() * self.columns.starts.len()
    }

    /// Height and width of each, in pixels.
    pub fn tile_size(&self) -> [usize; 2] {
        [self.rows.length * self.stride, self.columns.length * self.stride]
    }

    /// Tile `index` of a picture or video in pixels, `[.., H, W]` → a view.
    ///
    /// # Errors
    /// There is no such tile, or the picture is smaller.
    pub fn of_pixels(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        self.crop(index, x, self.stride)
    }

    /// Tile `index` of latents, `[.., h, w]` → a view.
    ///
    /// # Errors
    /// As [`of_pixels`](Self::of_pixels).
    pub fn of_latents(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        self.crop(index, x, 1)
    }

    fn crop(&self, index: usize, x: &Tensor, scale: usize) -> Result<Tensor> {
        let Some([row, column]) = self.place(index) else { candle_core::bail!("tile {index} of {}", self.len()) };
        let rank = x.rank();
        if rank < 2 {
            candle_core::bail!("a picture has at least two dimensions; found {:?}", x.dims());
        }
        x.narrow(rank - 2, self.rows.starts[row] * scale, self.rows.length * scale)?.narrow(
            rank - 1,
            self.columns.starts[column] * scale,
            self.columns.length * scale,
        )
    }

    fn place(&self, index: usize) -> Option<[usize; 2]> {
        let columns = self.columns.starts.len();
        (index < self.len()).then_some([index / columns, index % columns])
    }

    /// `[height, width]` of the whole, `scale` for each latent pixel.
    fn whole(&self, scale: usize) -> [usize; 2] {
        [&self.rows, &self.columns].map(|axis| (axis.starts.last().copied().unwrap_or(0) + axis.length) * scale)
    }
}

/// Numbers that results of tiles are summed up in.
pub(crate) trait Sum: Copy {
    const ZERO: Self;
    fn plus(self, v: f32) -> Self;
}

impl Sum for f32 {
    const ZERO: Self = 0.0;
    fn plus(self, v: f32) -> Self {
        self + v
    }
}

/// Half precision, whose rounding is a sixteenth of a step of 8-bit pixels: a long video takes half of the memory.
impl Sum for half::f16 {
    const ZERO: Self = half::f16::ZERO;
    fn plus(self, v: f32) -> Self {
        Self::from_f32(self.to_f32() + v)
    }
}

/// `[planes, frames, height, width]` on the host, to which the results of tiles are added.
#[derive(Debug)]
pub(crate) struct Canvas<T> {
    tiles: Tiles,
    scale: usize,
    frames: usize,
    values: Vec<T>,
}

impl<T: Sum> Canvas<T> {
    /// For results with `scale` positions, each way, for a latent pixel.
    pub fn new(tiles: &Tiles, scale: usize, planes: usize, frames: usize) -> Self {
        let [height, width] = tiles.whole(scale);
        Self { tiles: tiles.clone(), scale, frames, values: vec![T::ZERO; planes * frames * height * width] }
    }

    /// Adds what became of tile `index` in the frames from `first` on, `[B, C, n, H', W']` f32.
    pub fn add(&mut self, index: usize, first: usize, x: &Tensor) -> Result<()> {
        let (b, c, count, height, width) = x.dims5()?;
        let [full_height, full_width] = self.tiles.whole(self.scale);
        let Some([row, column]) = self.tiles.place(index) else { candle_core::bail!("tile {index}") };
        let (down, across) = (self.tiles.rows.shares(row, self.scale), self.tiles.columns.shares(column, self.scale));
        let fits = [height, width] == [down.len(), across.len()] && first + count <= self.frames;
        if !fits || b * c * self.frames * full_height * full_width != self.values.len() {
            candle_core::bail!("{:?} is no result of a tile of {:?}", x.dims(), self.tiles.tile_size());
        }
        let (top, left) = (self.tiles.rows.starts[row] * self.scale, self.tiles.columns.starts[column] * self.scale);
        let values = x.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        for (line, values) in values.chunks_exact(width).enumerate() {
            let (y, frame) = (line % height, line / height);
            let (plane, frame) = (frame / count, first + frame % count);
            let at = ((plane * self.frames + frame) * full_height + top + y) * full_width + left;
            let out = &mut self.values[at..][..width];
            for ((out, v), share) in out.iter_mut().zip(values).zip(&across) {
                *out = out.plus(v * (share * down[y]));
            }
        }
        Ok(())
    }

    /// Frames from `first` on, `planes` of them times `count`, as f32 in row-major order.
    pub fn frames(&self, first: usize, count: usize) -> Vec<f32>
    where
        f32: From<T>,
    {
        let [height, width] = self.tiles.whole(self.scale);
        let area = height * width;
        let planes = self.values.chunks_exact((self.frames * area).max(1));
        planes.flat_map(|plane| plane[first * area..][..count * area].iter().map(|v| f32::from(*v))).collect()
    }
}

/// Latents of a picture's tiles, put together.
#[derive(Debug)]
pub struct LatentMosaic {
    tiles: Tiles,
    canvas: Option<Canvas<f32>>,
    whole: Option<Tensor>,
}

impl LatentMosaic {
    /// Of these tiles, none of which is there yet.
    pub fn new(tiles: &Tiles) -> Self {
        Self { tiles: tiles.clone(), canvas: None, whole: None }
    }

    /// Adds tile `index`, `[B, 16, F, h', w']` f32. Each is to be added once.
    ///
    /// # Errors
    /// There is no such tile, or it has another shape.
    pub fn add(&mut self, index: usize, latents: Tensor) -> Result<()> {
        if self.tiles.len() == 1 {
            self.whole = Some(latents);
            return Ok(());
        }
        let (b, c, frames, _, _) = latents.dims5()?;
        let canvas = self.canvas.get_or_insert_with(|| Canvas::new(&self.tiles, 1, b * c, frames));
        canvas.add(index, 0, &latents)?;
        self.whole.get_or_insert(latents.narrow(2, 0, 0)?);
        Ok(())
    }

    /// All of it, `[B, 16, F, h, w]`.
    ///
    /// # Errors
    /// No tile was added.
    pub fn finish(self) -> Result<Tensor> {
        match (self.canvas, self.whole) {
            (None, Some(whole)) => Ok(whole),
            (Some(canvas), Some(like)) => {
                let [h, w] = self.tiles.whole(1);
                let (b, c, ..) = like.dims5()?;
                Tensor::from_vec(canvas.values, (b, c, canvas.frames, h, w), like.device())
            }
            _ => candle_core::bail!("no tile was added"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_side_overlap_and_have_shares_of_one() {
        for most in [4, 8, 16, 33, 64] {
            for overlap in (1..=most / 2).step_by(3) {
                for full in 1..150 {
                    let axis = Axis::new(full, Some((most, overlap)));
                    assert!(axis.length <= most.max(1) && (full > most || axis.starts.len() == 1));
                    assert_eq!(axis.starts[0], 0);
                    assert_eq!(axis.starts[axis.starts.len() - 1] + axis.length, full);
                    for pair in axis.starts.windows(2) {
                        assert!(pair[0] < pair[1] && pair[1] + overlap <= pair[0] + axis.length, "{axis:?} {overlap}");
                    }
                    for scale in [1, 3] {
                        let mut sums = vec![0f32; full * scale];
                        for i in 0..axis.starts.len() {
                            let shares = axis.shares(i, scale);
                            assert!(shares.iter().all(|s| *s > 0.0 && *s <= 1.0));
                            let at = &mut sums[axis.starts[i] * scale..];
                            at.iter_mut().zip(shares).for_each(|(sum, share)| *sum += share);
                        }
                        assert!(sums.iter().all(|s| (s - 1.0).abs() < 1e-5), "{axis:?}: {sums:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn tiles_that_cannot_be_are_refused_with_what_is_allowed() {
        let config = Config::tiny();
        for (size, overlap) in [(0, 8), (256, 0), (256, 136), (250, 64), (256, 60), (8, 8)] {
            let error = Tiles::new(&config, 512, 512, Some(Tile { size, overlap })).unwrap_err().to_string();
            assert!(error.contains("multiples of 8"), "{error}");
        }
        for size in [16, 64, 128, 256, 320, 512, 1024] {
            let tile = Tile::new(size);
            assert_eq!(tile.check(&config), Ok(()));
            assert_eq!(tile.overlap, 64.min(size / 4).max(8));
        }
        assert_eq!(Tiles::new(&config, 480, 832, Some(Tile::new(512))).unwrap().tile_size(), [480, 448]);
        assert_eq!(Tiles::new(&config, 480, 832, None).unwrap().len(), 1);
        assert!(Tiles::new(&config, 481, 832, None).is_err());
    }
}
