//! Messages of the members of a group are taken as they were written, or refused.

#![no_main]

#[path = "../../cluster/tests/it/fuzz_raft.rs"]
mod fuzz_raft;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_raft::raft(bytes);
});
