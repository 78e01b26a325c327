//! Payloads decode in a stream as they do alone, and as a tree of the same JSON says.

#![no_main]

#[path = "../../telemetry/tests/it/fuzz_json.rs"]
mod fuzz_json;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_json::decode_stream(bytes));
