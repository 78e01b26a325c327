//! What must hold of the decoder for any bytes; shared with `fuzz/`.

use bytes::BytesMut;
use tidewire_mqtt::*;

/// Feeds a stream to a decoder whole and in chunks. The first byte chooses side and limits, the
/// second the sizes of the chunks, the others are the stream.
///
/// # Panics
/// When the decoder consumes bytes without a packet, gives a packet that is another one after it
/// was encoded and decoded again, or does not decode the chunks as it decodes the whole.
pub(crate) fn decode(bytes: &[u8]) {
    let [side, chunks, stream @ ..] = bytes else {
        return;
    };
    let fresh = decoder(*side);

    let mut buf = BytesMut::from(stream);
    let mut whole = Vec::new();
    let mut decoder = fresh;
    let end = take_packets(&mut decoder, &mut buf, &mut whole);
    let rest = buf;

    let mut buf = BytesMut::new();
    let mut chunked = Vec::new();
    let mut decoder = fresh;
    let mut sizes = Sizes(*chunks);
    let mut left = stream;
    let mut chunked_end = Ok(());
    while chunked_end.is_ok() && !left.is_empty() {
        let (chunk, later) = left.split_at(sizes.next_size().min(left.len()));
        buf.extend_from_slice(chunk);
        left = later;
        chunked_end = take_packets(&mut decoder, &mut buf, &mut chunked);
    }

    assert_eq!(chunked, whole, "chunks give other packets");
    assert_eq!(chunked_end, end, "chunks end otherwise");
    if end.is_ok() {
        assert_eq!(buf, rest, "chunks leave other bytes");
    }
}

/// Takes all whole packets from the front.
fn take_packets(
    decoder: &mut Decoder,
    buf: &mut BytesMut,
    packets: &mut Vec<Packet>,
) -> Result<(), DecodeError> {
    loop {
        let before = buf.clone();
        let as_before = *decoder;
        let missing = decoder.bytes_missing(buf);
        let Some(packet) = decoder.decode(buf)? else {
            assert_eq!(*buf, before, "not whole, and still consumed");
            assert_ne!(missing, Some(0), "whole, and not taken");
            return Ok(());
        };
        assert_eq!(missing, Some(0), "taken, and not whole");
        let consumed = before.len() - buf.len();
        assert!(consumed >= 2, "a packet out of {consumed} bytes");
        assert_is_stable(as_before, &packet, consumed);
        packets.push(packet);
    }
}

/// Encodes what was decoded from `consumed` bytes, in the shortest form, and decodes it again.
fn assert_is_stable(mut decoder: Decoder, packet: &Packet, consumed: usize) {
    let version = match packet {
        Packet::Connect(connect) => connect.version,
        _ => decoder.version().expect("known since the CONNECT"),
    };
    let mut wire = BytesMut::new();
    encode(packet, version, &mut wire);
    assert!(wire.len() <= consumed, "{packet:?} grows");
    assert_eq!(wire.len(), encoded_len(packet, version), "{packet:?}");
    assert_eq!(
        decoder.decode(&mut wire).as_ref(),
        Ok(&Some(packet.clone()))
    );
    assert!(wire.is_empty(), "{packet:?} leaves {wire:?}");
}

fn decoder(side: u8) -> Decoder {
    let limits = if side & 8 == 0 {
        Limits::default()
    } else {
        Limits {
            packet_bytes_max: 96,
            topic_bytes_max: 8,
            topic_levels_max: 3,
            client_id_bytes_max: 4,
            user_properties_max: 2,
            user_properties_bytes_max: 16,
            filters_max: 2,
            subscription_ids_max: 2,
        }
    };
    let mut server = Decoder::new(limits);
    match side & 7 {
        0 => server.set_version(Version::V311),
        1 => server.set_version(Version::V5),
        2 => return Decoder::client(Version::V311, limits),
        3 => return Decoder::client(Version::V5, limits),
        // A server before the CONNECT.
        _ => {}
    }
    server
}

/// Sizes of chunks, 1 to 16 bytes, in a sequence that one byte determines.
struct Sizes(u8);

impl Sizes {
    fn next_size(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(5).wrapping_add(3);
        usize::from(self.0 >> 4) + 1
    }
}
