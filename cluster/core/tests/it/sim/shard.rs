//! One shard on its node: the sending end of the node's stream to it, its proposer, log and state.

use std::collections::{BTreeMap, VecDeque};

use session::{Command, ConnectionId, DurableEffect, MembershipRow, Token, WillRow};
use tidewire_cluster_core::{
    Attempt, Batch, Body, Drain, LogClock, LogTime, Memberships, NodeEpoch, Numbered, Proposer,
    ProposerEffect, ProposerLimits, RouteDelta, RouteVersion, ShardId, Share, ShareLimits, Stamped,
    Unavailable, WillKey,
};

use super::ctx::Ctx;
use super::defect::Defect;
use super::disk::{ShardEntry, ShardWhat};
use super::machine::{Machine, Outcome};

/// Bytes that every item counts for.
pub(crate) const ITEM_BYTES: u64 = 100;

/// What a node asks of a shard, and who is told the answer.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) command: Command,
    pub(crate) reply: Reply,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    Nobody,
    Answer(ConnectionId, Token),
    Opened(ConnectionId),
    Obligation(u64),
    /// The shard of the member, which wrote the row of this version.
    Member(usize, u64),
}

/// Something on its way to the log. Only what this run of the node sent is answered.
#[derive(Clone, Debug)]
pub(crate) struct Wired {
    what: ShardWhat,
    attempt: Option<Attempt>,
}

pub(crate) struct Replied {
    pub(crate) n: u64,
    attempt: Attempt,
    pub(crate) outcome: Outcome,
}

pub(crate) struct Shard {
    pub(crate) at: usize,
    pub(crate) machine: Machine,
    /// Entries applied.
    pub(crate) applied: usize,
    clock: LogClock,
    pub(crate) stream: Numbered<Item>,
    wire: VecDeque<Wired>,
    pub(crate) proposer: Proposer<Wired>,
    in_flight: Option<(Batch, usize)>,
    /// Positions in the log that this run appended for its own stream.
    attempts: BTreeMap<usize, Attempt>,
    pub(crate) replies: VecDeque<Replied>,
    /// For the checkers: the latest sending of each epoch that was applied.
    latest: BTreeMap<NodeEpoch, Attempt>,
    pub(crate) drain: Drain<WillRow>,
    pub(crate) memberships: Memberships<MembershipRow>,
    /// Members of its groups that wait for a version of its routes: whose row of which version.
    pub(crate) seats: Vec<(u64, usize, u64)>,
}

