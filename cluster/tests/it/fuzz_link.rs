//! What must hold of the bytes of a peer, whatever they are; shared with `fuzz/`.

use bytes::BytesMut;
use tidewire_cluster::link::{Decoder, Frame, Greeting, Malformed, Refusal};

/// What a lane of the fuzzer allows.
const PAYLOAD_BYTES_MAX: u32 = 1 << 10;

/// Reads greetings or frames: the first byte says which, and whether lengths and checksums are set
/// right, which mutation alone does not find; the second says in which steps. Gives how many
/// messages were taken.
///
/// # Panics
/// When steps give something else than the whole, or when what was taken is written otherwise.
pub(crate) fn link(bytes: &[u8]) -> usize {
    let [choice, step, bytes @ ..] = bytes else {
        return 0;
    };
    let step = usize::from(*step).max(1);
    match choice & 3 {
        0 => greetings(bytes, step),
        1 => greetings(&sealed_greetings(bytes), step),
        2 => frames(bytes, step),
        _ => frames(&sealed_frames(bytes), step),
    }
}

fn greetings(bytes: &[u8], step: usize) -> usize {
    let read = |step: usize| {
        let mut buffer = BytesMut::new();
        let (mut found, mut refused) = (Vec::new(), None::<Refusal>);
        for chunk in bytes.chunks(step) {
            buffer.extend_from_slice(chunk);
            while refused.is_none() {
                match Greeting::poll_decode(&mut buffer) {
                    Ok(Some(greeting)) => found.push(greeting),
                    Ok(None) => break,
                    Err(refusal) => refused = Some(refusal),
                }
            }
        }
        (found, refused)
    };
    let (found, refused) = read(bytes.len().max(1));
    let (in_steps, refused_in_steps) = read(step);
    assert_eq!(found, in_steps);
    assert_eq!(refused.is_some(), refused_in_steps.is_some());
    if let Some(refusal) = refused {
        assert!(refusal.to_string().len() < 300);
        let written = Greeting::Refusal(refusal).encode();
        let read = Greeting::poll_decode(&mut BytesMut::from(&written[..]));
        assert_eq!(read, Ok(Some(Greeting::Refusal(refusal))));
    }
    for greeting in &found {
        let written = greeting.encode();
        let read = Greeting::poll_decode(&mut BytesMut::from(&written[..]));
        assert_eq!(read, Ok(Some(*greeting)));
    }
    found.len()
}

fn frames(bytes: &[u8], step: usize) -> usize {
    let read = |step: usize| {
        let mut decoder = Decoder::new(PAYLOAD_BYTES_MAX, BytesMut::new());
        let (mut found, mut malformed) = (Vec::new(), None::<Malformed>);
        for chunk in bytes.chunks(step) {
            let room = decoder.room();
            assert!(room.capacity() < 256 << 10, "{} B", room.capacity());
            room.extend_from_slice(chunk);
            while malformed.is_none() {
                match decoder.poll_frame() {
                    Ok(Some(frame)) => found.push(frame),
                    Ok(None) => break,
                    Err(error) => malformed = Some(error),
                }
            }
        }
        (found, malformed)
    };
    let (found, malformed) = read(bytes.len().max(1));
    assert_eq!((&found, malformed), (&read(step).0, read(step).1));
    // There is one form of every frame.
    let mut written = BytesMut::new();
    found.iter().for_each(|frame| frame.encode(&mut written));
    assert_eq!(written[..], bytes[..written.len()]);
    let lengths: usize = found.iter().map(Frame::encoded_len).sum();
    assert_eq!(written.len(), lengths);
    found.len()
}

/// Greetings drawn from bytes: kind, length of the body, body.
fn sealed_greetings(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let [kind, length, rest @ ..] = bytes {
        let (body, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        let mut head = b"TIDELINK\x01\x00".to_vec();
        // The highest bit asks for another version.
        head[8] += kind >> 7;
        head.extend([kind & 0x7f, 0, body.len() as u8, 0, 0, 0]);
        let crc = crc32c(&[&head[..], body].concat());
        out.extend([&head[..], &crc.to_le_bytes(), body].concat());
        bytes = rest;
    }
    out
}

/// Frames drawn from bytes: length of the payload, kind, the rest of the header, payload.
fn sealed_frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let [length, kind, rest @ ..] = bytes {
        let Some((fields, rest)) = rest.split_first_chunk::<22>() else {
            break;
        };
        let (payload, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        let length = (payload.len() as u32).to_le_bytes();
        let of_payload = crc32c(payload).to_le_bytes();
        let fields = [&[1, *kind], &fields[..], &of_payload].concat();
        let of_header = crc32c(&[&length[..], &fields].concat()).to_le_bytes();
        out.extend([&length[..], &of_header, &fields, payload].concat());
        bytes = rest;
    }
    out
}

/// CRC-32C, bit by bit: another implementation than the one under test.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let odd = crc & 1;
            crc = (crc >> 1) ^ (0x82f6_3b78 * odd);
        }
    }
    !crc
}
