//! The connection actor: one socket, one `Live`, one mailbox.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use mqtt::{Decoder, Packet, QoS, ReasonCode};
use runtime::{Exit, Mailbox};
use session::{ConnectionId, Live, MonoMs, Opened, Seq, Token};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::serve::{BUFFER_BYTES, Io};
use super::slots::ConnectionMessage;

mod effects;

/// Mailbox messages that one turn takes before it lets others go on.
const TURN_MESSAGES_MAX: usize = 256;
/// How long a closed connection may take to send its last bytes, in milliseconds.
const LINGER_MS: u64 = 1_000;

/// One connection. Idle, it owns no buffer: reading and writing share the thread's.
pub(super) struct Connection {
    io: Rc<Io>,
    id: ConnectionId,
    socket: TcpStream,
    mailbox: Mailbox<ConnectionMessage>,
    live: Live,
    decoder: Decoder,
    /// The front of a packet that is not whole yet.
    partial: BytesMut,
    /// What the socket did not take yet.
    unsent: BytesMut,
    /// Rare state, absent from an idle connection.
    extra: Option<Box<Extra>>,
    /// The earliest timer that is set.
    timer: MonoMs,
    /// When a closed connection gives its last bytes up.
    linger_until: Option<MonoMs>,
    exit: Option<Exit>,
    read_stopped: bool,
    /// Whole packets may stand in `partial`: reading stopped among them.
    held_back: bool,
    /// The socket is gone.
    ended: bool,
}

/// What a connection needs only at times.
#[derive(Default)]
struct Extra {
    /// Open obligations of PUBLISH packets: as many as the window has.
    obligations: Vec<(Token, u32)>,
    /// PUBLISH packets behind a full window, and their bytes.
    stash: VecDeque<Packet>,
    stash_bytes: usize,
    /// The `Open` under way, to be proposed again if the session moved.
    open: Option<Box<session::Open>>,
    /// Shards that have not answered for retained messages yet.
    retained: Vec<Gathering>,
    /// Sequences that the subscriber acknowledged in this turn.
    acked: Vec<Seq>,
    /// Router rows of a clean session, to be dropped with it.
    filters: Vec<mqtt::Filter>,
}

/// Retained messages of several shards on their way to one answer.
struct Gathering {
    token: Token,
    shards: u16,
    rows: Vec<Vec<std::sync::Arc<session::Message>>>,
}

impl Connection {
    pub(super) fn new(
        io: Rc<Io>,
        id: ConnectionId,
        socket: TcpStream,
        mailbox: Mailbox<ConnectionMessage>,
    ) -> Self {
        let shared = &io.shared;
        let live = Live::new(&shared.session, shared.node_epoch, id, io.tick());
        let decoder = Decoder::new(shared.limits.unauthenticated());
        Self {
            id,
            socket,
            mailbox,
            live,
            decoder,
            partial: BytesMut::new(),
            unsent: BytesMut::new(),
            extra: None,
            timer: MonoMs(u64::MAX),
            linger_until: None,
            exit: None,
            read_stopped: false,
            held_back: false,
            ended: false,
            io,
        }
    }

    /// Runs the connection to its end.
    pub(super) async fn run(mut self) -> Exit {
        poll_fn(|context| self.poll_turn(context)).await
    }

