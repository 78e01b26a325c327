//! What members of a cluster tell each other is taken as it was written, or refused.

#![no_main]

#[path = "../../cluster/tests/it/fuzz_member.rs"]
mod fuzz_member;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_member::member(bytes);
});
