//! Safetensors headers with their scales and descriptions. Its input is a whole file.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::use_up(b"", data));
