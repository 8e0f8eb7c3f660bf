//! LoRA files against the weights that PyTorch makes of them (tests/reference/make_lora.py), and LoRAs that do not fit.

mod beside;
mod hostile;
mod merging;
mod spellings;
mod support;
