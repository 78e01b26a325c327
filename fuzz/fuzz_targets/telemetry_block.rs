//! Foreign blocks are refused or stable; rows come back bit by bit.

#![no_main]

#[path = "../../telemetry/tests/it/fuzz_block.rs"]
mod fuzz_block;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_block::blocks(bytes));