impl Shard {
    /// A shard whose log is replayed.
    pub(crate) fn replayed(at: usize, ctx: &Ctx) -> Self {
        let limits = ShareLimits {
            enqueue_bytes: 8 * ITEM_BYTES,
            open_bytes: 2 * ITEM_BYTES,
            ack_bytes: 4 * ITEM_BYTES,
            duty_bytes: 1 << 20,
        };
        let mut machine = Machine::new(ctx);
        if ctx.defect == Defect::OutboxNotResumed {
            machine.durable.handle_lead();
        }
        let log = &ctx.disk.shards[at];
        for position in 0..log.durable() {
            machine.apply(position + 1, log.get(position));
            // Who takes the lead too early has forgotten what was to be done.
            while machine.durable.poll_effect().is_some() {}
        }
        let mut last = machine.time;
        if ctx.defect == Defect::ClockCatchesUp {
            last.wall = None;
        }
        Self {
            at,
            applied: log.durable(),
            clock: LogClock::new(last, ctx.reading()),
            machine,
            stream: Numbered::new(ShareLimits {
                enqueue_bytes: 1 << 20,
                ..ShareLimits::default()
            }),
            wire: VecDeque::new(),
            proposer: Proposer::new(ProposerLimits {
                shares: limits,
                batch_items: 5,
                ..ProposerLimits::default()
            }),
            in_flight: None,
            attempts: BTreeMap::new(),
            replies: VecDeque::new(),
            latest: BTreeMap::new(),
            drain: Drain::new(ShardId(at as u16)),
            memberships: Memberships::default(),
            seats: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, item: Item, owner: Option<ConnectionId>) {
        let share = match &item.command {
            Command::Open(_) => Share::Open,
            Command::Ack(_) | Command::Close(_) => Share::Ack,
            _ => Share::Enqueue,
        };
        let owner = owner.map(|owner| tidewire_cluster_core::ConnectionId(owner.0));
        let pushed = self.stream.push(item, owner, share, ITEM_BYTES);
        pushed.expect("clients' windows bound the stream below its shares");
    }

    /// Its node leads, and hands out what the leader before may have handed out.
    pub(crate) fn lead(&mut self, ctx: &Ctx) {
        if ctx.defect != Defect::OutboxNotResumed {
            self.machine.durable.handle_lead();
        }
    }

    /// Puts what is numbered on the wire.
    pub(crate) fn send(&mut self, epoch: NodeEpoch, is_open: impl Fn(ConnectionId) -> bool) {
        while let Some(sent) = self.stream.poll_item(|c| is_open(ConnectionId(c.0))) {
            let body = match sent.body {
                Body::Item(item) => Body::Item(item.command),
                Body::Nop => Body::Nop,
            };
            self.wire.push_back(Wired {
                what: ShardWhat::Item {
                    epoch,
                    attempt: sent.attempt,
                    n: sent.n,
                    body,
                },
                attempt: Some(sent.attempt),
            });
        }
    }

    /// Moves up to `count` items to the proposer; the link may break or repeat itself.
    pub(crate) fn carry(&mut self, count: usize, ctx: &mut Ctx) {
        for _ in 0..count {
            if ctx.fails(40) {
                // What was on the link may arrive all the same.
                for wired in std::mem::take(&mut self.wire) {
                    ctx.keep(self.at, wired.what);
                }
                self.stream.handle_error(self.stream.attempt());
            }
            let Some(wired) = self.wire.pop_front() else {
                return;
            };
            if ctx.fails(20) {
                ctx.keep(self.at, wired.what.clone());
            }
            let share = share_of(&wired.what);
            self.proposer
                .handle_item(wired, share, ITEM_BYTES, ctx.boot());
        }
    }

    /// What the leader itself wants in the log. Nobody is told if it finds no room.
    pub(crate) fn duty(&mut self, what: ShardWhat, ctx: &Ctx) {
        let wired = Wired {
            what,
            attempt: None,
        };
        self.proposer
            .handle_item(wired, Share::Duty, ITEM_BYTES, ctx.boot());
    }

    /// An item that some link kept.
    pub(crate) fn stale(&mut self, what: ShardWhat, ctx: &Ctx) {
        let share = share_of(&what);
        let wired = Wired {
            what,
            attempt: None,
        };
        self.proposer
            .handle_item(wired, share, ITEM_BYTES, ctx.boot());
    }

    /// The time of an entry now, and whether what it makes due may be proposed.
    pub(crate) fn stamp(&mut self, ctx: &Ctx) -> Stamped {
        let reading = ctx.reading();
        let stamped = self.clock.stamp(reading);
        let LogTime { time, wall } = stamped.time;
        let time = match ctx.defect {
            Defect::ClockBelieved => reading.wall,
            Defect::ClockCatchesUp if wall.is_some() => time.max(reading.wall),
            _ => return stamped,
        };
        let may_expire = stamped.may_expire || ctx.defect == Defect::ClockBelieved;
        let time = LogTime { time, wall };
        Stamped { time, may_expire }
    }

    /// Does what the proposer asks for; a group may take nothing, or a batch be lost from sight.
    pub(crate) fn propose(&mut self, ctx: &mut Ctx) {
        while let Some(effect) = self.proposer.poll_effect() {
            match effect {
                ProposerEffect::Wake => {
                    if !ctx.fails(2) {
                        self.proposer.handle_awake();
                    }
                }
                ProposerEffect::Refuse { item, .. } => {
                    if let Some(attempt) = item.attempt {
                        self.stream.handle_error(attempt);
                    }
                }
                ProposerEffect::Propose { batch, items } => {
                    if ctx.fails(15) {
                        let why = if ctx.fails(2) {
                            Unavailable::LeaseExpired
                        } else {
                            Unavailable::NoLeader
                        };
                        let now = ctx.boot();
                        self.proposer.handle_unavailable(batch, items, why, now);
                        continue;
                    }
                    self.append(batch, items, ctx);
                }
            }
        }
    }

    fn append(&mut self, batch: Batch, items: Vec<Wired>, ctx: &mut Ctx) {
        let is_lost = ctx.fails(25);
        let Stamped { time, .. } = self.stamp(ctx);
        let mut end = ctx.disk.shards[self.at].appended();
        for Wired { what, attempt } in items {
            end = ctx.disk.shards[self.at].append(ShardEntry { time, what });
            if let Some(attempt) = attempt.filter(|_| !is_lost) {
                self.attempts.insert(end, attempt);
            }
        }
        if is_lost {
            self.proposer.handle_lost(batch);
            self.stream.handle_error(self.stream.attempt());
        } else {
            self.in_flight = Some((batch, end));
        }
    }

    /// The disk synced: a batch may be committed.
    pub(crate) fn synced(&mut self, ctx: &Ctx) {
        if let Some((batch, end)) = self.in_flight
            && end <= ctx.disk.shards[self.at].durable()
        {
            self.in_flight = None;
            self.proposer.handle_committed(batch);
        }
    }

    /// Applies the next committed entry; returns it with its outcome.
    pub(crate) fn apply(&mut self, ctx: &mut Ctx) -> Option<(ShardEntry, Outcome)> {
        let log = &ctx.disk.shards[self.at];
        let committed = if ctx.defect == Defect::AppliedBeforeSync {
            log.appended()
        } else {
            log.durable()
        };
        if self.applied >= committed {
            return None;
        }
        let entry = log.get(self.applied).clone();
        self.applied += 1;
        let outcome = self.machine.apply(self.applied, &entry);
        ctx.trace.note(&(self.at, self.applied, &outcome));
        match &entry.what {
            ShardWhat::Duty(Command::RoutesDone { version }) => {
                self.drain.handle_routes_done(RouteVersion(*version));
            }
            ShardWhat::Duty(Command::MembershipDone { version }) => {
                self.memberships.handle_done(*version);
            }
            ShardWhat::Duty(Command::WillDone { id }) => {
                self.drain.handle_will_done(WillKey(id.0));
            }
            _ => {}
        }
        let attempt = self.attempts.remove(&self.applied);
        if let (Some(attempt), ShardWhat::Item { n, .. }) = (attempt, &entry.what) {
            let (n, outcome) = (*n, outcome.clone());
            self.replies.push_back(Replied {
                n,
                attempt,
                outcome,
            });
        }
        Some((entry, outcome))
    }

    /// Whether the item that was just applied belongs to no earlier sending than those before it,
    /// unless it is a repeat.
    pub(crate) fn follows(&mut self, epoch: NodeEpoch, attempt: Attempt) -> bool {
        let latest = self.latest.entry(epoch).or_default();
        let follows = !self.machine.took_new || attempt >= *latest;
        *latest = attempt.max(*latest);
        follows
    }

    /// Takes the effects that concern the outbox; returns the others.
    pub(crate) fn effects(&mut self, ctx: &Ctx) -> Vec<DurableEffect> {
        let mut others = Vec::new();
        while let Some(effect) = self.machine.durable.poll_effect() {
            match effect {
                DurableEffect::Route(row) => {
                    let version = match ctx.defect {
                        Defect::RouteVersionIsLogIndex => self.applied as u64,
                        _ => row.version,
                    };
                    self.drain.handle_route(RouteDelta {
                        filter: row.filter,
                        wanted: row.wanted,
                        version: RouteVersion(version),
                    });
                }
                DurableEffect::WillDue(row) => self.drain.handle_will(WillKey(row.id.0), row),
                DurableEffect::Membership(row) => {
                    self.memberships.handle_row(row.version, row.since, row);
                }
                other => others.push(other),
            }
        }
        others
    }

    /// The next answer, after the errors before it; all may be lost.
    pub(crate) fn next_reply(&mut self, ctx: &mut Ctx) -> Option<Replied> {
        if ctx.fails(60) {
            self.replies.clear();
            self.stream.handle_error(self.stream.attempt());
        }
        loop {
            let reply = self.replies.pop_front()?;
            match reply.outcome {
                Outcome::Gap => {
                    self.stream.handle_error(reply.attempt);
                }
                Outcome::Ended => {
                    ctx.violations
                        .push("the stream of the epoch that runs was refused".to_owned());
                }
                Outcome::Applied(_) => return Some(reply),
            }
        }
    }

    /// The process dies: what was on the wire may arrive all the same.
    pub(crate) fn leave_behind(&mut self, ctx: &mut Ctx) {
        for wired in std::mem::take(&mut self.wire) {
            if ctx.fails(3) {
                ctx.keep(self.at, wired.what);
            }
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.stream.is_empty()
            && self.wire.is_empty()
            && self.proposer.is_idle()
            && self.drain.is_empty()
            && self.memberships.is_empty()
            && self.seats.is_empty()
    }
}

pub(crate) fn share_of(what: &ShardWhat) -> Share {
    match what {
        ShardWhat::Item {
            body: Body::Item(Command::Open(_)),
            ..
        } => Share::Open,
        ShardWhat::Item {
            body: Body::Item(Command::Ack(_) | Command::Close(_)) | Body::Nop,
            ..
        } => Share::Ack,
        ShardWhat::Item { .. } => Share::Enqueue,
        ShardWhat::Duty(_) | ShardWhat::Epochs(_) => Share::Duty,
    }
}
