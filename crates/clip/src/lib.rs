//! The CLIP ViT-H vision tower.
