//! A connection's rules under any bytes and any order of events.

#![no_main]

// The name that the session crate gives it.
extern crate tidewire_mqtt as mqtt;

#[path = "../../session/tests/it/fuzz_ledger.rs"]
mod fuzz_ledger;
#[path = "../../session/tests/it/fuzz_live.rs"]
mod fuzz_live;
#[path = "../../session/tests/it/fuzz_packets.rs"]
mod fuzz_packets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_live::live(bytes));
