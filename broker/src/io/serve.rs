//! The loop of an io thread: its inbox, its timer wheel, its batches.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bridge::{Ingest, Streams};
use bytes::BytesMut;
use cluster::member::LeaseView;
use cluster_core::Sighting;
use mqtt::ClientId;
use ractor::ActorRef;
use runtime::{Clock, Exit, TimerKey, Wheel, ractor};
use session::{Answer, MonoMs, NodeEpoch, Now, Opened, WallMs, WillId};
use tokio::sync::{Notify, mpsc, oneshot};

use super::arrivals::{self, Arrivals};
use super::outbound::Outbound;
use super::slots::{ConnectionMessage, Slots};
use super::stream_subscribers::Warnings;
use super::{IoMessage, ShardEvent, Threads};
use crate::admission::{Handshakes, Opens, Refusals, Shares};
use crate::counters::Counters;
use crate::defects::Defects;
use crate::drain::Draining;
use crate::exits::{Exits, Seat};
use crate::homes::Homes;
use crate::ids::{Owed, Place, shard_of};
use crate::peers::Peers;
use crate::references::References;
use crate::routes::{RouteTrie, RoutesMessage, Snapshot};
use crate::shard::{ShardItem, Shards};
use crate::trace::Traces;

/// Length of a tick of the timer wheel in milliseconds: how late a deadline may be noticed.
const TICK_MS: u64 = 100;
/// Ticks of one turn of the wheel.
const WHEEL_TICKS: usize = 1_024;
/// Size of the buffers that a thread's connections share for reading and writing, in bytes.
pub(super) const BUFFER_BYTES: usize = 64 << 10;
/// Control messages that may wait in a connection's mailbox: more than a receive window, the
/// messages sent ahead, the windows of the groups and the requests of a connection together.
pub(super) const CONTROL_LIMIT: usize = 1 << 17;

/// What all io threads of a node share.
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) session: Arc<session::Config>,
    pub(crate) limits: mqtt::Limits,
    pub(crate) node_epoch: NodeEpoch,
    /// How far this node knows the shards now: what a connection that it accepts now may replace.
    /// None while the node is alone.
    pub(crate) sighting: ArcSwapOption<Sighting>,
    /// Until when the node may promise anything.
    pub(crate) lease: Arc<LeaseView>,
    pub(crate) shard_count: NonZeroU32,
    pub(crate) homes: Homes,
    pub(crate) streams: Streams,
    pub(crate) snapshot: Snapshot,
    pub(crate) threads: Threads,
    pub(crate) shards: Shards,
    pub(crate) peers: Peers,
    pub(crate) routes: ActorRef<RoutesMessage>,
    pub(crate) ingest: Option<Ingest>,
    /// The supervisor of each thread's connections.
    pub(crate) supervisors: Box<[Seat]>,
    /// By which clean sessions of this node are spared repeats of QoS 2 messages and wills; one
    /// for each shard of publishers. Only messages with an origin, never QoS 0 or 1, come here.
    pub(crate) origins: Box<[Mutex<session::Origins>]>,
    /// Bytes of messages that a connection's mailbox takes.
    pub(crate) mailbox_bytes_limit: usize,
    /// Bytes of telemetry of one io thread that may wait for the log to have room.
    pub(crate) telemetry_bytes_limit: u64,
    /// What is broken on purpose.
    pub(crate) defects: Defects,
    /// Bytes of packets behind a held PUBLISH before the socket is not read any more.
    pub(crate) stash_bytes_limit: usize,
    /// What operators watch.
    pub(crate) traces: Arc<Traces>,
    /// Set once the node stops: new sockets are closed at once.
    pub(crate) stopping: AtomicBool,
    /// While it is, clients are to go to other nodes.
    pub(crate) draining: Draining,
    /// How many may be connecting on each io thread.
    pub(crate) admission: Shares,
    /// Who was refused.
    pub(crate) refusals: Arc<Refusals>,
    /// Where clients are that should be at another node.
    pub(crate) references: References,
    /// Number of client ids that this node has assigned, and a part that differs by process.
    pub(crate) assigned_ids: std::sync::atomic::AtomicU64,
    pub(crate) assigned_salt: u64,
}

