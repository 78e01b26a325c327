//! The connection actor: one socket, one `Live`, one mailbox.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use cluster_core::Sighting;
use mqtt::{Decoder, Publish, ReasonCode};
use runtime::{Exit, Mailbox};
use session::{Answer, ConnectionId, Dropped, GroupSeq, Live, MonoMs, Opened, Seq, Token};
use tokio::net::TcpStream;

use super::serve::Io;
use super::slots::ConnectionMessage;
use crate::admission::Refusal;
use lease::Promise;

mod effects;
mod handshake;
mod home;
mod lease;
mod report;
mod room;
mod socket;
mod stash;
mod traced;

/// How long after a turn a connection gives back the buffers of a busy time, in milliseconds.
const TRIM_MS: u64 = 5_000;
/// Mailbox messages that one turn takes before it lets others go on.
const TURN_MESSAGES_MAX: usize = 256;

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
    /// The shard of its session, once it asks for one.
    home: u16,
    /// The grant of the lease ([`cluster::member::Tenable::grants`]) under which the session was last known
    /// to be its own.
    grant: u16,
    /// The shard was asked whether the session is still its own, under this grant.
    doubted: Option<u16>,
    /// When a closed connection gives its last bytes up.
    linger_until: Option<MonoMs>,
    exit: Option<Exit>,
    read_stopped: bool,
    /// Not read until there is room for its messages.
    waits_for_room: bool,
    /// Messages of it went to shards.
    enqueues: bool,
    /// Whole packets may stand in `partial`: reading stopped among them.
    held_back: bool,
    /// The socket is gone.
    ended: bool,
    /// At the end of the turn, buffers of a busy time are given back.
    trim_due: bool,
    /// Something was done since buffers were given back last.
    busy: bool,
    /// The server closed: what still comes is read to nowhere until the client has closed too.
    draining: bool,
    /// It may not connect; its CONNECT is to be answered with that.
    refusal: Option<Refusal>,
}

/// What a connection needs only at times.
#[derive(Default)]
struct Extra {
    /// Open obligations of PUBLISH packets: as many as the window has.
    obligations: Vec<(Token, u32)>,
    /// PUBLISH packets behind a full window, and their bytes.
    stash: VecDeque<Publish>,
    stash_bytes: usize,
    /// The `Open` under way, to be proposed again if the session moved.
    open: Option<Box<session::Open>>,
    /// What it may replace, until it is answered; a lone node's may replace anything.
    sighting: Option<Arc<Sighting>>,
    /// Shards that have not answered for retained messages yet.
    retained: Vec<Gathering>,
    /// Sequences that the subscriber acknowledged in this turn.
    acked: Vec<Seq>,
    /// The same of groups.
    shared_acked: Vec<GroupSeq>,
    /// Router rows of a clean session, to be dropped with it.
    filters: Vec<mqtt::Filter>,
    /// What `Live` had dropped when it was last counted.
    dropped: Dropped,
    /// Answers and deliveries that wait for the lease; as many as the windows of both sides allow.
    withheld: VecDeque<Promise>,
    /// The answer to the `Open`, which waits for it too.
    opened: Option<Opened>,
}

impl Extra {
    fn is_idle(&self) -> bool {
        self.obligations.is_empty()
            && self.stash.is_empty()
            && self.open.is_none()
            && self.retained.is_empty()
            && self.acked.is_empty()
            && self.shared_acked.is_empty()
            && self.filters.is_empty()
            && self.dropped == Dropped::default()
            && self.withheld.is_empty()
            && self.opened.is_none()
            && self.sighting.is_none()
    }
}

/// Retained messages of several shards on their way to one answer.
struct Gathering {
    token: Token,
    /// Shards whose answer lacks.
    shards: usize,
    /// For each filter.
    rows: Vec<Vec<std::sync::Arc<session::Message>>>,
}

