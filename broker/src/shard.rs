//! The hosts of the session shards: each applies commands to one `Durable` and carries its
//! effects out.
//!
//! Until the Raft log exists a command is applied in memory, under an index of the host's own.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use mqtt::Filter;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use runtime::{Clock, ractor};
use session::{
    Answer, Command, ConnectionId, Counters, Durable, DurableEffect, Limits, Message, Subscription,
    Token, WallMs,
};

use crate::ids::{Owed, Place};
use crate::io::{IoMessage, ShardEvent, Threads};
use crate::routes::{Delta, Destination, RoutesMessage};

/// QoS 0 messages that may wait at a shard, in bytes; beyond it they are dropped and counted.
pub(crate) const QOS0_WAITING_BYTES_LIMIT: u64 = 16 << 20;
/// Commands that one look at the clock may make due.
const DUE_COMMANDS_MAX: usize = 1_000;
/// How often a shard looks at the clock.
pub(crate) const TICK_MS: u64 = 250;

/// One thing for a shard, from an io thread.
#[derive(Debug)]
pub(crate) enum ShardItem {
    /// Apply; tell the connection the answer.
    Propose {
        connection: ConnectionId,
        token: Token,
        command: Box<Command>,
    },
    /// Apply an `Open`; tell the connection the answer.
    Open {
        connection: ConnectionId,
        command: Box<session::Open>,
    },
    /// Apply; settle the obligation if somebody waits.
    Oblige {
        owed: Option<Owed>,
        command: Box<Command>,
    },
    /// Apply a retained message of QoS 0, for which so many bytes were admitted.
    RetainQoS0 {
        retain: Box<session::Retain>,
        bytes: u64,
    },
    /// Hand a QoS 0 message to connected subscribers, past the log.
    QoS0(Arc<Message>),
    /// Read retained messages, `limit` a filter.
    Retained {
        connection: ConnectionId,
        token: Token,
        filters: Arc<[Filter]>,
        limit: usize,
    },
}

/// What a shard's host is told.
///
/// The mailbox is bounded by what may be owed: the windows of the connections, and
/// [`QOS0_WAITING_BYTES_LIMIT`] for what is owed to nobody.
#[derive(Debug)]
pub(crate) enum ShardMessage {
    Batch(Vec<ShardItem>),
    RoutesApplied { version: u64 },
    Tick,
}

/// Handles of all shards, shared by the node.
#[derive(Clone)]
pub(crate) struct Shards {
    seats: Arc<[Seat]>,
}

struct Seat {
    /// Filled when the host starts.
    host: OnceLock<ActorRef<ShardMessage>>,
    qos0_bytes: AtomicU64,
    counters: arc_swap::ArcSwap<(Counters, usize)>,
}

impl Shards {
    pub(crate) fn new(count: u16) -> Self {
        let seat = || Seat {
            host: OnceLock::new(),
            qos0_bytes: AtomicU64::new(0),
            counters: arc_swap::ArcSwap::from_pointee((Counters::default(), 0)),
        };
        Self {
            seats: std::iter::repeat_with(seat)
                .take(usize::from(count))
                .collect(),
        }
    }

    pub(crate) fn len(&self) -> u16 {
        self.seats.len() as u16
    }

    /// Hands a message to a shard's host. Once the host has ended the node is stopping: what was
    /// owed stays owed, and nothing of it is acknowledged.
    pub(crate) fn tell(&self, shard: u16, message: ShardMessage) {
        let host = self.seats[usize::from(shard)].host.get();
        let host = host.expect("the shards start before any connection");
        if host.cast(message).is_err() {
            tracing::debug!(shard, "the shard's host has ended: the node is stopping");
        }
    }

