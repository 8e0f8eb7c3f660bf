//! Zip archives of `torch.save`. Its input is what follows the first four bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::use_up(b"PK\x03\x04", data));
