//! The decoder's soundness on any bytes.

#![no_main]

#[path = "../../mqtt/tests/it/fuzz_decode.rs"]
mod fuzz_decode;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_decode::decode(bytes));
