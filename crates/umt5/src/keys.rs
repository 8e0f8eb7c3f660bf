//! Other projects' tensor names for UMT5.

use weights::KeyMap;

/// Brings the names of Hugging Face (`UMT5EncoderModel`, also in ComfyUI's files) and of llama.cpp's GGUF files to the
/// Wan names that [`Encoder`](crate::Encoder) uses; Wan names stay.
///
/// `encoder.embed_tokens` is the same table as `shared`; a file may hold either or both. ComfyUI's `spiece_model` and
/// `scaled_fp8` are dropped: they are no weights.
pub const fn key_map() -> KeyMap {
    KeyMap::identity()
        .strip(&["text_encoders.umt5xxl.transformer.", "text_encoder."])
        .rename(&[
            ("shared", "token_embedding"),
            ("encoder.embed_tokens", "token_embedding"),
            ("encoder.block.*.layer.0.layer_norm", "blocks.*.norm1"),
            ("encoder.block.*.layer.0.SelfAttention.relative_attention_bias", "blocks.*.pos_embedding.embedding"),
            ("encoder.block.*.layer.0.SelfAttention", "blocks.*.attn"),
            ("encoder.block.*.layer.1.layer_norm", "blocks.*.norm2"),
            ("encoder.block.*.layer.1.DenseReluDense.wi_0", "blocks.*.ffn.gate.0"),
            ("encoder.block.*.layer.1.DenseReluDense.wi_1", "blocks.*.ffn.fc1"),
            ("encoder.block.*.layer.1.DenseReluDense.wo", "blocks.*.ffn.fc2"),
            ("encoder.final_layer_norm", "norm"),
            ("token_embd", "token_embedding"),
            ("enc.blk.*.attn_norm", "blocks.*.norm1"),
            ("enc.blk.*.attn_rel_b", "blocks.*.pos_embedding.embedding"),
            ("enc.blk.*.attn_q", "blocks.*.attn.q"),
            ("enc.blk.*.attn_k", "blocks.*.attn.k"),
            ("enc.blk.*.attn_v", "blocks.*.attn.v"),
            ("enc.blk.*.attn_o", "blocks.*.attn.o"),
            ("enc.blk.*.ffn_norm", "blocks.*.norm2"),
            ("enc.blk.*.ffn_gate", "blocks.*.ffn.gate.0"),
            ("enc.blk.*.ffn_up", "blocks.*.ffn.fc1"),
            ("enc.blk.*.ffn_down", "blocks.*.ffn.fc2"),
            ("enc.output_norm", "norm"),
        ])
        .drop(&["spiece_model", "scaled_fp8"])
}