    /// Whether a QoS 0 message of so many bytes may be sent to the shard; takes the room.
    pub(crate) fn admit_qos0(&self, shard: u16, bytes: u64) -> bool {
        let waiting = &self.seats[usize::from(shard)].qos0_bytes;
        let before = waiting.fetch_add(bytes, Ordering::Relaxed);
        let admitted = before == 0 || before + bytes <= QOS0_WAITING_BYTES_LIMIT;
        if !admitted {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
        admitted
    }

    /// Sums of what the shards count, and the number of sessions.
    pub(crate) fn counters(&self) -> (Counters, usize) {
        let mut sum = (Counters::default(), 0);
        for seat in self.seats.iter() {
            let of = seat.counters.load();
            sum.0 = sum.0 + of.0;
            sum.1 += of.1;
        }
        sum
    }
}

/// The host of one shard.
pub(crate) struct ShardHost {
    pub(crate) shard: u16,
    pub(crate) limits: Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) threads: Threads,
    pub(crate) shards: Shards,
    pub(crate) routes: Arc<OnceLock<ActorRef<RoutesMessage>>>,
}

/// What a host holds.
pub(crate) struct Hosted {
    durable: Durable,
    /// Index of the last command applied.
    index: u64,
    /// Highest version that every reader of the routes sees.
    routes_applied: u64,
    /// Answers to Subs and Unsubs that wait for a version. Bounded by the connections' requests.
    waiting: VecDeque<(u64, ShardEventFor)>,
    out: Vec<Vec<ShardEvent>>,
}

type ShardEventFor = (usize, ShardEvent);

impl Actor for ShardHost {
    type Msg = ShardMessage;
    type State = Hosted;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        if self.seat().host.set(me).is_err() {
            return Err("a shard's host starts once: its state cannot be made again".into());
        }
        Ok(Hosted {
            durable: Durable::new(self.limits),
            index: 0,
            routes_applied: 0,
            waiting: VecDeque::new(),
            out: std::iter::repeat_with(Vec::new)
                .take(self.threads.len())
                .collect(),
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        hosted: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ShardMessage::Batch(items) => {
                for item in items {
                    self.take(hosted, item);
                }
            }
            ShardMessage::RoutesApplied { version } => self.routes_applied(hosted, version),
            ShardMessage::Tick => {
                let now = WallMs(self.clock.wall_ms());
                for command in hosted.durable.due(now, DUE_COMMANDS_MAX) {
                    self.apply(hosted, &command);
                }
                let of = (hosted.durable.counters(), hosted.durable.sessions());
                self.seat().counters.store(Arc::new(of));
            }
        }
        self.carry_out(hosted);
        self.flush(hosted).await;
        Ok(())
    }
}

impl ShardHost {
    fn seat(&self) -> &Seat {
        &self.shards.seats[usize::from(self.shard)]
    }

    fn apply(&self, hosted: &mut Hosted, command: &Command) -> Answer {
        hosted.index += 1;
        hosted
            .durable
            .apply(hosted.index, WallMs(self.clock.wall_ms()), command)
    }

    fn take(&self, hosted: &mut Hosted, item: ShardItem) {
        match item {
            ShardItem::Propose {
                connection,
                token,
                command,
            } => {
                let answer = self.apply(hosted, &command);
                let version = awaited_version(&answer);
                let event = ShardEvent::Answer {
                    connection,
                    token,
                    answer,
                };
                // Whatever else the answer made due goes first: the routes must be on their way.
                if version > hosted.routes_applied {
                    hosted
                        .waiting
                        .push_back((version, (Place::of(connection).thread, event)));
                } else {
                    hosted.out[Place::of(connection).thread].push(event);
                }
            }
            ShardItem::Open {
                connection,
                command,
            } => {
                let client = command.client.clone();
                let answer = self.apply(hosted, &Command::Open(command));
                let event = ShardEvent::Opened {
                    connection,
                    client,
                    answer,
                };
                hosted.out[Place::of(connection).thread].push(event);
            }
            ShardItem::Oblige { owed, command } => {
                self.apply(hosted, &command);
                if let Command::Enqueue(enqueue) = &*command {
                    self.deliver_qos0(hosted, &enqueue.message);
                }
                if let Some(owed) = owed {
                    hosted.out[owed.thread(0)].push(ShardEvent::Settled(owed));
                }
            }
            ShardItem::RetainQoS0 { retain, bytes } => {
                self.seat().qos0_bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.apply(hosted, &Command::Retain(*retain));
            }
            ShardItem::QoS0(message) => {
                self.seat()
                    .qos0_bytes
                    .fetch_sub(message.bytes() as u64, Ordering::Relaxed);
                self.deliver_qos0(hosted, &message);
            }
            ShardItem::Retained {
                connection,
                token,
                filters,
                limit,
            } => {
                let now = WallMs(self.clock.wall_ms());
                let rows = filters
                    .iter()
                    .map(|filter| hosted.durable.retained_matching(filter, limit, now))
                    .collect();
                let event = ShardEvent::Retained {
                    connection,
                    token,
                    rows,
                };
                hosted.out[Place::of(connection).thread].push(event);
            }
        }
        self.carry_out(hosted);
    }

