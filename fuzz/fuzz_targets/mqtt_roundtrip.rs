//! Encoding and decoding is the identity.

#![no_main]

#[path = "../../mqtt/tests/it/fuzz_roundtrip.rs"]
mod fuzz_roundtrip;
#[path = "../../mqtt/tests/it/generate.rs"]
mod generate;
#[path = "../../mqtt/tests/it/listed.rs"]
mod listed;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_roundtrip::roundtrip(bytes));
