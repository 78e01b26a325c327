//! Frames: what travels on a framed lane behind the handshake. `docs/formats/link.md` has the
//! offsets.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::greeting::Refusal;
use super::lane::Channel;

/// The version of the frames.
const VERSION: u8 = 1;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 36;
/// Bytes of the largest payload that any grant may allow.
pub const PAYLOAD_BYTES_MAX: u32 = 16 << 20;
/// Bytes asked of a socket at once.
const READ_BYTES: usize = 64 << 10;
/// A payload up to here is copied out of the read buffer, a longer one is a slice of it: so what
/// somebody keeps pins at most three times its bytes.
const COPIED_BYTES_MAX: usize = READ_BYTES / 2;

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const FAILURE: u8 = 3;
const PING: u8 = 4;
const PONG: u8 = 5;
const CLOSE: u8 = 6;

/// One message of a framed lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Asks the side that accepted the connection.
    Request(Request),
    /// Answers a request.
    Reply {
        /// Of the request.
        id: u64,
        /// What its user says.
        payload: Bytes,
    },
    /// Says that a request gets no reply.
    Failure {
        /// Of the request.
        id: u64,
        /// Why.
        failure: Failure,
    },
    /// Asks for a sign of life.
    Ping {
        /// Comes back.
        id: u64,
    },
    /// Answers a ping.
    Pong {
        /// Of the ping.
        id: u64,
    },
    /// The last frame: nothing follows.
    Close(CloseReason),
}

/// What is asked of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Rises with each request of a connection.
    pub id: u64,
    /// What it is about.
    pub channel: Channel,
    /// Milliseconds from its arrival after which nobody waits for the answer.
    pub deadline_ms: u32,
    /// Bytes that are reserved for the reply.
    pub reply_bytes_max: u32,
    /// What its user says.
    pub payload: Bytes,
}

/// Why a peer sent no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Its service took the request and gave no answer; whether it did anything is not known.
    #[error("the peer's service gave no answer")]
    Unanswered,
    /// The reply did not fit into the room that the request reserved; the request was served.
    #[error("the reply exceeds the room that was reserved for it")]
    ReplyTooLarge,
    /// Another reason, of a later version.
    #[error("the peer failed with code {0}")]
    Other(u16),
}

impl Failure {
    fn code(self) -> u16 {
        match self {
            Self::Unanswered => 1,
            Self::ReplyTooLarge => 2,
            Self::Other(code) => code,
        }
    }

    fn of_code(code: u16) -> Self {
        match code {
            1 => Self::Unanswered,
            2 => Self::ReplyTooLarge,
            other => Self::Other(other),
        }
    }
}

/// Why a side ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// Its process stops.
    #[error("it stops")]
    Stopping,
    /// The same node dialed the same lane again.
    #[error("a newer connection took its place")]
    Replaced,
    /// Nothing came for too long.
    #[error("it heard nothing for too long")]
    Silent,
    /// Bytes came that break the format or a bound.
    #[error("it received what breaks the protocol")]
    Violation,
    /// The node is no peer any more.
    #[error("the peer was removed")]
    Removed,
    /// The handshake's answer was not good.
    #[error("{0}")]
    Refused(Refusal),
    /// Another reason, of a later version.
    #[error("code {0}")]
    Other(u16),
}

const REFUSED: u16 = 6;

impl CloseReason {
    fn code(self) -> u16 {
        match self {
            Self::Stopping => 1,
            Self::Replaced => 2,
            Self::Silent => 3,
            Self::Violation => 4,
            Self::Removed => 5,
            Self::Refused(_) => REFUSED,
            Self::Other(code) => code,
        }
    }
}

/// Why bytes are no frame. The connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Of another version.
    #[error("frame version {0} is not known")]
    Version(u8),
    /// Of another kind.
    #[error("frame kind {0} is not known")]
    Kind(u8),
    /// Longer than the lane allows.
    #[error("a frame with {bytes} B of payload exceeds {limit} B")]
    Length {
        /// What the header says.
        bytes: u32,
        /// What may be.
        limit: u32,
    },
    /// Changed on the way.
    #[error("a frame's checksum is {found:08x}, its bytes give {computed:08x}")]
    Checksum {
        /// What the header says.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A field that is none of this kind's is not zero, or the payload is not of this kind.
    #[error("a frame of kind {0} has what this kind does not have")]
    Field(u8),
}

