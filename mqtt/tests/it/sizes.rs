//! Structs whose size is paid per message or per connection.

use std::mem::size_of;

use tidewire_mqtt::*;

#[test]
fn a_packet_fits_two_cache_lines() {
    assert!(size_of::<Packet>() <= 128, "{}", size_of::<Packet>());
}

#[test]
fn a_decoder_is_its_limits_and_little_more() {
    assert!(
        size_of::<Decoder>() <= size_of::<Limits>() + 8,
        "{}",
        size_of::<Decoder>()
    );
}
