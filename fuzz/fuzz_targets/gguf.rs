//! GGUF files. Its input is what follows the magic word and version.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::use_up(b"GGUF\x03\0\0\0", data));
