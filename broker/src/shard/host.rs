//! The host of one shard: it brings commands into the shard's log, tells who waits what they
//! answered, and carries out what the applied entries ask for.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cluster::raft::{Group, Unproposed};
use cluster::{Outcome, ShardMachine};
use cluster_core::{
    Batch, BootMs, ClockReading, Drain, EpochView, LogClock, LogTime, Memberships, NodeEpoch,
    RouteVersion, ShardId, Stamped, WallMs, WillKey,
};
use mqtt::Filter;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use runtime::{Clock, ractor};
use session::{
    Answer, Command, ConnectionId, MembershipRow, Message, MessageId, Open, Token, WillRow,
};
use tokio::sync::oneshot;

use super::backlog::Backlog;
use super::expiry::Times;
use super::stream::{Carried, Item, Reply, Stream, Wired};
use super::{Seat, ShardItem, ShardMessage, Shards};
use crate::ids::Place;
use crate::io::{IoMessage, ShardEvent, Threads};
use crate::memory::Plan;
use crate::routes::RoutesMessage;

/// Commands that one look at the clock may make due.
const DUE_COMMANDS_MAX: usize = 1_000;

/// How long acknowledged sequences may wait for something else to go into the log with (SEMANTICS,
/// Sessions).
const ACKS_WAIT: Duration = Duration::from_millis(50);

/// The host of one shard.
pub(crate) struct ShardHost {
    pub(crate) shard: u16,
    pub(crate) group: Group<ShardMachine>,
    /// The epoch of this run of the node.
    pub(crate) epoch: NodeEpoch,
    /// The epochs that are current as it begins.
    pub(crate) epochs: EpochView,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) threads: Threads,
    pub(crate) shards: Shards,
    pub(crate) routes: Arc<OnceLock<ActorRef<RoutesMessage>>>,
    /// Says how many payloads may wait in memory for a flush before nothing more is proposed; and what
    /// may wait to be proposed while the log takes nothing.
    pub(crate) memory: Plan,
}

/// What a host holds.
pub(crate) struct Hosted {
    pub(super) me: ActorRef<ShardMessage>,
    pub(super) stream: Stream,
    backlog: Backlog,
    log_clock: LogClock,
    /// What the log's time and the wall clock were when an entry was stamped last, or looked for
    /// what is due; and when that was.
    pub(super) times: Times,
    times_at: BootMs,
    pub(super) drain: Drain<WillRow>,
    /// Highest version that every reader of the routes sees.
    pub(super) routes_visible: RouteVersion,
    /// Answers that wait for the routes or for groups. Bounded by the connections' requests, and
    /// by the outboxes of the members' shards.
    waiting: VecDeque<Waiting>,
    pub(super) memberships: Memberships<MembershipRow>,
    pub(super) out: Vec<Vec<ShardEvent>>,
    /// [`ShardMessage::AcksDue`] is on its way.
    acks_are_timed: bool,
    /// Are told once nothing is under way.
    draining: Vec<oneshot::Sender<()>>,
}

/// An answer that waits.
struct Waiting {
    /// For this version of the routes.
    route: u64,
    /// For the memberships of these versions.
    memberships: Vec<u64>,
    told: Told,
}

/// Who is told an answer.
enum Told {
    Thread(usize, ShardEvent),
    /// The shard of a member, about the row of this version.
    Shard(u16, u64),
}