    /// One turn: mailbox, socket, effects, one flush.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Exit> {
        self.io.tick();
        // Whatever an actor that panicked left there is nobody's.
        self.io.write_buffer.borrow_mut().clear();
        let more_messages = self.take_messages();
        let more_bytes = self.read(context);
        self.flush_acked();
        while self.flush(context) {
            self.live.handle_writable(self.io.now());
            self.drain_effects();
        }
        self.set_timer();
        self.io.wake_flush();
        if self.is_over() {
            return Poll::Ready(self.exit.take().unwrap_or(Exit::Normal));
        }
        if more_messages || more_bytes {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.mailbox.poll_ready(context).is_ready() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// An ended socket alone is not the end: an `Open` under way must be answered first, or the
    /// session would stay owned by a connection that is gone.
    fn is_over(&self) -> bool {
        let given_up = self
            .linger_until
            .is_some_and(|until| until <= self.io.now().mono);
        self.live.is_closed() && (self.ended || self.unsent.is_empty() || given_up)
    }

    /// Takes what the mailbox holds; true when there is more.
    fn take_messages(&mut self) -> bool {
        for _ in 0..TURN_MESSAGES_MAX {
            let Some(message) = self.mailbox.pop() else {
                return false;
            };
            self.handle(message);
            self.drain_effects();
        }
        true
    }

    fn handle(&mut self, message: ConnectionMessage) {
        let now = self.io.now();
        match message {
            ConnectionMessage::Opened(opened) => self.opened(opened),
            ConnectionMessage::WrongEpoch(current) => self.open_again(current),
            ConnectionMessage::Answer(token, answer) => self.live.handle_answer(token, answer, now),
            ConnectionMessage::Settled(token) => self.settled(token),
            ConnectionMessage::Unsettled => self.live.handle_kick(ReasonCode::ServerBusy, now),
            ConnectionMessage::Delivery(delivery) => self.live.handle_delivery(*delivery, now),
            ConnectionMessage::Message(message, matched) => {
                self.live.handle_message(message, matched, now);
            }
            ConnectionMessage::Retained(token, rows) => self.retained(token, rows),
            ConnectionMessage::Kick(reason) => {
                self.exit.get_or_insert(Exit::Kicked);
                self.live.handle_kick(reason, now);
            }
            ConnectionMessage::Timer => self.timer_fired(),
        }
        self.unstash();
    }

    fn timer_fired(&mut self) {
        self.timer = MonoMs(u64::MAX);
        let now = self.io.now();
        if self
            .live
            .deadline()
            .is_some_and(|deadline| deadline <= now.mono)
        {
            self.live.handle_timeout(now);
            if self.live.is_closed() {
                self.exit.get_or_insert(Exit::TimedOut);
            }
        }
        self.live.trim();
    }

    fn opened(&mut self, opened: Opened) {
        self.extra().open = None;
        if matches!(opened, Opened::Yes { .. }) {
            self.decoder.set_limits(self.io.shared.limits);
        }
        self.live.handle_opened(opened, self.io.now());
    }

    /// Counts an obligation as settled; the last of its token settles the PUBLISH.
    fn settled(&mut self, token: Token) {
        let obligations = &mut self.extra().obligations;
        if let Some(at) = obligations.iter().position(|(of, _)| *of == token) {
            obligations[at].1 -= 1;
            if obligations[at].1 > 0 {
                return;
            }
            obligations.swap_remove(at);
        }
        self.live
            .handle_settled(token, ReasonCode::Success, self.io.now());
    }

    /// Reads once and takes the packets that came; true when there may be more.
    fn read(&mut self, context: &mut Context<'_>) -> bool {
        if self.ended || self.live.is_closed() || self.live.is_connecting() || self.read_stopped {
            return false;
        }
        if std::mem::take(&mut self.held_back) {
            let mut bytes = std::mem::take(&mut self.partial);
            self.take_packets(&mut bytes);
            self.partial = bytes;
            if self.held_back {
                return false;
            }
        }
        let io = Rc::clone(&self.io);
        let mut shared = io.read_buffer.borrow_mut();
        shared.clear();
        // Messages that still share the buffer keep it; then this takes a new one.
        shared.reserve(BUFFER_BYTES);
        let length = match poll_read_buf(Pin::new(&mut self.socket), context, &mut *shared) {
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
            self.partial = bytes;
        }
        // A read that gave something left no waker behind; asking for readiness does.
        length >= BUFFER_BYTES || self.socket.poll_read_ready(context).is_ready()
    }

    fn socket_ended(&mut self) {
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
                Ok(Some(packet)) => self.take_packet(packet),
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

    fn take_packet(&mut self, packet: Packet) {
        if let Packet::Publish(publish) = &packet {
            self.io.counters.publish_received_total.add(1);
            let behind = self
                .extra
                .as_ref()
                .is_some_and(|extra| !extra.stash.is_empty());
            if publish.qos != QoS::AtMostOnce && (behind || self.live.is_paused()) {
                self.stash(packet);
                return;
            }
        }
        self.live.handle_packet(packet, self.io.now());
        if self.live.is_closed() && self.exit.is_none() {
            self.exit = Some(Exit::Normal);
        }
    }

    /// Holds a PUBLISH behind the full window: what follows it, PINGREQ and acknowledgements, is
    /// read on. Only a full stash stops the socket.
    fn stash(&mut self, packet: Packet) {
        let limit = self.io.shared.stash_bytes_limit;
        let extra = self.extra();
        if let Packet::Publish(publish) = &packet {
            extra.stash_bytes += publish.topic.len() + publish.payload.len();
        }
        extra.stash.push_back(packet);
        if extra.stash_bytes >= limit && !self.read_stopped {
            self.read_stopped = true;
            self.live.handle_read_stopped(true, self.io.now());
        }
    }

    /// Takes stashed packets while the window has room, and reads on.
    fn unstash(&mut self) {
        while !self.live.is_paused()
            && let Some(extra) = self.extra.as_mut()
            && let Some(packet) = extra.stash.pop_front()
        {
            if let Packet::Publish(publish) = &packet {
                extra.stash_bytes -= publish.topic.len() + publish.payload.len();
            }
            self.live.handle_packet(packet, self.io.now());
            self.drain_effects();
        }
        let limit = self.io.shared.stash_bytes_limit;
        if self.read_stopped && self.extra().stash_bytes < limit {
            self.read_stopped = false;
            self.live.handle_read_stopped(false, self.io.now());
        }
    }

    /// Writes what the turn encoded; what the socket does not take waits, and deliveries with it.
    /// True when what had waited is written, so that deliveries may go on.
    fn flush(&mut self, context: &mut Context<'_>) -> bool {
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

    /// Sets a timer if the deadline comes before the one that is set.
    fn set_timer(&mut self) {
        let deadline = self.linger_until.or_else(|| self.live.deadline());
        if let Some(deadline) = deadline
            && deadline < self.timer
        {
            self.timer = deadline;
            self.io.set_timer(self.id, deadline);
        }
    }

    fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }
}

impl Drop for Connection {
    /// Ends the ownership of a connection that did not end by itself: its actor panicked, or its
    /// thread ends.
    fn drop(&mut self) {
        if self.live.is_closed() {
            return;
        }
        if let Some(client) = self.live.client().cloned() {
            let (epoch, will) = (self.live.epoch(), session::WillFate::Keep);
            self.commit_close(session::Close {
                client,
                epoch,
                will,
                expiry_s: None,
            });
        }
        let filters = self
            .extra
            .take()
            .map(|extra| extra.filters)
            .unwrap_or_default();
        if !filters.is_empty() {
            self.drop_routes(filters, None);
        }
    }
}
