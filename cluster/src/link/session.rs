//! One framed connection as a value: what is open on it, what is to be written, how long it was
//! silent. Bytes, clock and waiting are its driver's.
//!
//! The side that dialed asks and pings; the side that accepted answers. So each direction has one
//! kind of data, bounded by the same [`Grant`], and no frame ever waits for room at its receiver.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::credits::{Credits, Exceeded, Share};
use super::frame::{CloseReason, Failure, Frame, Request};
use super::lane::{Channel, Grant};

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialed,
    Accepted,
}

/// What a session needs to know of its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) ping_interval_ms: u64,
    pub(super) silence_limit_ms: u64,
    /// Bytes of one write, beyond which no further frame is added.
    pub(super) turn_bytes: usize,
}

/// One connection; `W` is whoever waits for a reply.
#[derive(Debug)]
pub(super) struct Session<W> {
    side: Side,
    pace: Pace,
    credits: Credits,
    /// Requests that wait for their answer, each with its share. Bounded by the credits.
    waiting: BTreeMap<u64, (W, Share)>,
    /// Requests that this side owes an answer. Bounded by the credits.
    owed: BTreeMap<u64, Share>,
    /// Requests or answers to be written. Bounded by the credits: an answer gives its share back
    /// when it is written.
    queue: VecDeque<(Frame, Share)>,
    queue_bytes: usize,
    /// Of the newest request.
    last_id: u64,
    /// The newest ping that is to be answered: an older one needs no answer beside it.
    pong: Option<u64>,
    heard_ms: u64,
    written_ms: u64,
    pinged_ms: u64,
    ping_due: bool,
    ping_id: u64,
    round_trip_ms: Option<u64>,
    close: Option<CloseReason>,
    is_closed: bool,
}

/// What to ask.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) channel: Channel,
    pub(super) payload: Bytes,
    pub(super) reply_bytes_max: u32,
    pub(super) deadline_ms: u32,
}

/// What a frame was.
#[derive(Debug)]
pub(super) enum Arrived<W> {
    /// To be served, then answered once by its id.
    Request(Request),
    /// To be told to who waits.
    Answer(W, Result<Bytes, Failure>),
    /// A sign of life.
    Alive,
    /// The other side ends the connection.
    Close(CloseReason),
}

/// How the other side broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// It asked for more than was granted.
    #[error("a request beyond the grant: {0}")]
    Grant(#[from] Exceeded),
    /// The side that accepted asks nothing, the side that dialed answers nothing.
    #[error("a frame that the other side has no use for")]
    Side,
    /// An answer to what is not open.
    #[error("an answer to request {0}, which is not open")]
    NotOpen(u64),
    /// An answer beyond the room that was reserved for it.
    #[error("a reply of {bytes} B where {room} B were reserved")]
    Room {
        /// Of the reply.
        bytes: usize,
        /// What was reserved.
        room: u32,
    },
    /// Request ids rise.
    #[error("request {id} comes behind request {last}")]
    Id {
        /// What came.
        id: u64,
        /// What came before.
        last: u64,
    },
}

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    Exceeded(Exceeded),
    Closing,
}