impl Actor for ShardHost {
    type Msg = ShardMessage;
    type State = Hosted;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        if self.seat().host.set(me.clone()).is_err() {
            return Err("a shard's host starts once: its state cannot be made again".into());
        }
        let told = me.clone();
        let last = self.group.with(|machine| {
            machine.on_flushed(move || {
                if told.cast(ShardMessage::Flushed).is_err() {
                    tracing::debug!("flushed after the shard's host has ended");
                }
            });
            machine.time()
        });
        let reading = self.reading();
        let log_clock = LogClock::new(last, reading);
        let mut hosted = Hosted {
            me: me.clone(),
            stream: Stream::new(),
            backlog: Backlog::new(self.memory.unflushed(0, 0)),
            times: times(log_clock.last(), reading),
            times_at: reading.boot,
            log_clock,
            drain: Drain::new(ShardId(self.shard)),
            routes_visible: RouteVersion(0),
            waiting: VecDeque::new(),
            memberships: Memberships::default(),
            out: std::iter::repeat_with(Vec::new)
                .take(self.threads.len())
                .collect(),
            acks_are_timed: false,
            draining: Vec::new(),
        };
        // The sessions of ended epochs are disconnected before anything of this one is applied.
        let view = Wired::Epochs(self.epochs.clone());
        hosted.stream.duty(view, self.boot());
        hosted.drain.handle_lead();
        me.cast(ShardMessage::Tick)?;
        Ok(hosted)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        hosted: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ShardMessage::Batch(items) => {
                items.into_iter().for_each(|item| self.take(hosted, item));
            }
            ShardMessage::Landed {
                batch,
                items,
                result,
            } => self.landed(hosted, batch, items, result),
            ShardMessage::RoutesAnswered(answer) => match answer {
                Some(answer) => hosted.drain.handle_routes_answer(answer, self.boot()),
                None => hosted.drain.handle_routes_failed(self.boot()),
            },
            ShardMessage::RoutesVisible(version) => {
                hosted.routes_visible = hosted.routes_visible.max(version);
                self.let_go(hosted);
            }
            ShardMessage::Seated(version) => {
                hosted.memberships.handle_seated(version);
                self.let_go(hosted);
            }
            ShardMessage::Loaded(messages) => self.loaded(messages),
            ShardMessage::LoadAgain(ids) => self.load(hosted, ids),
            // What waited for room is proposed below.
            ShardMessage::Flushed => {}
            ShardMessage::AcksDue => {
                hosted.acks_are_timed = false;
                hosted.stream.release_acks();
            }
            ShardMessage::Drain(done) => {
                hosted.stream.release_acks();
                hosted.draining.push(done);
            }
            ShardMessage::Tick => self.tick(hosted),
        }
        self.carry_out(hosted);
        self.drain(hosted);
        self.drain_memberships(hosted);
        self.propose(hosted);
        self.tell_backlog(hosted);
        self.flush(hosted).await;
        if hosted.stream.is_idle() {
            for done in hosted.draining.drain(..) {
                if done.send(()).is_err() {
                    tracing::debug!("the stop waits no longer");
                }
            }
        }
        Ok(())
    }
}

impl ShardHost {
    pub(super) fn seat(&self) -> &Seat {
        &self.shards.seats[usize::from(self.shard)]
    }

    pub(super) fn boot(&self) -> BootMs {
        BootMs(self.clock.mono_ms())
    }

    fn reading(&self) -> ClockReading {
        ClockReading {
            boot: self.boot(),
            wall: WallMs(self.clock.wall_ms()),
            is_synchronised: self.clock.is_synchronised(),
            // A lone node has no peers to compare with.
            apart_ms: None,
        }
    }

    fn take(&self, hosted: &mut Hosted, item: ShardItem) {
        let mut taken = None;
        let (command, reply) = match item {
            ShardItem::Propose {
                connection,
                token,
                command,
            } => (*command, Reply::Answer(connection, token)),
            ShardItem::Open {
                connection,
                command,
            } => {
                let client = command.client.clone();
                let open = self.expecting(*command);
                (open, Reply::Opened(connection, client))
            }
            ShardItem::Member(membership) => {
                let reply = Reply::Member(membership.source, membership.version);
                (Command::Membership(membership), reply)
            }
            ShardItem::Oblige {
                owed,
                command,
                room,
            } => match *command {
                Command::Ack(acks) if owed.is_none() => {
                    return released_in_time(hosted, |stream| stream.push_acks(acks));
                }
                Command::GroupAck(acks) if owed.is_none() => {
                    return released_in_time(hosted, |stream| stream.push_group_acks(acks));
                }
                command => {
                    taken = room;
                    (command, owed.map_or(Reply::Nobody, Reply::Owed))
                }
            },
            ShardItem::RetainQoS0 { retain, bytes } => {
                self.give_qos0_room(bytes);
                (Command::Retain(*retain), Reply::Nobody)
            }
            ShardItem::QoS0(message) => {
                self.give_qos0_room(message.bytes() as u64);
                return self.deliver_qos0(hosted, &message);
            }
            ShardItem::WillPublished(id) => {
                return hosted.drain.handle_will_published(WillKey(id.0));
            }
            ShardItem::Retained {
                connection,
                token,
                filters,
                limit,
            } => return self.read_retained(hosted, connection, token, &filters, limit),
        };
        let command = Carried::new(command, taken);
        hosted.stream.push(Item { command, reply });
    }

    /// Fills in which ownership the `Open` replaces, as this replica knows it. The shell of the
    /// connection asks again, naming the ownership that it was told, while its socket is open.
    fn expecting(&self, mut open: Open) -> Command {
        if open.expected_epoch.is_none() {
            open.expected_epoch = self
                .group
                .with(|machine| machine.durable().epoch(&open.client));
        }
        Command::Open(Box::new(open))
    }

    fn loaded(&self, messages: Vec<(MessageId, Option<Arc<Message>>)>) {
        self.group.with(|machine| {
            let durable = machine.durable_mut();
            for (id, message) in messages {
                match message {
                    Some(message) => durable.handle_loaded(id, message),
                    None => durable.handle_not_found(id),
                }
            }
        });
    }