    fn deliver_qos0(&self, hosted: &mut Hosted, message: &Arc<Message>) {
        let publisher = message.publisher.as_ref();
        let recipients = hosted
            .durable
            .qos0_recipients(&message.topic, message.qos, publisher);
        for recipient in recipients {
            let event = ShardEvent::Message {
                connection: recipient.connection,
                message: Arc::clone(message),
                matched: recipient.matched,
            };
            hosted.out[Place::of(recipient.connection).thread].push(event);
        }
    }

    fn routes_applied(&self, hosted: &mut Hosted, version: u64) {
        hosted.routes_applied = hosted.routes_applied.max(version);
        self.apply(hosted, &Command::RoutesDone { version });
        // Versions of different filters do not arrive in order of the requests.
        let waiting = std::mem::take(&mut hosted.waiting);
        for (version, (thread, event)) in waiting {
            if version <= hosted.routes_applied {
                hosted.out[thread].push(event);
            } else {
                hosted.waiting.push_back((version, (thread, event)));
            }
        }
    }

    /// Carries the effects of what was applied out, in their order.
    fn carry_out(&self, hosted: &mut Hosted) {
        let mut deltas = Vec::new();
        let mut version = 0;
        while let Some(effect) = hosted.durable.poll_effect() {
            match effect {
                DurableEffect::Deliver(delivery) => {
                    let thread = Place::of(delivery.connection).thread;
                    hosted.out[thread].push(ShardEvent::Delivery(Box::new(delivery)));
                }
                DurableEffect::TakenOver { connection, .. } => {
                    let thread = Place::of(connection).thread;
                    hosted.out[thread].push(ShardEvent::TakenOver { connection });
                }
                DurableEffect::Route(row) => {
                    version = version.max(row.version);
                    deltas.push(Delta {
                        filter: row.filter,
                        destination: Destination::Shard(self.shard),
                        subscription: row.wanted.then(Subscription::default),
                    });
                }
                DurableEffect::WillDue(will) => {
                    let event = ShardEvent::WillDue {
                        shard: self.shard,
                        will: Box::new(will),
                    };
                    hosted.out[0].push(event);
                }
            }
        }
        if deltas.is_empty() {
            return;
        }
        let message = RoutesMessage::Shard {
            shard: self.shard,
            version,
            deltas,
        };
        let routes = self
            .routes
            .get()
            .expect("the routes start before any connection");
        if routes.cast(message).is_err() {
            tracing::debug!(
                shard = self.shard,
                "the routes have ended: the node is stopping"
            );
        }
    }

    async fn flush(&self, hosted: &mut Hosted) {
        for (thread, events) in hosted.out.iter_mut().enumerate() {
            if !events.is_empty() {
                self.threads
                    .send(thread, IoMessage::Shard(std::mem::take(events)))
                    .await;
            }
        }
    }
}

/// The version of the routes that an answer waits for; 0 for none.
fn awaited_version(answer: &Answer) -> u64 {
    match answer {
        Answer::Subscribed(all) => all.iter().map(|one| one.version).max().unwrap_or(0),
        Answer::Unsubscribed(all) => all.iter().map(|one| one.version).max().unwrap_or(0),
        _ => 0,
    }
}
