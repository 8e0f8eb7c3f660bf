//! Names under which DiT weights circulate (spec wan_components §4.10).

use weights::KeyMap;

/// Prefixes of ComfyUI repacks, training scripts and rCM.
const PREFIXES: &[&str] = &["model.diffusion_model.", "diffusion_model.", "model.", "net."];

/// diffusers' `WanTransformer3DModel` → original.
const DIFFUSERS: &[(&str, &str)] = &[
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    ("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
    ("condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos"),
    ("blocks.*.attn1.to_q", "blocks.*.self_attn.q"),
    ("blocks.*.attn1.to_k", "blocks.*.self_attn.k"),
    ("blocks.*.attn1.to_v", "blocks.*.self_attn.v"),
    ("blocks.*.attn1.to_out.0", "blocks.*.self_attn.o"),
    ("blocks.*.attn1", "blocks.*.self_attn"),
    ("blocks.*.attn2.to_q", "blocks.*.cross_attn.q"),
    ("blocks.*.attn2.to_k", "blocks.*.cross_attn.k"),
    ("blocks.*.attn2.to_v", "blocks.*.cross_attn.v"),
    ("blocks.*.attn2.to_out.0", "blocks.*.cross_attn.o"),
    ("blocks.*.attn2.add_k_proj", "blocks.*.cross_attn.k_img"),
    ("blocks.*.attn2.add_v_proj", "blocks.*.cross_attn.v_img"),
    ("blocks.*.attn2.norm_added_k", "blocks.*.cross_attn.norm_k_img"),
    ("blocks.*.attn2", "blocks.*.cross_attn"),
    ("blocks.*.norm2", "blocks.*.norm3"),
    ("blocks.*.ffn.net.0.proj", "blocks.*.ffn.0"),
    ("blocks.*.ffn.net.2", "blocks.*.ffn.2"),
    ("blocks.*.scale_shift_table", "blocks.*.modulation"),
    ("vace_blocks.*.attn1.to_q", "vace_blocks.*.self_attn.q"),
    ("vace_blocks.*.attn1.to_k", "vace_blocks.*.self_attn.k"),
    ("vace_blocks.*.attn1.to_v", "vace_blocks.*.self_attn.v"),
    ("vace_blocks.*.attn1.to_out.0", "vace_blocks.*.self_attn.o"),
    ("vace_blocks.*.attn1", "vace_blocks.*.self_attn"),
    ("vace_blocks.*.attn2.to_q", "vace_blocks.*.cross_attn.q"),
    ("vace_blocks.*.attn2.to_k", "vace_blocks.*.cross_attn.k"),
    ("vace_blocks.*.attn2.to_v", "vace_blocks.*.cross_attn.v"),
    ("vace_blocks.*.attn2.to_out.0", "vace_blocks.*.cross_attn.o"),
    ("vace_blocks.*.attn2", "vace_blocks.*.cross_attn"),
    ("vace_blocks.*.norm2", "vace_blocks.*.norm3"),
    ("vace_blocks.*.ffn.net.0.proj", "vace_blocks.*.ffn.0"),
    ("vace_blocks.*.ffn.net.2", "vace_blocks.*.ffn.2"),
    ("vace_blocks.*.scale_shift_table", "vace_blocks.*.modulation"),
    ("vace_blocks.*.proj_in", "vace_blocks.*.before_proj"),
    ("vace_blocks.*.proj_out", "vace_blocks.*.after_proj"),
    ("scale_shift_table", "head.modulation"),
    ("proj_out", "head.head"),
];

const ORIGINAL: KeyMap = KeyMap::identity().strip(PREFIXES);
const FROM_DIFFUSERS: KeyMap = KeyMap::identity().strip(PREFIXES).rename(DIFFUSERS);

/// The names of diffusers, whether or not a file as a whole has them: LoRAs name only what they change.
pub fn diffusers_names() -> KeyMap {
    FROM_DIFFUSERS
}

/// The map for a checkpoint with these tensor names: diffusers' when it has their time embedding, else the original.
pub fn keymap<'a>(mut names: impl Iterator<Item = &'a str>) -> KeyMap {
    if names.any(|n| n.contains("condition_embedder.time_embedder.")) { FROM_DIFFUSERS } else { ORIGINAL }
}
