//! The encodings: how many numbers are packed into how many bytes.

use std::fmt;
use std::str::FromStr;

/// How numbers of a matrix are stored. Names are those of the formats' makers (PyTorch's and safetensors' for floats and 8-bit
/// numbers, ggml's for blocks).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Encoding {
    /// IEEE 754's binary32.
    F32,
    /// IEEE 754's binary16; largest 65504.
    F16,
    /// The upper half of an f32.
    BF16,
    /// 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinities; 0x7F and 0xFF are NaN; largest 448.
    F8E4M3,
    /// 1 sign, 5 exponent, 2 mantissa bits: the upper half of an f16; largest 57344.
    F8E5M2,
    /// Two's complement.
    I8,
    /// ggml: 32 numbers, f16 scale, 8-bit numbers.
    Q8_0,
    /// ggml: 32 numbers, f16 scale, 4-bit numbers less 8.
    Q4_0,
    /// ggml: 32 numbers, f16 scale and minimum, 4-bit numbers.
    Q4_1,
    /// ggml: 32 numbers, f16 scale, 5-bit numbers less 16.
    Q5_0,
    /// ggml: 32 numbers, f16 scale and minimum, 5-bit numbers.
    Q5_1,
    /// ggml: 256 numbers in 16 groups, 2 bits.
    Q2K,
    /// ggml: 256 numbers in 16 groups, 3 bits.
    Q3K,
    /// ggml: 256 numbers in 8 groups, 4 bits.
    Q4K,
    /// ggml: 256 numbers in 8 groups, 5 bits.
    Q5K,
    /// ggml: 256 numbers in 16 groups, 6 bits.
    Q6K,
    /// ggml: 32 numbers, f16 scale, 4-bit indices into 16 fixed levels.
    Iq4Nl,
    /// ggml: 256 numbers in 8 groups, 4-bit indices into 16 fixed levels.
    Iq4Xs,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Encoding; 18] = [
        Encoding::F32,
        Encoding::F16,
        Encoding::BF16,
        Encoding::F8E4M3,
        Encoding::F8E5M2,
        Encoding::I8,
        Encoding::Q8_0,
        Encoding::Q4_0,
        Encoding::Q4_1,
        Encoding::Q5_0,
        Encoding::Q5_1,
        Encoding::Q2K,
        Encoding::Q3K,
        Encoding::Q4K,
        Encoding::Q5K,
        Encoding::Q6K,
        Encoding::Iq4Nl,
        Encoding::Iq4Xs,
    ];

    /// Numbers in a block; 1 where each stands for itself.
    pub fn block(self) -> usize {
        match self {
            Encoding::F32 | Encoding::F16 | Encoding::BF16 | Encoding::F8E4M3 | Encoding::F8E5M2 | Encoding::I8 => 1,
            Encoding::Q8_0 | Encoding::Q4_0 | Encoding::Q4_1 | Encoding::Q5_0 | Encoding::Q5_1 | Encoding::Iq4Nl => 32,
            Encoding::Q2K | Encoding::Q3K | Encoding::Q4K | Encoding::Q5K | Encoding::Q6K | Encoding::Iq4Xs => 256,
        }
    }

    /// Whether numbers are floats of 16 or 32 bits.
    pub fn is_float(self) -> bool {
        matches!(self, Encoding::F32 | Encoding::F16 | Encoding::BF16)
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Encoding::F32 => 4,
            Encoding::F16 | Encoding::BF16 => 2,
            Encoding::F8E4M3 | Encoding::F8E5M2 | Encoding::I8 => 1,
            Encoding::Q8_0 => 34,
            Encoding::Q4_0 | Encoding::Iq4Nl => 18,
            Encoding::Q4_1 => 20,
            Encoding::Q5_0 => 22,
            Encoding::Q5_1 => 24,
            Encoding::Q2K => 84,
            Encoding::Q3K => 110,
            Encoding::Q4K => 144,
            Encoding::Q5K => 176,
            Encoding::Q6K => 210,
            Encoding::Iq4Xs => 136,
        }
    }

    /// Bytes of a row of `columns` numbers; `None` if these are no whole blocks, or too many to count.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        columns.is_multiple_of(self.block()).then(|| (columns / self.block()).checked_mul(self.block_bytes())).flatten()
    }

    /// The name, as in file names and reports.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::F32 => "F32",
            Encoding::F16 => "F16",
            Encoding::BF16 => "BF16",
            Encoding::F8E4M3 => "F8_E4M3",
            Encoding::F8E5M2 => "F8_E5M2",
            Encoding::I8 => "I8",
            Encoding::Q8_0 => "Q8_0",
            Encoding::Q4_0 => "Q4_0",
            Encoding::Q4_1 => "Q4_1",
            Encoding::Q5_0 => "Q5_0",
            Encoding::Q5_1 => "Q5_1",
            Encoding::Q2K => "Q2_K",
            Encoding::Q3K => "Q3_K",
            Encoding::Q4K => "Q4_K",
            Encoding::Q5K => "Q5_K",
            Encoding::Q6K => "Q6_K",
            Encoding::Iq4Nl => "IQ4_NL",
            Encoding::Iq4Xs => "IQ4_XS",
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Encoding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|e| e.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|e| e.name()).collect();
            format!("{text:?} is no encoding; allowed are {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_rows_are_whole_blocks() {
        for encoding in Encoding::ALL {
            assert_eq!(encoding.name().to_lowercase().parse(), Ok(encoding));
            assert_eq!(encoding.row_bytes(512), Some(512 / encoding.block() * encoding.block_bytes()));
            assert_eq!(encoding.row_bytes(513).is_some(), encoding.block() == 1, "{encoding}");
        }
        assert!("q9".parse::<Encoding>().unwrap_err().contains("Q4_K"));
    }
}