impl Frame {
    /// Bytes on the wire.
    pub fn encoded_len(&self) -> usize {
        let payload = match self {
            Self::Request(request) => request.payload.len(),
            Self::Reply { payload, .. } => payload.len(),
            Self::Close(CloseReason::Refused(_)) => Refusal::BYTES,
            _ => 0,
        };
        HEADER_BYTES + payload
    }

    /// Appends the frame.
    ///
    /// # Panics
    /// If the payload exceeds [`PAYLOAD_BYTES_MAX`], which no grant allows.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.reserve(self.encoded_len());
        match self {
            Self::Request(request) => {
                let channel = request.channel;
                put_header(out, REQUEST, channel.kind, channel.group, request.id);
                out.put_u32_le(request.deadline_ms);
                out.put_u32_le(request.reply_bytes_max);
                put_payload(out, &request.payload);
            }
            Self::Reply { id, payload } => {
                put_header(out, REPLY, 0, 0, *id);
                out.put_u64_le(0);
                put_payload(out, payload);
            }
            Self::Failure { id, failure } => {
                put_header(out, FAILURE, failure.code(), 0, *id);
                out.put_u64_le(0);
                put_payload(out, &[]);
            }
            Self::Ping { id } => {
                put_header(out, PING, 0, 0, *id);
                out.put_u64_le(0);
                put_payload(out, &[]);
            }
            Self::Pong { id } => {
                put_header(out, PONG, 0, 0, *id);
                out.put_u64_le(0);
                put_payload(out, &[]);
            }
            Self::Close(reason) => {
                put_header(out, CLOSE, reason.code(), 0, 0);
                out.put_u64_le(0);
                let mut payload = BytesMut::new();
                if let CloseReason::Refused(refusal) = reason {
                    refusal.encode(&mut payload);
                }
                put_payload(out, &payload);
            }
        }
        let payload = u32::try_from(out.len() - start - HEADER_BYTES).unwrap_or(u32::MAX);
        assert!(payload <= PAYLOAD_BYTES_MAX, "a payload of {payload} B");
        out[start..start + 4].copy_from_slice(&payload.to_le_bytes());
        let crc = checksum(&out[start..start + HEADER_BYTES]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }
}

fn put_header(out: &mut BytesMut, kind: u8, sub: u16, group: u32, id: u64) {
    // Length and the header's checksum are filled in when the frame is whole.
    out.put_u64_le(0);
    out.put_u8(VERSION);
    out.put_u8(kind);
    out.put_u16_le(sub);
    out.put_u32_le(group);
    out.put_u64_le(id);
}

fn put_payload(out: &mut BytesMut, payload: &[u8]) {
    out.put_u32_le(crc32c::crc32c(payload));
    out.put_slice(payload);
}

/// Of a header, without the four bytes that hold it. It stands apart from the payload's: a length
/// that was changed on the way would have bytes waited for that never come, while pings go on.
fn checksum(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..4]), &header[8..])
}

/// Cuts frames out of what a connection reads; owns its one read buffer.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    payload_bytes_max: u32,
    /// A long payload went through the buffer, whose memory would stay with it.
    is_grown: bool,
}

impl Decoder {
    /// Takes payloads up to so many bytes. `rest` was read behind the handshake.
    pub fn new(payload_bytes_max: u32, rest: BytesMut) -> Self {
        Self {
            buffer: rest,
            payload_bytes_max: payload_bytes_max.min(PAYLOAD_BYTES_MAX),
            is_grown: false,
        }
    }

    /// Where to read to: room for what the frame that has begun still lacks, or for one read.
    ///
    /// Bound of its memory: a header, the largest payload, and one read.
    pub fn room(&mut self) -> &mut BytesMut {
        if self.buffer.is_empty() && std::mem::take(&mut self.is_grown) {
            self.buffer = BytesMut::new();
        }
        let lacks = match self.buffer.first_chunk::<4>() {
            Some(length) => {
                let payload = u32::from_le_bytes(*length).min(self.payload_bytes_max);
                (HEADER_BYTES + payload as usize).saturating_sub(self.buffer.len())
            }
            None => 0,
        };
        self.buffer.reserve(lacks.max(READ_BYTES));
        &mut self.buffer
    }