/// What the connections of one io thread share. Nothing here leaves the thread.
pub(crate) struct Io {
    pub(crate) thread: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) slots: RefCell<Slots>,
    pub(crate) outbound: RefCell<Outbound>,
    pub(crate) routes: RefCell<RoutesReader>,
    pub(crate) wills: RefCell<HashMap<(u16, WillId), u32>>,
    /// Connections of which a telemetry message was not taken: nothing later of theirs may be, or
    /// it would overtake that one. They end by their settle deadline.
    pub(crate) withheld: RefCell<HashSet<session::ConnectionId>>,
    /// The same of messages for a shard that was full.
    pub(crate) withheld_from_shards: RefCell<HashSet<session::ConnectionId>>,
    pub(super) read_buffer: RefCell<BytesMut>,
    pub(super) write_buffer: RefCell<BytesMut>,
    /// Connections that are not read until there is room, the longest waiting first.
    waiting_for_room: RefCell<VecDeque<session::ConnectionId>>,
    /// Connections whose answers wait for the lease, since when, and the shards of their sessions.
    waiting_for_lease: RefCell<Vec<(MonoMs, u16, session::ConnectionId)>>,
    /// Connections that ended since the supervisor was told last.
    pub(super) exits: RefCell<Vec<(SocketAddr, Exit)>>,
    wheel: RefCell<Wheel>,
    now: Cell<Now>,
    flush: Notify,
    pub(super) stream_warnings: Warnings,
    /// Who is not connected yet.
    pub(super) handshakes: RefCell<Handshakes>,
    /// Who of them asks a shard, or waits to.
    pub(super) opens: RefCell<Opens>,
    /// Counts the rounds of the thread: its loop is polled, then connections that are ready.
    round: Cell<u64>,
}

/// One thread's view of the routes.
pub(crate) struct RoutesReader(arc_swap::Cache<Snapshot, Arc<RouteTrie>>);

impl RoutesReader {
    /// The snapshot in force: one atomic load when it has not changed.
    pub(crate) fn load(&mut self) -> &RouteTrie {
        self.0.load()
    }
}

impl Io {
    /// Both clocks as of the current turn.
    pub(crate) fn now(&self) -> Now {
        self.now.get()
    }

    /// Reads the clocks; once a turn.
    pub(super) fn tick(&self) -> Now {
        let clock = &self.shared.clock;
        let now = Now {
            mono: MonoMs(clock.mono_ms()),
            wall: WallMs(clock.wall_ms()),
        };
        self.now.set(now);
        now
    }

    /// Sets a timer of a connection.
    pub(super) fn set_timer(&self, id: session::ConnectionId, at: MonoMs) {
        let place = Place::of(id);
        let key = TimerKey {
            slot: place.slot as u32,
            generation: place.generation,
        };
        self.wheel.borrow_mut().set(key, at.0);
    }

    /// Has the batches flushed once the connections that are ready now have had their turns: the
    /// flushing task queues behind them.
    pub(super) fn wake_flush(&self) {
        if self.outbound.borrow().is_dirty() {
            self.flush.notify_one();
        }
    }

    /// Has a connection read on once there is room. Each is there once.
    pub(super) fn wait_for_room(&self, id: session::ConnectionId) {
        self.waiting_for_room.borrow_mut().push_back(id);
    }

    /// Lets as many connections read on as there is room for whole reads of theirs, shared among
    /// the threads. Each looks again before it reads.
    fn release_readers(&self) {
        let mut waiting = self.waiting_for_room.borrow_mut();
        if waiting.is_empty() {
            return;
        }
        let left = self.shared.shards.under_way().left() / self.shared.threads.len() as u64;
        let reads = left.div_ceil(BUFFER_BYTES as u64) as usize;
        let released = reads.min(waiting.len());
        for id in waiting.drain(..released) {
            self.tell(id, ConnectionMessage::ReadOn);
        }
    }

    /// Has a connection told once the node has the lease under which it may promise anything to the owners of this
    /// shard's sessions.
    pub(super) fn wait_for_lease(&self, shard: u16, id: session::ConnectionId) {
        let since = self.now().mono;
        self.waiting_for_lease.borrow_mut().push((since, shard, id));
    }

    /// Tells those who wait that the lease is there. Who waits too long is closed: another node may
    /// serve its client (SEMANTICS, Publishing).
    fn look_for_lease(&self) {
        let mut waiting = self.waiting_for_lease.borrow_mut();
        if waiting.is_empty() {
            return;
        }
        let now = self.now().mono;
        let deadline_ms = self.shared.session.settle_deadline_ms;
        waiting.retain(|(since, shard, id)| {
            if self.has_lease(*shard) {
                self.tell(*id, ConnectionMessage::Leased);
                return false;
            }
            let is_late = now.0.saturating_sub(since.0) >= deadline_ms;
            if is_late {
                let reason = mqtt::ReasonCode::ServerBusy;
                self.tell(*id, ConnectionMessage::Kick(reason));
            }
            !is_late
        });
    }

