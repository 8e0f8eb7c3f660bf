//! PyTorch files from before zip archives. Its input is what follows the magic number and the version.
#![no_main]

const BEGINNING: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::use_up(BEGINNING, data));
