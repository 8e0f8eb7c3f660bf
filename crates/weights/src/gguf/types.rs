//! ggml's numbers for types. Source: `ggml.h`.

use kernels::quant::Encoding;
use safetensors::Dtype;

use crate::checkpoint::StoredType;

/// The types that are read and written, with their numbers.
const NUMBERS: [(u32, StoredType); 20] = {
    use StoredType::{Plain, Quantised};
    [
        (0, Plain(Dtype::F32)),
        (1, Plain(Dtype::F16)),
        (2, Quantised(Encoding::Q4_0)),
        (3, Quantised(Encoding::Q4_1)),
        (6, Quantised(Encoding::Q5_0)),
        (7, Quantised(Encoding::Q5_1)),
        (8, Quantised(Encoding::Q8_0)),
        (10, Quantised(Encoding::Q2K)),
        (11, Quantised(Encoding::Q3K)),
        (12, Quantised(Encoding::Q4K)),
        (13, Quantised(Encoding::Q5K)),
        (14, Quantised(Encoding::Q6K)),
        (20, Quantised(Encoding::Iq4Nl)),
        (23, Quantised(Encoding::Iq4Xs)),
        (24, Plain(Dtype::I8)),
        (25, Plain(Dtype::I16)),
        (26, Plain(Dtype::I32)),
        (27, Plain(Dtype::I64)),
        (28, Plain(Dtype::F64)),
        (30, Plain(Dtype::BF16)),
    ]
};

/// Numbers of types that are known and not read.
const NAMES: [(u32, &str); 12] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// What a type number stands for, or its name where such tensors are not read.
pub(super) fn stored_type(number: u32) -> Result<StoredType, String> {
    match NUMBERS.iter().find(|(n, _)| *n == number) {
        Some((_, stored)) => Ok(*stored),
        None => Err(match NAMES.iter().find(|(n, _)| *n == number) {
            Some((_, name)) => format!("GGUF's {name}"),
            None => format!("GGUF's type number {number}"),
        }),
    }
}

/// The number of a type; `None` where GGUF has no such type.
pub(crate) fn number_of(stored: StoredType) -> Option<u32> {
    NUMBERS.iter().find(|(_, s)| *s == stored).map(|(number, _)| *number)
}

/// Bytes that a tensor takes; `None` where its rows are no whole blocks. The number of elements can be reckoned with.
pub(super) fn size(stored: StoredType, shape: &[usize]) -> Option<usize> {
    let elements: usize = shape.iter().product();
    match stored {
        StoredType::Plain(dtype) => elements.checked_mul(dtype.bitsize() / 8),
        StoredType::Quantised(encoding) => {
            let columns = shape.last().copied().unwrap_or(1);
            let rows = elements.checked_div(columns).unwrap_or(0);
            encoding.row_bytes(columns)?.checked_mul(rows)
        }
    }
}