    /// Bytes that are no whole frame yet.
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// Says why the bytes are no frame; the decoder gives nothing sensible afterwards.
    pub fn poll_frame(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some(bytes) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let mut fields = &bytes[..];
        let payload_bytes = fields.get_u32_le();
        let found = fields.get_u32_le();
        let version = fields.get_u8();
        let header = Header {
            kind: fields.get_u8(),
            sub: fields.get_u16_le(),
            group: fields.get_u32_le(),
            id: fields.get_u64_le(),
            deadline_ms: fields.get_u32_le(),
            reply_bytes_max: fields.get_u32_le(),
        };
        let payload_checksum = fields.get_u32_le();
        // Before any byte of the payload is waited for.
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        same(found, checksum(bytes))?;
        if !(REQUEST..=CLOSE).contains(&header.kind) {
            return Err(Malformed::Kind(header.kind));
        }
        if payload_bytes > self.payload_bytes_max {
            return Err(Malformed::Length {
                bytes: payload_bytes,
                limit: self.payload_bytes_max,
            });
        }
        let frame_bytes = HEADER_BYTES + payload_bytes as usize;
        if self.buffer.len() < frame_bytes {
            return Ok(None);
        }
        let payload = &self.buffer[HEADER_BYTES..frame_bytes];
        same(payload_checksum, crc32c::crc32c(payload))?;
        self.buffer.advance(HEADER_BYTES);
        let payload = if payload_bytes as usize <= COPIED_BYTES_MAX {
            let copy = Bytes::copy_from_slice(&self.buffer[..payload_bytes as usize]);
            self.buffer.advance(payload_bytes as usize);
            copy
        } else {
            self.is_grown = true;
            self.buffer.split_to(payload_bytes as usize).freeze()
        };
        header.frame(payload).map(Some)
    }
}

fn same(found: u32, computed: u32) -> Result<(), Malformed> {
    if computed == found {
        Ok(())
    } else {
        Err(Malformed::Checksum { found, computed })
    }
}

struct Header {
    kind: u8,
    sub: u16,
    group: u32,
    id: u64,
    deadline_ms: u32,
    reply_bytes_max: u32,
}

impl Header {
    fn frame(self, payload: Bytes) -> Result<Frame, Malformed> {
        let tail_is_zero = self.deadline_ms == 0 && self.reply_bytes_max == 0;
        let plain = self.sub == 0 && self.group == 0 && tail_is_zero;
        let id = self.id;
        let (fits, frame) = match self.kind {
            REQUEST => {
                let channel = Channel {
                    kind: self.sub,
                    group: self.group,
                };
                let request = Request {
                    id,
                    channel,
                    deadline_ms: self.deadline_ms,
                    reply_bytes_max: self.reply_bytes_max,
                    payload,
                };
                (true, Frame::Request(request))
            }
            REPLY => (plain, Frame::Reply { id, payload }),
            FAILURE => {
                let failure = Failure::of_code(self.sub);
                let fits = self.group == 0 && tail_is_zero && payload.is_empty();
                (fits, Frame::Failure { id, failure })
            }
            PING => (plain && payload.is_empty(), Frame::Ping { id }),
            PONG => (plain && payload.is_empty(), Frame::Pong { id }),
            _ => {
                let reason = close_reason(self.sub, &payload);
                let reason = reason.ok_or(Malformed::Field(CLOSE))?;
                let fits = self.group == 0 && id == 0 && tail_is_zero;
                (fits, Frame::Close(reason))
            }
        };
        if fits {
            Ok(frame)
        } else {
            Err(Malformed::Field(self.kind))
        }
    }
}

fn close_reason(code: u16, payload: &[u8]) -> Option<CloseReason> {
    if code == REFUSED {
        return Refusal::decode(payload).map(CloseReason::Refused);
    }
    payload.is_empty().then_some(match code {
        1 => CloseReason::Stopping,
        2 => CloseReason::Replaced,
        3 => CloseReason::Silent,
        4 => CloseReason::Violation,
        5 => CloseReason::Removed,
        other => CloseReason::Other(other),
    })
}