    /// Tells the supervisor how connections ended.
    fn report_exits(&self) {
        let exits = std::mem::take(&mut *self.exits.borrow_mut());
        let supervisor = self.shared.supervisors[self.thread].load();
        if let Some(supervisor) = &*supervisor
            && !exits.is_empty()
            && supervisor.cast(Exits(exits)).is_err()
        {
            tracing::debug!("the connections' supervisor is being started again");
        }
    }

    fn fire_timers(&self) {
        let now = self.tick();
        let mut due = Vec::new();
        self.wheel
            .borrow_mut()
            .advance(now.mono.0, |key| due.push(key));
        for TimerKey { slot, generation } in due {
            let place = Place {
                thread: self.thread,
                slot: slot as usize,
                generation,
            };
            self.tell(place.id(), ConnectionMessage::Timer);
        }
    }

    fn handle(&self, message: IoMessage) -> bool {
        match message {
            IoMessage::Accepted(..) => unreachable!("taken before"),
            IoMessage::Messages(batch) => {
                for cross in batch {
                    for (id, matched) in cross.targets {
                        if !matched.is_empty() {
                            self.hand_over(id, &cross.message, matched);
                        }
                    }
                }
            }
            IoMessage::Shard(events) => events.into_iter().for_each(|event| self.shard(event)),
            IoMessage::Settled(owed) => owed.into_iter().for_each(|owed| self.settle(owed)),
            IoMessage::Unsettled(owed) => owed.into_iter().for_each(|owed| {
                if let Owed::Connection(id, _) = owed {
                    self.tell(id, ConnectionMessage::Unsettled);
                }
            }),
            IoMessage::TelemetryReady => self.flush.notify_one(),
            IoMessage::Kick { reason, count } => {
                for mailbox in self.slots.borrow_mut().next_to_kick(count) {
                    let kick = ConnectionMessage::Kick(reason);
                    if mailbox.push(runtime::Priority::Control, 0, kick).is_err() {
                        tracing::debug!("the connection has just ended");
                    }
                }
            }
            IoMessage::KickFromFirst => self.slots.borrow_mut().kick_from_first(),
            IoMessage::GoHome {
                from,
                count,
                asked,
                next,
            } => self.ask_home(from, count, &asked, next),
            IoMessage::Report(connections, asked) => self.ask_reports(connections, &asked),
            IoMessage::EndOne(ending) => self.end_one(ending),
            IoMessage::ShardRecovered(shard) => self.end_of_shard(shard),
            IoMessage::End => return false,
        }
        true
    }

    fn shard(&self, event: ShardEvent) {
        match event {
            ShardEvent::Opened {
                connection,
                client,
                answer,
            } => self.opened(connection, client, answer),
            ShardEvent::Answer {
                connection,
                token,
                answer,
            } => {
                self.tell(connection, ConnectionMessage::Answer(token, answer));
            }
            ShardEvent::Settled(owed) => self.settle(owed),
            ShardEvent::Delivery(delivery) => {
                self.tell(delivery.connection, ConnectionMessage::Delivery(delivery));
            }
            ShardEvent::Shared(delivery) => {
                self.tell(delivery.connection, ConnectionMessage::Shared(delivery));
            }
            ShardEvent::Message {
                connection,
                message,
                matched,
            } => {
                self.hand_over(connection, &message, matched);
            }
            ShardEvent::Retained {
                connection,
                token,
                rows,
            } => {
                self.tell(connection, ConnectionMessage::Retained(token, rows));
            }
            ShardEvent::TakenOver { connection } => {
                let reason = mqtt::ReasonCode::SessionTakenOver;
                self.tell(connection, ConnectionMessage::Kick(reason));
            }
            ShardEvent::WillDue { shard, will } => self.will_due(shard, &will),
        }
    }

    /// Hands the answer to an `Open` on. A connection that panicked meanwhile cannot end its
    /// ownership itself.
    fn opened(&self, connection: session::ConnectionId, client: ClientId, answer: Answer) {
        if let Answer::Opened { epoch, .. } = answer
            && self.slots.borrow().get(connection).is_none()
        {
            let close = session::Close {
                client,
                epoch,
                will: session::WillFate::Keep,
                expiry_s: None,
            };
            self.close_ownership(close);
            return self.wake_flush();
        }
        self.tell(connection, opened_message(answer));
    }

