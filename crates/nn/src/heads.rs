use candle_core::{Result, Tensor};

/// `[B, L, H·D]` → `[B, H, L, D]` (a strided view).
///
/// # Errors
/// The last dimension is no multiple of `heads`.
pub fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, tokens, width) = x.dims3()?;
    if heads == 0 || width % heads != 0 {
        candle_core::bail!("{width} channels cannot be split into {heads} heads");
    }
    x.reshape((batch, tokens, heads, width / heads))?.transpose(1, 2)
}

/// `[B, H, L, D]` → `[B, L, H·D]`.
///
/// # Errors
/// `x` has not four dimensions.
pub fn merge_heads(x: &Tensor) -> Result<Tensor> {
    let (batch, heads, tokens, width) = x.dims4()?;
    x.transpose(1, 2)?.reshape((batch, tokens, heads * width))
}
