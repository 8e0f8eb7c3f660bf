//! Matrices in 8 bits and less, in the forms that published checkpoints store them in, and computed with as they are stored.
//!
//! A matrix is `[rows, columns]` = `[out features, in features]`, row-major. Whatever the encoding, whole rows begin at whole
//! bytes, so that any run of rows can be taken for itself.

pub mod decode;
pub mod encode;
mod encoding;
mod number;
mod rotate;

use bytes::Bytes;

pub use encode::{Scaling, Target, encode};
pub use encoding::Encoding;
pub(crate) use rotate::{Rotation, largest_group};

/// What decoded numbers are multiplied with.
#[derive(Debug, Clone, PartialEq)]
pub enum Scales {
    /// Nothing (plain casts), or scales inside of the encoding's own blocks (GGUF).
    None,
    /// One for the matrix.
    Matrix(f32),
    /// One a row, `[rows]`.
    Rows(Vec<f32>),
    /// One for each block of `side` x `side` numbers, `[ceil(rows / side), ceil(columns / side)]`, row-major.
    Blocks {
        /// Rows and columns of a block, 128 in TurboDiffusion's files.
        side: usize,
        /// The scales.
        values: Vec<f32>,
    },
}

/// A matrix that cannot be: sizes that contradict each other.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("a {encoding} matrix [{rows}, {columns}] {problem}")]
pub struct QuantError {
    /// As which it was to be read.
    pub encoding: Encoding,
    /// Out features.
    pub rows: usize,
    /// In features.
    pub columns: usize,
    /// What contradicts.
    pub problem: String,
}

impl QuantError {
    /// As an error of tensor code, with this one inside.
    pub fn into_candle(self) -> candle_core::Error {
        candle_core::Error::wrap(self)
    }
}

/// A quantised matrix. Cheap to clone: the bytes are shared, and may be a part of a mapped file.
#[derive(Debug, Clone)]
pub struct QuantMatrix {
    encoding: Encoding,
    rows: usize,
    columns: usize,
    bytes: Bytes,
    scales: Scales,
    rotation: Option<usize>,
}

impl QuantMatrix {
    /// `bytes` are `rows` x [`Encoding::row_bytes`]; `rotation` is the group size of the Hadamard rotation that was applied to each
    /// row before quantising (a power of four that divides `columns`), or `None`.
    ///
    /// # Errors
    /// Numbers of bytes or scales that do not fit the shape, columns that are no whole blocks, a rotation that is none.
    pub fn new(
        encoding: Encoding,
        [rows, columns]: [usize; 2],
        bytes: Bytes,
        scales: Scales,
        rotation: Option<usize>,
    ) -> Result<Self, QuantError> {
        let wrong = |problem: String| Err(QuantError { encoding, rows, columns, problem });
        let Some(row_bytes) = encoding.row_bytes(columns) else {
            return wrong(format!("is no whole number of blocks of {} a row", encoding.block()));
        };
        if rows.checked_mul(row_bytes) != Some(bytes.len()) {
            return wrong(format!("takes {rows} x {row_bytes} bytes; {} were found", bytes.len()));
        }
        let (found, needed) = match &scales {
            Scales::None | Scales::Matrix(_) => (0, 0),
            Scales::Rows(values) => (values.len(), rows),
            Scales::Blocks { side: 0, values } => (values.len(), 0),
            Scales::Blocks { side, values } => (values.len(), rows.div_ceil(*side) * columns.div_ceil(*side)),
        };
        if found != needed {
            return wrong(format!("takes {needed} scales; {found} were found"));
        }
        if let Some(group) = rotation
            && !rotate::can_rotate(group, columns)
        {
            return wrong(format!("cannot be rotated in groups of {group}"));
        }
        Ok(Self { encoding, rows, columns, bytes, scales, rotation })
    }

    /// How its numbers are stored.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// `[rows, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// The stored numbers, row after row.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What decoded numbers are multiplied with.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// Group size of the Hadamard rotation of its rows.
    pub fn rotation(&self) -> Option<usize> {
        self.rotation
    }

    /// Itself, borrowed.
    pub(crate) fn view(&self) -> View<'_> {
        let Self { encoding, rows, columns, bytes, scales, rotation } = self;
        View { encoding: *encoding, rows: *rows, columns: *columns, bytes, scales, rotation: *rotation }
    }

    /// An error about this matrix.
    fn problem(&self, problem: String) -> QuantError {
        QuantError { encoding: self.encoding, rows: self.rows, columns: self.columns, problem }
    }

    /// Bytes that it takes, scales included.
    pub fn stored_bytes(&self) -> u64 {
        let scales = match &self.scales {
            Scales::None => 0,
            Scales::Matrix(_) => 1,
            Scales::Rows(values) | Scales::Blocks { values, .. } => values.len(),
        };
        self.bytes.len() as u64 + 4 * scales as u64
    }
}

/// A matrix wherever its bytes lie. They are as many as [`QuantMatrix::new`] asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub encoding: Encoding,
    pub rows: usize,
    pub columns: usize,
    pub bytes: &'a [u8],
    pub scales: &'a Scales,
    pub rotation: Option<usize>,
}

impl View<'_> {
    /// Bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.columns / self.encoding.block() * self.encoding.block_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_contradict_are_refused_with_both_numbers() {
        let make = |encoding, bytes: usize, scales, rotation| {
            QuantMatrix::new(encoding, [3, 512], Bytes::from(vec![0; bytes]), scales, rotation)
        };
        let said = |result: Result<QuantMatrix, QuantError>| result.unwrap_err().to_string();
        assert!(make(Encoding::F8E4M3, 1536, Scales::Matrix(0.5), None).is_ok());
        assert!(make(Encoding::Q4K, 3 * 288, Scales::None, None).is_ok());
        let blocks = |n| Scales::Blocks { side: 128, values: vec![1.0; n] };
        assert!(make(Encoding::I8, 1536, blocks(4), Some(256)).is_ok());
        assert!(
            said(make(Encoding::F8E4M3, 1535, Scales::None, None)).contains("takes 3 x 512 bytes; 1535 were found")
        );
        assert!(said(make(Encoding::I8, 1536, blocks(3), None)).contains("takes 4 scales; 3 were found"));
        assert!(said(make(Encoding::I8, 1536, Scales::Rows(vec![1.0; 2]), None)).contains("takes 3 scales; 2"));
        assert!(said(make(Encoding::I8, 1536, Scales::None, Some(768))).contains("groups of 768"));
        let zero = Scales::Blocks { side: 0, values: vec![1.0] };
        assert!(make(Encoding::I8, 1536, zero, None).is_err());
        let odd = QuantMatrix::new(Encoding::Q8_0, [1, 33], Bytes::new(), Scales::None, None);
        assert_eq!(said(odd), "a Q8_0 matrix [1, 33] is no whole number of blocks of 32 a row");
    }
}
