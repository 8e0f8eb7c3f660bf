//! The causal 3D VAE of Wan 2.1.
