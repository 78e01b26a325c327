use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::frame::*;
use super::greeting::{Refusal, RefusalCode};
use super::lane::Channel;

const LIMIT: u32 = 1 << 20;

fn request(id: u64, payload: Bytes) -> Frame {
    Frame::Request(Request {
        id,
        channel: Channel {
            kind: 0x0102,
            group: 0x0304_0506,
        },
        deadline_ms: 1_500,
        reply_bytes_max: 64,
        payload,
    })
}

fn bytes_of(frames: &[Frame]) -> BytesMut {
    let mut out = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut out));
    out
}

/// Makes the checksum of a header right.
fn seal(header: &mut [u8]) {
    let crc = crc32c::crc32c(&[&header[..4], &header[8..HEADER_BYTES]].concat());
    header[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn decode_all(decoder: &mut Decoder) -> Result<Vec<Frame>, Malformed> {
    let mut frames = Vec::new();
    while let Some(frame) = decoder.poll_frame()? {
        frames.push(frame);
    }
    Ok(frames)
}

fn a_frame() -> impl Strategy<Value = Frame> {
    let payload = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    let request = (any::<(u64, u16, u32)>(), any::<(u32, u32)>(), payload()).prop_map(
        |((id, kind, group), (deadline_ms, room), payload)| {
            Frame::Request(Request {
                id,
                channel: Channel { kind, group },
                deadline_ms,
                reply_bytes_max: room,
                payload,
            })
        },
    );
    let refused = any::<(u128, u128)>().prop_map(|(offered, expected)| {
        let refusal = Refusal::new(RefusalCode::Cluster, offered, expected);
        Frame::Close(CloseReason::Refused(refusal))
    });
    prop_oneof![
        request,
        (any::<u64>(), payload()).prop_map(|(id, payload)| Frame::Reply { id, payload }),
        any::<u64>().prop_map(|id| Frame::Failure {
            id,
            failure: Failure::Unanswered
        }),
        any::<u64>().prop_map(|id| Frame::Failure {
            id,
            failure: Failure::Other(77)
        }),
        any::<u64>().prop_map(|id| Frame::Ping { id }),
        any::<u64>().prop_map(|id| Frame::Pong { id }),
        Just(Frame::Close(CloseReason::Stopping)),
        Just(Frame::Close(CloseReason::Other(300))),
        refused,
    ]
}

proptest! {
    #[test]
    fn frames_come_back_as_they_went_however_they_are_cut(
        frames in proptest::collection::vec(a_frame(), 0..8),
        step in 1_usize..100,
    ) {
        let bytes = bytes_of(&frames);
        let lengths: usize = frames.iter().map(Frame::encoded_len).sum();
        prop_assert_eq!(bytes.len(), lengths);
        let mut decoder = Decoder::new(LIMIT, BytesMut::new());
        let mut found = Vec::new();
        for chunk in bytes.chunks(step) {
            decoder.room().extend_from_slice(chunk);
            found.extend(decode_all(&mut decoder).expect("good frames"));
        }
        prop_assert_eq!(found, frames);
        prop_assert_eq!(decoder.pending_bytes(), 0);
    }

    #[test]
    fn a_changed_bit_never_passes_for_another_frame(
        frame in a_frame(),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let mut bytes = bytes_of(std::slice::from_ref(&frame));
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let mut decoder = Decoder::new(LIMIT, bytes);
        // At once: nothing is waited for that never comes.
        prop_assert!(decoder.poll_frame().is_err());
    }

    #[test]
    fn garbage_is_refused_or_waits_and_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut decoder = Decoder::new(LIMIT, BytesMut::from(&bytes[..]));
        let _ = decode_all(&mut decoder);
    }
}

#[test]
fn the_bytes_of_a_request_are_those_of_the_format() {
    let bytes = bytes_of(&[request(7, Bytes::from_static(b"hi"))]);

    assert_eq!(bytes[..4], 2_u32.to_le_bytes(), "length of the payload");
    let crc = crc32c::crc32c(&[&bytes[..4], &bytes[8..36]].concat());
    assert_eq!(bytes[4..8], crc.to_le_bytes(), "checksum of the header");
    assert_eq!(bytes[8..10], [1, 1], "version and kind");
    assert_eq!(bytes[10..16], [2, 1, 6, 5, 4, 3], "channel");
    assert_eq!(bytes[16..24], 7_u64.to_le_bytes(), "id");
    assert_eq!(bytes[24..28], 1_500_u32.to_le_bytes(), "deadline");
    assert_eq!(bytes[28..32], 64_u32.to_le_bytes(), "room");
    let crc = crc32c::crc32c(b"hi");
    assert_eq!(bytes[32..36], crc.to_le_bytes(), "checksum of the payload");
    assert_eq!(bytes[36..], *b"hi");
}

#[test]
fn what_cannot_be_is_refused_before_its_payload_is_waited_for() {
    let good = bytes_of(&[request(1, Bytes::from(vec![0; 100]))]);
    let change = |at: usize, to: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes.truncate(HEADER_BYTES);
        seal(&mut bytes);
        Decoder::new(LIMIT, bytes).poll_frame()
    };

    assert_eq!(change(8, &[2]), Err(Malformed::Version(2)));
    assert_eq!(change(9, &[0]), Err(Malformed::Kind(0)));
    assert_eq!(change(9, &[7]), Err(Malformed::Kind(7)));
    let (bytes, limit) = (LIMIT + 1, LIMIT);
    assert_eq!(
        change(0, &bytes.to_le_bytes()),
        Err(Malformed::Length { bytes, limit })
    );
}

#[test]
fn a_field_that_a_kind_does_not_have_must_be_zero() {
    let ping = bytes_of(&[Frame::Ping { id: 1 }]);
    for at in [10, 12, 24, 28] {
        let mut bytes = ping.clone();
        bytes[at] = 1;
        seal(&mut bytes);
        let outcome = Decoder::new(LIMIT, bytes).poll_frame();
        assert_eq!(outcome, Err(Malformed::Field(4)), "offset {at}");
    }
}

#[test]
fn an_announced_length_takes_no_more_memory_than_a_frame_may_have() {
    let mut header = bytes_of(&[request(1, Bytes::from(vec![0; 10]))]);
    header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut decoder = Decoder::new(LIMIT, header);

    let capacity = decoder.room().capacity();

    assert!(capacity < 2 * LIMIT as usize + (256 << 10), "{capacity} B");
}

#[test]
fn a_short_payload_pins_no_read_buffer_and_a_long_one_is_not_copied() {
    let frames = [
        request(1, Bytes::from(vec![1; 100])),
        request(2, Bytes::from(vec![2; 200_000])),
    ];
    let mut decoder = Decoder::new(LIMIT, bytes_of(&frames));
    let read = decoder.room().as_ptr_range();

    let payloads: Vec<_> = decode_all(&mut decoder)
        .expect("good frames")
        .into_iter()
        .map(|frame| match frame {
            Frame::Request(request) => request.payload,
            other => panic!("{other:?}"),
        })
        .collect();

    assert!(!read.contains(&payloads[0].as_ptr()));
    assert!(read.contains(&payloads[1].as_ptr()));
}

#[test]
fn an_empty_buffer_that_was_large_is_given_back() {
    let frames = [request(1, Bytes::from(vec![1; 1 << 20]))];
    let mut decoder = Decoder::new(LIMIT, bytes_of(&frames));
    drop(decode_all(&mut decoder));

    assert!(decoder.room().capacity() <= 128 << 10);
}