    fn give_qos0_room(&self, bytes: u64) {
        self.seat().qos0_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn read_retained(
        &self,
        hosted: &mut Hosted,
        connection: ConnectionId,
        token: Token,
        filters: &[Filter],
        limit: usize,
    ) {
        let times = hosted.times;
        let passed_ms = self.boot().since_ms(hosted.times_at);
        let now = session::WallMs(times.log.0.saturating_add(passed_ms));
        let rows: Vec<Vec<Arc<Message>>> = self.group.with(|machine| {
            let of = |filter| machine.durable().retained_matching(filter, limit, now);
            filters.iter().map(of).collect()
        });
        let out = |row| times.out_of_log(row);
        let rows = rows.into_iter().map(|of| of.into_iter().map(out).collect());
        let rows = rows.collect();
        let event = ShardEvent::Retained {
            connection,
            token,
            rows,
        };
        hosted.out[Place::of(connection).thread].push(event);
    }

    fn tick(&self, hosted: &mut Hosted) {
        let now = self.boot();
        hosted.stream.handle_timeout(now);
        let stamped = self.stamp(hosted);
        let (due, counters, sessions) = self.group.with(|machine| {
            let durable = machine.durable();
            let due = durable.due(session::WallMs(stamped.time.time.0), DUE_COMMANDS_MAX);
            (due, durable.counters(), durable.sessions())
        });
        for command in due {
            // The end of a wait ends nothing that a client counts on.
            if stamped.may_expire || matches!(command, Command::ReplayEnd { .. }) {
                hosted.stream.duty(Wired::Duty(command), now);
            }
        }
        self.seat().counters.store(Arc::new((counters, sessions)));
    }

    fn stamp(&self, hosted: &mut Hosted) -> Stamped {
        let reading = self.reading();
        let stamped = hosted.log_clock.stamp(reading);
        hosted.times = times(stamped.time, reading);
        hosted.times_at = reading.boot;
        stamped
    }

    /// Proposes what waits, in one entry, unless one is under way, or too many payloads wait in
    /// memory for a flush: then its end brings us here again.
    fn propose(&self, hosted: &mut Hosted) {
        let (unflushed, limit) = self.group.with(|machine| {
            let durable = machine.durable();
            let messages = durable.counters().queue_messages;
            let limit = self.memory.unflushed(messages, durable.sessions() as u64);
            (durable.unflushed_bytes() as u64, limit)
        });
        if unflushed > limit / 2 {
            self.group.flush_soon();
        }
        if unflushed > limit {
            return;
        }
        let Some((batch, items)) = hosted.stream.poll_batch(self.boot()) else {
            return;
        };
        let time = self.stamp(hosted).time;
        let entry = super::stream::encode(time, hosted.times, self.epoch, &items);
        let (group, me) = (self.group.clone(), hosted.me.clone());
        tokio::spawn(async move {
            let result = group.propose(entry).await;
            let landed = ShardMessage::Landed {
                batch,
                items,
                result,
            };
            if me.cast(landed).is_err() {
                tracing::debug!("the shard's host has ended: the node is stopping");
            }
        });
    }

    /// Tells the io threads whether more may come.
    fn tell_backlog(&self, hosted: &mut Hosted) {
        let (is_idle, bytes) = (hosted.stream.is_idle(), hosted.stream.held_bytes());
        let blocked = hosted.backlog.blocked(is_idle, bytes, self.boot());
        let seat = self.seat();
        if blocked.is_full && !seat.is_full.load(Ordering::Relaxed) {
            tracing::warn!(
                shard = self.shard,
                bytes,
                "the log of a shard takes nothing: messages for its sessions are withheld"
            );
        }
        seat.is_stuck.store(blocked.is_stuck, Ordering::Relaxed);
        seat.is_full.store(blocked.is_full, Ordering::Relaxed);
        seat.held_bytes.store(bytes, Ordering::Relaxed);
        let excused = match blocked.is_stuck {
            true => hosted.stream.unanswered_bytes(),
            false => 0,
        };
        let before = seat.excused_bytes.swap(excused, Ordering::Relaxed);
        self.shards.under_way().excuse(before, excused);
    }

    fn landed(
        &self,
        hosted: &mut Hosted,
        batch: Batch,
        items: Vec<Wired>,
        result: Result<Vec<Outcome>, Unproposed>,
    ) {
        let outcomes = match result {
            Ok(outcomes) => outcomes,
            Err(Unproposed::Unavailable { why, .. }) => {
                let now = self.boot();
                return hosted.stream.handle_unavailable(batch, items, why, now);
            }
            Err(Unproposed::Lost) => return hosted.stream.handle_lost(batch),
        };
        assert_eq!(outcomes.len(), items.len(), "an outcome for each item");
        hosted.stream.handle_committed(batch);
        hosted.backlog.handle_moved();
        for (item, outcome) in items.into_iter().zip(outcomes) {
            self.applied(hosted, item, outcome);
        }
    }

    fn applied(&self, hosted: &mut Hosted, wired: Wired, outcome: Outcome) {
        match (wired, outcome) {
            (Wired::Sent(sent), Outcome::Applied(answer)) => {
                if let Some(item) = hosted.stream.handle_answer(sent.n) {
                    self.answered(hosted, &item, answer);
                }
            }
            (Wired::Sent(sent), Outcome::Gap { .. }) => hosted.stream.handle_gap(sent.attempt),
            (_, Outcome::Ended) => {
                // Meta ended the epoch of a process that still runs: nothing of it counts any more.
                tracing::error!(epoch = %self.epoch, "the epoch of this node has ended");
                std::process::abort();
            }
            (Wired::Duty(Command::RoutesDone { version }), _) => {
                hosted.drain.handle_routes_done(RouteVersion(version));
            }
            (Wired::Duty(Command::WillDone { id }), _) => {
                hosted.drain.handle_will_done(WillKey(id.0));
            }
            (Wired::Duty(Command::MembershipDone { version }), _) => {
                hosted.memberships.handle_done(version);
            }
            (Wired::Duty(_) | Wired::Epochs(_), _) => {}
        }
    }

    /// Tells who waits for an item what it answered.
    fn answered(&self, hosted: &mut Hosted, item: &Item, answer: Answer) {
        if let Command::Enqueue(enqueue) = &**item.command {
            let message: Arc<Message> = Arc::clone(&enqueue.message);
            self.deliver_qos0(hosted, &message);
        }
        match item.reply.clone() {
            Reply::Nobody => {}
            Reply::Owed(owed) => hosted.out[owed.thread(0)].push(ShardEvent::Settled(owed)),
            Reply::Opened(connection, client) => {
                let event = ShardEvent::Opened {
                    connection,
                    client,
                    answer,
                };
                hosted.out[Place::of(connection).thread].push(event);
            }
            Reply::Answer(connection, token) => {
                let route = awaited_version(&answer);
                let memberships = awaited_memberships(&answer);
                let event = ShardEvent::Answer {
                    connection,
                    token,
                    answer,
                };
                let thread = Place::of(connection).thread;
                self.tell(
                    hosted,
                    Waiting {
                        route,
                        memberships,
                        told: Told::Thread(thread, event),
                    },
                );
            }
            Reply::Member(shard, version) => self.tell(
                hosted,
                Waiting {
                    route: awaited_version(&answer),
                    memberships: Vec::new(),
                    told: Told::Shard(shard, version),
                },
            ),
        }
    }

    /// Tells an answer, now or once what it waits for has come.
    fn tell(&self, hosted: &mut Hosted, answer: Waiting) {
        let seated = |version: &u64| hosted.memberships.is_seated(*version);
        if answer.route > hosted.routes_visible.0 || !answer.memberships.iter().all(seated) {
            return hosted.waiting.push_back(answer);
        }
        match answer.told {
            Told::Thread(thread, event) => hosted.out[thread].push(event),
            Told::Shard(shard, version) => self.shards.tell(shard, ShardMessage::Seated(version)),
        }
    }

    /// Tells the answers that need wait no longer.
    fn let_go(&self, hosted: &mut Hosted) {
        // Versions of different filters do not arrive in order of the requests.
        for answer in std::mem::take(&mut hosted.waiting) {
            self.tell(hosted, answer);
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

fn times(time: LogTime, reading: ClockReading) -> Times {
    Times {
        log: session::WallMs(time.time.0),
        wall: session::WallMs(reading.wall.0),
    }
}

/// Has acknowledgements that wait released in time.
fn released_in_time(hosted: &mut Hosted, waits: impl FnOnce(&mut Stream) -> bool) {
    if waits(&mut hosted.stream) && !hosted.acks_are_timed {
        hosted.acks_are_timed = true;
        // Its end is the timer's: nobody waits for it.
        drop(hosted.me.send_after(ACKS_WAIT, || ShardMessage::AcksDue));
    }
}

/// The version of the routes that an answer waits for; 0 for none.
fn awaited_version(answer: &Answer) -> u64 {
    match answer {
        Answer::Subscribed(all) => all.iter().map(|one| one.version).max().unwrap_or(0),
        Answer::Unsubscribed(all) => all.iter().map(|one| one.version).max().unwrap_or(0),
        Answer::Membership { version } => *version,
        _ => 0,
    }
}

/// The memberships that an answer waits for.
fn awaited_memberships(answer: &Answer) -> Vec<u64> {
    let all: Vec<u64> = match answer {
        Answer::Subscribed(all) => all.iter().map(|one| one.membership).collect(),
        Answer::Unsubscribed(all) => all.iter().map(|one| one.membership).collect(),
        _ => return Vec::new(),
    };
    all.into_iter().filter(|version| *version > 0).collect()
}
