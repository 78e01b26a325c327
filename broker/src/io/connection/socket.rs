//! The socket of a connection: reading, writing, ending.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, BytesMut};
use mqtt::Packet;
use runtime::Exit;
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use super::super::serve::BUFFER_BYTES;
use super::Connection;

/// How long a closed connection may take to send its last bytes, in milliseconds.
const LINGER_MS: u64 = 1_000;
/// Bytes that wait for the socket at which its client is not read any more: what it asks for is
/// answered into this, also when it reads nothing.
const UNSENT_BYTES_LIMIT: usize = 64 << 10;
/// Room that a read needs at least, in bytes.
const READ_BYTES_MIN: usize = 8 << 10;
/// Reads to nowhere in one turn.
const DRAIN_READS_MAX: usize = 16;
/// Largest write buffer that a thread keeps between turns, in bytes.
const WRITE_BUFFER_BYTES_MAX: usize = 1 << 20;

impl Connection {
    /// Reads once and takes the packets that came; true when there may be more.
    pub(super) fn read(&mut self, context: &mut Context<'_>) -> bool {
        if self.ended || self.live.is_closed() || self.live.is_connecting() || self.read_stopped {
            return false;
        }
        // Who does not read what it is answered is not read either; `flush` comes back here.
        if self.unsent.len() >= UNSENT_BYTES_LIMIT {
            return false;
        }
        let Some(bytes_max) = self.may_read() else {
            return false;
        };
        if std::mem::take(&mut self.held_back) {
            let mut bytes = std::mem::take(&mut self.partial);
            self.take_packets(&mut bytes);
            self.keep_partial(bytes);
            if self.held_back {
                return false;
            }
        }
        let io = Rc::clone(&self.io);
        let mut shared = io.read_buffer.borrow_mut();
        shared.clear();
        // What was read before may still be shared by messages: reads go on behind it, so that
        // small packets fill a buffer together instead of each holding one of its own.
        if shared.capacity() < READ_BYTES_MIN {
            shared.reserve(BUFFER_BYTES);
        }
        let room = shared.capacity().min(bytes_max);
        let mut buffer = (&mut *shared).limit(room);
        let length = match poll_read_buf(Pin::new(&mut self.socket), context, &mut buffer) {
            Poll::Pending => return false,
            Poll::Ready(Ok(length)) => length,
            Poll::Ready(Err(error)) => {
                self.exit.get_or_insert(Exit::Io(error.kind()));
                self.socket_ended();
                return false;
            }
        };
        if length == 0 {
            self.socket_ended();
            return false;
        }
        self.busy = true;
        io.counters.received_bytes_total.add(length as u64);
        if self.partial.is_empty() {
            let mut bytes = shared.split();
            drop(shared);
            self.take_packets(&mut bytes);
            if !bytes.is_empty() && !self.live.is_closed() {
                // Copied, so that the front of a packet does not pin the shared buffer.
                self.partial = BytesMut::from(&bytes[..]);
            }
        } else {
            let mut bytes = std::mem::take(&mut self.partial);
            bytes.extend_from_slice(&shared);
            drop(shared);
            self.take_packets(&mut bytes);
            self.keep_partial(bytes);
        }
        // A read that gave something left no waker behind; asking for readiness does.
        length >= room || self.socket.poll_read_ready(context).is_ready()
    }

    /// Keeps the front of a packet; an empty rest gives its memory back.
    fn keep_partial(&mut self, bytes: BytesMut) {
        self.partial = match bytes.is_empty() || self.live.is_closed() {
            true => BytesMut::new(),
            false => bytes,
        };
    }

    pub(super) fn socket_ended(&mut self) {
        self.unsent.clear();
        self.ended = true;
        self.live.handle_closed(self.io.now());
        self.drain_effects();
    }

