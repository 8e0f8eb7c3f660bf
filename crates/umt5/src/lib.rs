//! The UMT5 text encoder with its tokenizer and text cleaning.