impl<W> Session<W> {
    pub(super) fn new(side: Side, grant: Grant, pace: Pace, now_ms: u64) -> Self {
        Self {
            side,
            pace,
            credits: Credits::new(grant),
            waiting: BTreeMap::new(),
            owed: BTreeMap::new(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            last_id: 0,
            pong: None,
            heard_ms: now_ms,
            written_ms: now_ms,
            pinged_ms: now_ms,
            ping_due: side == Side::Dialed,
            ping_id: 0,
            round_trip_ms: None,
            close: None,
            is_closed: false,
        }
    }

    /// Queues a request.
    pub(super) fn request(&mut self, asked: Asked, waiter: W) -> Result<(), (W, Unsent)> {
        assert_eq!(self.side, Side::Dialed, "only who dialed asks");
        if self.is_closing() {
            return Err((waiter, Unsent::Closing));
        }
        let share = Share {
            request_bytes: u32::try_from(asked.payload.len()).unwrap_or(u32::MAX),
            reply_bytes: asked.reply_bytes_max,
        };
        if let Err(exceeded) = self.credits.take(share) {
            return Err((waiter, Unsent::Exceeded(exceeded)));
        }
        self.last_id += 1;
        let id = self.last_id;
        self.waiting.insert(id, (waiter, share));
        let request = Request {
            id,
            channel: asked.channel,
            deadline_ms: asked.deadline_ms,
            reply_bytes_max: asked.reply_bytes_max,
            payload: asked.payload,
        };
        self.put(Frame::Request(request), share);
        Ok(())
    }

    /// Queues the answer to a request that came. Whether there is something to write.
    pub(super) fn reply(&mut self, id: u64, answer: Result<Bytes, Failure>) -> bool {
        let Some(share) = self.owed.remove(&id) else {
            // The connection has ended meanwhile.
            return false;
        };
        let frame = match answer {
            Ok(payload) if payload.len() > share.reply_bytes as usize => Frame::Failure {
                id,
                failure: Failure::ReplyTooLarge,
            },
            Ok(payload) => Frame::Reply { id, payload },
            Err(failure) => Frame::Failure { id, failure },
        };
        self.put(frame, share);
        true
    }

    /// Takes note that bytes came: a part of a frame is a sign of life too, or a long one on a slow
    /// network would count as silence.
    pub(super) fn handle_alive(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
    }

    /// Takes a frame that came.
    pub(super) fn handle_frame(
        &mut self,
        frame: Frame,
        now_ms: u64,
    ) -> Result<Arrived<W>, Violation> {
        match (self.side, frame) {
            (Side::Accepted, Frame::Request(request)) => self.handle_request(request),
            (_, Frame::Ping { id }) => {
                self.pong = Some(id);
                Ok(Arrived::Alive)
            }
            (Side::Dialed, Frame::Reply { id, payload }) => self.handle_answer(id, Ok(payload)),
            (Side::Dialed, Frame::Failure { id, failure }) => self.handle_answer(id, Err(failure)),
            (_, Frame::Pong { id }) => {
                if id == self.ping_id {
                    self.round_trip_ms = Some(now_ms.saturating_sub(self.pinged_ms));
                }
                Ok(Arrived::Alive)
            }
            (_, Frame::Close(reason)) => Ok(Arrived::Close(reason)),
            _ => Err(Violation::Side),
        }
    }

    fn handle_request(&mut self, request: Request) -> Result<Arrived<W>, Violation> {
        let last = self.last_id;
        if request.id <= last {
            let id = request.id;
            return Err(Violation::Id { id, last });
        }
        let share = Share {
            request_bytes: u32::try_from(request.payload.len()).unwrap_or(u32::MAX),
            reply_bytes: request.reply_bytes_max,
        };
        self.credits.take(share)?;
        self.last_id = request.id;
        self.owed.insert(request.id, share);
        Ok(Arrived::Request(request))
    }

    fn handle_answer(
        &mut self,
        id: u64,
        answer: Result<Bytes, Failure>,
    ) -> Result<Arrived<W>, Violation> {
        let Some((waiter, share)) = self.waiting.remove(&id) else {
            return Err(Violation::NotOpen(id));
        };
        self.credits.give_back(share);
        if let Ok(payload) = &answer
            && payload.len() > share.reply_bytes as usize
        {
            let (bytes, room) = (payload.len(), share.reply_bytes);
            return Err(Violation::Room { bytes, room });
        }
        Ok(Arrived::Answer(waiter, answer))
    }

    /// Looks at the time; gives how long nothing was heard if that is too long.
    pub(super) fn handle_timeout(&mut self, now_ms: u64) -> Result<(), u64> {
        let silent_ms = now_ms.saturating_sub(self.heard_ms);
        if silent_ms >= self.pace.silence_limit_ms {
            return Err(silent_ms);
        }
        if now_ms >= self.next_ping_ms() {
            self.ping_due = true;
        }
        Ok(())
    }

    /// When to look at the time again.
    pub(super) fn next_timeout_ms(&self) -> u64 {
        let silent = self.heard_ms.saturating_add(self.pace.silence_limit_ms);
        // A ping that is due waits for the writer, and needs no timer.
        if self.ping_due {
            silent
        } else {
            silent.min(self.next_ping_ms())
        }
    }

    /// The side that dialed pings at intervals. The other one answers; it pings by itself only when
    /// it wrote nothing for two of them, since pings may wait behind a long request.
    fn next_ping_ms(&self) -> u64 {
        let interval = self.pace.ping_interval_ms;
        match self.side {
            Side::Dialed => self.pinged_ms.saturating_add(interval),
            Side::Accepted => self.written_ms.saturating_add(interval.saturating_mul(2)),
        }
    }

    /// Hands out one turn's frames, urgent ones first.
    pub(super) fn poll_turn(&mut self, out: &mut Vec<Frame>, now_ms: u64) {
        if self.is_closed {
            return;
        }
        if let Some(reason) = self.close {
            out.push(Frame::Close(reason));
            self.is_closed = true;
            return;
        }
        if let Some(id) = self.pong.take() {
            out.push(Frame::Pong { id });
        }
        if std::mem::take(&mut self.ping_due) {
            self.ping_id += 1;
            self.pinged_ms = now_ms;
            out.push(Frame::Ping { id: self.ping_id });
        }
        let mut bytes = out.iter().map(Frame::encoded_len).sum::<usize>();
        while bytes < self.pace.turn_bytes {
            let Some((frame, share)) = self.queue.pop_front() else {
                break;
            };
            self.queue_bytes -= frame.encoded_len();
            bytes += frame.encoded_len();
            out.push(frame);
            if self.side == Side::Accepted {
                self.credits.give_back(share);
            }
        }
        if !out.is_empty() {
            self.written_ms = now_ms;
        }
    }

    /// Ends the connection, with a last frame that says why; what is queued is not written. The
    /// first reason stays.
    pub(super) fn close(&mut self, reason: CloseReason) {
        self.close.get_or_insert(reason);
    }

    /// Whether nothing more is taken.
    pub(super) fn is_closing(&self) -> bool {
        self.close.is_some() || self.is_closed
    }

    /// Why the connection ends, once the last frame was written.
    pub(super) fn closed(&self) -> Option<CloseReason> {
        self.close.filter(|_| self.is_closed)
    }

    /// Ends the session; gives those who wait in vain, in the order of their requests.
    pub(super) fn end(&mut self) -> impl Iterator<Item = W> + use<W> {
        self.is_closed = true;
        self.owed.clear();
        self.queue.clear();
        self.queue_bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_values().map(|(waiter, _)| waiter)
    }

    /// How long the last ping that was answered took.
    pub(super) fn round_trip_ms(&self) -> Option<u64> {
        self.round_trip_ms
    }

    /// Requests that are open.
    pub(super) fn open(&self) -> u32 {
        self.credits.requests()
    }

    /// Bytes that wait to be written.
    pub(super) fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    fn put(&mut self, frame: Frame, share: Share) {
        self.queue_bytes += frame.encoded_len();
        self.queue.push_back((frame, share));
    }
}