impl Connection {
    pub(super) fn new(
        io: Rc<Io>,
        id: ConnectionId,
        socket: TcpStream,
        mailbox: Mailbox<ConnectionMessage>,
        refusal: Option<Refusal>,
    ) -> Self {
        let shared = &io.shared;
        let live = Live::new(&shared.session, shared.node_epoch, id, io.tick());
        let decoder = Decoder::new(shared.limits.unauthenticated());
        let sighting = shared.sighting.load_full();
        let extra = sighting.map(|sighting| {
            Box::new(Extra {
                sighting: Some(sighting),
                ..Extra::default()
            })
        });
        Self {
            id,
            socket,
            mailbox,
            live,
            decoder,
            partial: BytesMut::new(),
            unsent: BytesMut::new(),
            extra,
            timer: MonoMs(u64::MAX),
            home: 0,
            grant: 0,
            doubted: None,
            linger_until: None,
            exit: None,
            read_stopped: false,
            waits_for_room: false,
            enqueues: false,
            held_back: false,
            ended: false,
            trim_due: false,
            busy: false,
            draining: false,
            refusal,
            io,
        }
    }

    /// One turn: mailbox, socket, effects, one flush.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Exit> {
        self.io.tick();
        // Whatever an actor that panicked left there is nobody's.
        self.io.write_buffer.borrow_mut().clear();
        let more_messages = self.take_messages();
        let more_bytes = self.read(context);
        self.flush_acked();
        let mut written = false;
        while self.flush(context) {
            written = true;
            self.live.handle_writable(self.io.now());
            self.drain_effects();
        }
        let more_bytes = more_bytes | written | self.drain_socket(context);
        if !self.live.is_closed() {
            self.count_dropped();
        }
        self.set_timer();
        self.io.wake_flush();
        if std::mem::take(&mut self.trim_due) {
            self.trim();
        }
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
        let is_sent = self.unsent.is_empty() && !self.draining;
        self.live.is_closed() && (self.ended || is_sent || given_up)
    }

    /// Counts what `Live` has dropped since it was last asked.
    fn count_dropped(&mut self) {
        let now = self.live.dropped();
        if now == Dropped::default() {
            return;
        }
        let before = std::mem::replace(&mut self.extra().dropped, now);
        let counters = &self.io.counters;
        counters
            .queue_dropped_full_total
            .add(now.full - before.full);
        let expired = now.expired - before.expired;
        counters.queue_dropped_expired_total.add(expired);
        let too_large = now.too_large - before.too_large;
        counters.queue_dropped_too_large_total.add(too_large);
    }

    /// Takes what the mailbox holds; true when there is more.
    fn take_messages(&mut self) -> bool {
        for _ in 0..TURN_MESSAGES_MAX {
            let Some(message) = self.mailbox.pop() else {
                return false;
            };
            self.busy = true;
            self.handle(message);
            self.drain_effects();
        }
        true
    }

    fn handle(&mut self, message: ConnectionMessage) {
        let now = self.io.now();
        match message {
            ConnectionMessage::Opened(opened) => self.opened_under_lease(opened),
            ConnectionMessage::WrongEpoch(current) => self.open_again(current),
            ConnectionMessage::Answer(token, answer) => {
                self.trim_due |= matches!(answer, Answer::Subscribed(_));
                if let Answer::WrongEpoch { current } = answer {
                    tracing::debug!(id = ?self.id, ?current, "a command of a former owner is refused");
                }
                self.live.handle_answer(token, answer, now);
            }
            ConnectionMessage::Settled(token) => self.settled(token),
            ConnectionMessage::Unsettled => self.live.handle_kick(ReasonCode::ServerBusy, now),
            ConnectionMessage::Delivery(delivery) => self.live.handle_delivery(*delivery, now),
            ConnectionMessage::Shared(delivery) => self.live.handle_shared(*delivery, now),
            ConnectionMessage::Message(message, matched) => {
                self.live.handle_message(message, matched, now);
            }
            ConnectionMessage::Retained(token, rows) => self.retained(token, rows),
            ConnectionMessage::Kick(ReasonCode::UseAnotherServer) => {
                self.exit.get_or_insert(Exit::Kicked);
                let shard = self.shard();
                let reference = shard.and_then(|shard| self.io.shared.references.of(shard));
                self.live.handle_sent_away(reference.as_ref(), now);
            }
            ConnectionMessage::GoHome(asked) => self.go_home(&asked),
            ConnectionMessage::Kick(reason) => {
                self.exit.get_or_insert(Exit::Kicked);
                self.live.handle_kick(reason, now);
            }
            ConnectionMessage::EndSession(reason) => {
                self.exit.get_or_insert(Exit::Kicked);
                self.live.handle_end(reason, now);
            }
            ConnectionMessage::ShardRecovered(shard) => {
                if self.shard() == Some(shard) {
                    self.exit.get_or_insert(Exit::Kicked);
                    self.live.handle_kick(ReasonCode::ServerBusy, now);
                }
            }
            ConnectionMessage::Report(asked) => self.report(&asked),
            ConnectionMessage::ReadOn => self.read_on(),
            ConnectionMessage::Leased => self.keep_promises(),
            ConnectionMessage::Timer => self.timer_fired(),
            ConnectionMessage::GiveWay => self.give_way(),
            ConnectionMessage::OpenNow => self.open_now(),
            ConnectionMessage::OpenLate => self.open_late(),
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
        self.trim_due = true;
    }

    /// Gives back what only a busy connection needs.
    fn trim(&mut self) {
        self.live.trim();
        self.mailbox.trim();
        self.busy = false;
        match &mut self.extra {
            Some(extra) if extra.is_idle() => self.extra = None,
            Some(extra) => {
                extra.obligations.shrink_to_fit();
                extra.acked.shrink_to_fit();
                extra.shared_acked.shrink_to_fit();
                extra.retained.shrink_to_fit();
                extra.filters.shrink_to_fit();
            }
            None => {}
        }
    }

    fn opened(&mut self, opened: Opened) {
        self.io.open_done(self.id);
        self.extra().open = None;
        self.extra().sighting = None;
        self.trim_due = true;
        if matches!(opened, Opened::Yes { .. }) {
            self.decoder.set_limits(self.io.shared.limits);
            self.io.handshakes.borrow_mut().handle_done(self.id);
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
        } else {
            // A SUBSCRIBE or UNSUBSCRIBE: after it most clients only wait.
            self.trim_due = true;
        }
        self.live
            .handle_settled(token, ReasonCode::Success, self.io.now());
    }

    /// Sets a timer if the deadline comes before the one that is set.
    fn set_timer(&mut self) {
        let deadline = self.linger_until.or_else(|| self.live.deadline());
        // A busy connection has one such timer at a time: the next turn's lies behind it.
        let trim = self.busy.then(|| self.io.now().mono.plus_ms(TRIM_MS));
        if let Some(deadline) = deadline.into_iter().chain(trim).min()
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

impl Future for Connection {
    type Output = Exit;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Exit> {
        self.get_mut().poll_turn(context)
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
            let mut epoch = self.live.epoch();
            // An answer to `Open` that was not taken yet says which ownership is to be ended.
            while let Some(message) = self.mailbox.pop() {
                if let ConnectionMessage::Opened(Opened::Yes { epoch: opened, .. }) = message {
                    epoch = opened;
                }
            }
            self.io.close_ownership(session::Close {
                client,
                epoch,
                will: session::WillFate::Keep,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_small() {
        let (connection, live) = (size_of::<Connection>(), size_of::<Live>());
        let (decoder, extra) = (size_of::<Decoder>(), size_of::<Extra>());
        println!("connection {connection}, live {live}, decoder {decoder}, extra {extra}");
        assert!(connection <= 640, "{connection} bytes");
        assert!(extra <= 256, "{extra} bytes");
    }
}
