//! Other projects' tensor names for the CLIP vision tower.

use weights::KeyMap;

/// Brings the names of open-clip (`visual.…`, the Wan release and its repacks) and of Hugging Face
/// (`CLIPVisionModel`, also ComfyUI's `clip_vision_h`) to the canonical ones: open-clip's without the prefix.
///
/// The text tower and the logit scale are dropped. Hugging Face keeps q, k and v apart; they are stacked into
/// `to_qkv`. "layrnorm" is its spelling.
pub const fn key_map() -> KeyMap {
    KeyMap::identity()
        .strip(&["module.visual.", "visual.", "module.", "image_encoder."])
        .rename(&[
            ("vision_model.embeddings.class_embedding", "cls_embedding"),
            ("vision_model.embeddings.patch_embedding", "patch_embedding"),
            ("vision_model.embeddings.position_embedding.weight", "pos_embedding"),
            ("vision_model.pre_layrnorm", "pre_norm"),
            ("vision_model.encoder.layers.*.layer_norm1", "transformer.*.norm1"),
            ("vision_model.encoder.layers.*.layer_norm2", "transformer.*.norm2"),
            ("vision_model.encoder.layers.*.self_attn.q_proj", "transformer.*.attn.q"),
            ("vision_model.encoder.layers.*.self_attn.k_proj", "transformer.*.attn.k"),
            ("vision_model.encoder.layers.*.self_attn.v_proj", "transformer.*.attn.v"),
            ("vision_model.encoder.layers.*.self_attn.out_proj", "transformer.*.attn.proj"),
            ("vision_model.encoder.layers.*.mlp.fc1", "transformer.*.mlp.0"),
            ("vision_model.encoder.layers.*.mlp.fc2", "transformer.*.mlp.2"),
            ("vision_model.post_layernorm", "post_norm"),
        ])
        .join(&[
            (".attn.to_qkv.weight", [".attn.q.weight", ".attn.k.weight", ".attn.v.weight"]),
            (".attn.to_qkv.bias", [".attn.q.bias", ".attn.k.bias", ".attn.v.bias"]),
        ])
        .drop(&["textual.", "text_model.", "text_projection", "log_scale", "logit_scale"])
}
