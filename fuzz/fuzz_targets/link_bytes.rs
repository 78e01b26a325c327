//! Greetings and frames of a peer are taken as they were written, or refused.

#![no_main]

#[path = "../../cluster/tests/it/fuzz_link.rs"]
mod fuzz_link;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_link::link(bytes);
});