    fn take_packets(&mut self, bytes: &mut BytesMut) {
        while !self.live.is_closed() && !bytes.is_empty() {
            // What follows a CONNECT waits for its answer: packets, or the socket.
            if self.live.is_connecting() || self.read_stopped {
                self.held_back = true;
                return;
            }
            match self.decoder.decode(bytes) {
                Ok(Some(packet)) => {
                    // What stands behind a CONNECT says that its client was there.
                    self.held_back |= matches!(packet, Packet::Connect(_)) && !bytes.is_empty();
                    self.take_packet(packet);
                }
                Ok(None) => return,
                Err(error) => {
                    self.exit
                        .get_or_insert(Exit::ProtocolError(error.to_string()));
                    self.live.handle_malformed(error.reason, self.io.now());
                }
            }
            self.drain_effects();
        }
    }

    /// Writes what the turn encoded; what the socket does not take waits, and deliveries with it.
    /// True when what had waited is written, so that deliveries may go on.
    pub(super) fn flush(&mut self, context: &mut Context<'_>) -> bool {
        let io = Rc::clone(&self.io);
        let mut shared = io.write_buffer.borrow_mut();
        let was_blocked = !self.unsent.is_empty();
        if was_blocked {
            self.unsent.extend_from_slice(&shared);
            shared.clear();
        }
        let bytes = if was_blocked {
            &mut self.unsent
        } else {
            &mut *shared
        };
        if self.ended {
            bytes.clear();
        }
        let mut failure = None;
        while !bytes.is_empty() {
            match Pin::new(&mut self.socket).poll_write(context, bytes) {
                Poll::Ready(Ok(written)) => {
                    io.counters.sent_bytes_total.add(written as u64);
                    bytes.advance(written);
                }
                Poll::Ready(Err(error)) => {
                    failure = Some(error.kind());
                    break;
                }
                Poll::Pending => break,
            }
        }
        if !was_blocked {
            self.unsent.extend_from_slice(&shared);
        }
        shared.clear();
        if shared.capacity() > WRITE_BUFFER_BYTES_MAX {
            *shared = BytesMut::with_capacity(BUFFER_BYTES);
        }
        drop(shared);
        if let Some(kind) = failure {
            self.exit.get_or_insert(Exit::Io(kind));
            self.socket_ended();
            return false;
        }
        let is_blocked = !self.unsent.is_empty();
        if !was_blocked && is_blocked {
            self.live.handle_blocked();
        }
        if was_blocked && !is_blocked {
            self.unsent = BytesMut::new();
        }
        if self.live.is_closed() && !self.unsent.is_empty() && self.linger_until.is_none() {
            self.linger_until = Some(self.io.now().mono.plus_ms(LINGER_MS));
        }
        was_blocked && !is_blocked
    }

    /// After the server closed: says so with FIN and reads what is still under way to nowhere.
    /// Closing at once would answer it with RST, which may overtake the DISCONNECT or CONNACK
    /// that says why. True when there may be more.
    pub(super) fn drain_socket(&mut self, context: &mut Context<'_>) -> bool {
        if !self.draining || self.ended || !self.unsent.is_empty() {
            return false;
        }
        if self.linger_until.is_none() {
            self.linger_until = Some(self.io.now().mono.plus_ms(LINGER_MS));
            if Pin::new(&mut self.socket)
                .poll_shutdown(context)
                .is_pending()
            {
                tracing::trace!("a TCP shutdown does not wait");
            }
        }
        let io = Rc::clone(&self.io);
        let mut shared = io.read_buffer.borrow_mut();
        for _ in 0..DRAIN_READS_MAX {
            shared.clear();
            shared.reserve(READ_BYTES_MIN);
            match poll_read_buf(Pin::new(&mut self.socket), context, &mut *shared) {
                Poll::Ready(Ok(length)) if length > 0 => {}
                Poll::Ready(_) => {
                    self.ended = true;
                    return false;
                }
                Poll::Pending => return false,
            }
        }
        true
    }
}