    /// Puts the end of an ownership on its way to the shard.
    pub(super) fn close_ownership(&self, close: session::Close) {
        let shard = shard_of(&close.client, self.shared.shard_count);
        let item = ShardItem::Oblige {
            owed: None,
            command: Box::new(session::Command::Close(close)),
            room: None,
        };
        self.outbound.borrow_mut().push_to_shard(shard, item);
    }
}

fn opened_message(answer: session::Answer) -> ConnectionMessage {
    match answer {
        Answer::Opened {
            epoch,
            incarnation,
            session_present,
        } => ConnectionMessage::Opened(Opened::Yes {
            epoch,
            incarnation,
            session_present,
        }),
        Answer::WrongEpoch { current } => ConnectionMessage::WrongEpoch(current),
        Answer::OtherIdentity => {
            ConnectionMessage::Opened(Opened::No(mqtt::ReasonCode::ClientIdentifierNotValid))
        }
        Answer::Refused(reason) => ConnectionMessage::Opened(Opened::No(reason)),
        other => unreachable!("an Open is not answered with {other:?}"),
    }
}

/// A panic outside a connection would leave a node that answers half of its clients.
struct PanicEndsProcess {
    thread: usize,
}

impl Drop for PanicEndsProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                thread = self.thread,
                "an io thread panicked: the process ends"
            );
            std::process::abort();
        }
    }
}

/// Runs an io thread until it is told to end. It begins once `shared` comes; what comes into its
/// inbox before waits there.
pub(crate) async fn serve(
    thread: usize,
    shared: oneshot::Receiver<Arc<Shared>>,
    counters: Arc<Counters>,
    inbox: mpsc::Receiver<IoMessage>,
) {
    let Ok(shared) = shared.await else {
        // The node did not start.
        return;
    };
    let _guard = PanicEndsProcess { thread };
    let outbound = Outbound::new(
        thread,
        shared.threads.clone(),
        shared.shards.clone(),
        shared.peers.clone(),
        shared.routes.clone(),
        shared.ingest.clone(),
        shared.telemetry_bytes_limit,
    );
    let now_ms = shared.clock.mono_ms();
    let io = Rc::new(Io {
        thread,
        routes: RefCell::new(RoutesReader(arc_swap::Cache::new(Arc::clone(
            &shared.snapshot,
        )))),
        counters,
        slots: RefCell::new(Slots::new(thread)),
        outbound: RefCell::new(outbound),
        wills: RefCell::default(),
        withheld: RefCell::default(),
        withheld_from_shards: RefCell::default(),
        read_buffer: RefCell::new(BytesMut::with_capacity(BUFFER_BYTES)),
        write_buffer: RefCell::new(BytesMut::with_capacity(BUFFER_BYTES)),
        waiting_for_room: RefCell::default(),
        waiting_for_lease: RefCell::default(),
        exits: RefCell::default(),
        wheel: RefCell::new(Wheel::new(TICK_MS, WHEEL_TICKS, now_ms)),
        now: Cell::default(),
        flush: Notify::new(),
        stream_warnings: Warnings::default(),
        handshakes: RefCell::new(Handshakes::new(shared.admission.handshakes)),
        opens: RefCell::new(shared.admission.opens(shared.shards.len())),
        round: Cell::new(0),
        shared,
    });
    let mut serving = pin!(serve_inbox(&io, inbox));
    poll_fn(|context| {
        io.round.set(io.round.get() + 1);
        serving.as_mut().poll(context)
    })
    .await;
}

async fn serve_inbox(io: &Rc<Io>, mut inbox: mpsc::Receiver<IoMessage>) {
    let mut arrivals = Arrivals::default();
    let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            message = inbox.recv() => {
                io.tick();
                match message {
                    Some(IoMessage::Accepted(arrival)) => arrivals.push(io, arrival),
                    Some(message) => if !io.handle(message) { break },
                    None => break,
                }
            }
            () = io.flush.notified() => io.outbound.borrow_mut().flush(),
            _ = ticks.tick() => {
                io.fire_timers();
                io.look_for_lease();
                io.report_exits();
                io.look_for_late_opens();
                io.count_handshakes();
                if io.outbound.borrow().is_waiting() {
                    io.outbound.borrow_mut().flush();
                }
            }
            // Comes back once everybody else has had a turn.
            () = tokio::task::yield_now(), if arrivals.is_waiting() => {}
        }
        while let Some(arrival) = arrivals.poll(io.round.get()) {
            arrivals::begin(io, arrival);
        }
        io.release_readers();
    }
}
