//! A replica of a shard on its node, and what its leader has besides.

use std::collections::BTreeMap;

use session::{Answer, Command, DurableEffect, MembershipRow, WillRow};
use tidewire_cluster_core::{
    Attempt, Batch, Drain, LogClock, Memberships, NodeEpoch, Proposer, ProposerEffect,
    ProposerLimits, RouteDelta, RouteVersion, ShardId, Share, ShareLimits, Stamped, Unavailable,
    WillKey,
};

use super::super::defect::Defect;
use super::super::disk::{ShardEntry, ShardWhat};
use super::super::machine::{Machine, Outcome};
use super::super::shard::{ITEM_BYTES, share_of};
use super::World;

/// Something on its way to the log, and who is to be told.
#[derive(Clone, Debug)]
pub(crate) struct Wired {
    pub(crate) what: ShardWhat,
    pub(crate) asked: Option<Asked>,
}

/// An item of a node's stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) epoch: NodeEpoch,
    pub(crate) attempt: Attempt,
    pub(crate) n: u64,
}

pub(crate) struct Host {
    pub(crate) shard: usize,
    pub(crate) machine: Machine,
    /// Entries applied.
    pub(crate) applied: usize,
    /// The term in which it hands out.
    pub(crate) leads: Option<u64>,
    clock: LogClock,
    pub(crate) proposer: Proposer<Wired>,
    in_flight: Option<(Batch, usize)>,
    /// What this lead has appended, by the end of the log with it.
    asked: BTreeMap<usize, Asked>,
    pub(crate) drain: Drain<WillRow>,
    pub(crate) memberships: Memberships<MembershipRow>,
    /// The last sending of each stream of which something was refused: what follows it would only find
    /// a gap.
    refused: BTreeMap<NodeEpoch, Attempt>,
    /// When a batch of routes was sent that is not answered.
    pub(crate) routes_sent_ms: Option<u64>,
}

impl Host {
    pub(crate) fn new(shard: usize, w: &World) -> Self {
        let machine = Machine::new(&w.ctx);
        Self {
            shard,
            clock: LogClock::new(machine.time, w.ctx.reading()),
            machine,
            applied: 0,
            leads: None,
            proposer: proposer(),
            in_flight: None,
            asked: BTreeMap::new(),
            drain: Drain::new(ShardId(shard as u16)),
            memberships: Memberships::default(),
            refused: BTreeMap::new(),
            routes_sent_ms: None,
        }
    }

    /// Follows the group: takes the lead up or lets it go. What comes of it is to be carried out.
    pub(crate) fn follow(&mut self, at: usize, w: &World) {
        let group = &w.groups.shards[self.shard];
        let term = group.leads(at);
        if self.leads.is_some() && self.leads != term {
            self.machine.durable.handle_follow();
            self.drain.handle_follow();
            self.memberships.handle_follow();
            self.leads = None;
            // Whoever asked finds no answer and asks the next leader.
            self.proposer = proposer();
            self.in_flight = None;
            self.asked.clear();
            self.refused.clear();
        }
        let is_up = self.applied >= group.committed(at);
        if self.leads.is_none() && is_up && term.is_some() && group.leads_committed(at) == term {
            self.leads = term;
            self.clock = LogClock::new(self.machine.time, w.ctx.reading());
            self.drain.handle_lead();
            self.routes_sent_ms = None;
        }
    }

    /// Hands everything out again that the leader before may have handed out.
    pub(crate) fn resume(&mut self, w: &World) -> Vec<DurableEffect> {
        self.memberships.handle_lead();
        self.machine.durable.handle_lead();
        match w.ctx.defect {
            Defect::OutboxNotResumed => {
                let mut effects = Vec::new();
                while let Some(effect) = self.machine.durable.poll_effect() {
                    if matches!(effect, DurableEffect::Deliver(_)) {
                        effects.push(effect);
                    }
                }
                effects
            }
            Defect::NothingHandedAgain => {
                self.effects();
                Vec::new()
            }
            _ => self.effects(),
        }
    }

    /// What the leader itself wants in the log.
    pub(crate) fn duty(&mut self, what: ShardWhat, w: &World) {
        self.take(Wired { what, asked: None }, w);
    }

    pub(crate) fn take(&mut self, wired: Wired, w: &World) {
        let share = match wired.asked {
            Some(_) => share_of(&wired.what),
            None => Share::Duty,
        };
        self.proposer
            .handle_item(wired, share, ITEM_BYTES, w.ctx.boot());
    }

    pub(crate) fn stamp(&mut self, w: &World) -> Stamped {
        self.clock.stamp(w.ctx.reading())
    }

    /// Whether something of this sending was refused.
    pub(crate) fn is_refused(&self, asked: Asked) -> bool {
        let last = self.refused.get(&asked.epoch);
        last.is_some_and(|last| asked.attempt <= *last)
    }

    /// Does what the proposer asks for; returns whom it refuses.
    pub(crate) fn propose(&mut self, at: usize, w: &mut World) -> Vec<Asked> {
        let mut refused = Vec::new();
        if self.leads.is_none() {
            return refused;
        }
        let now = w.ctx.boot();
        let committed = w.groups.shards[self.shard].committed(at);
        if let Some((batch, _)) = self.in_flight.take_if(|(_, end)| *end <= committed) {
            self.proposer.handle_committed(batch);
        }
        while let Some(effect) = self.proposer.poll_effect() {
            match effect {
                ProposerEffect::Wake => {}
                ProposerEffect::Refuse { item, .. } => {
                    if let Some(asked) = item.asked {
                        let last = self.refused.entry(asked.epoch).or_default();
                        *last = asked.attempt.max(*last);
                        refused.push(asked);
                    }
                }
                ProposerEffect::Propose { batch, items } => {
                    if !w.groups.shards[self.shard].is_fresh(at, now.0) {
                        let why = Unavailable::LeaseExpired;
                        self.proposer.handle_unavailable(batch, items, why, now);
                        break;
                    }
                    self.append(at, batch, items, w);
                }
            }
        }
        refused
    }

    fn append(&mut self, at: usize, batch: Batch, items: Vec<Wired>, w: &mut World) {
        let time = self.stamp(w).time;
        let is_lost = w.ctx.fails(40);
        let mut last = 0;
        for Wired { what, asked } in items {
            let entry = ShardEntry { time, what };
            let appended = w.groups.shards[self.shard].append(at, entry);
            let Some((end, _)) = appended else {
                // Deposed meanwhile: it is found out with the next step.
                return;
            };
            last = end;
            if let Some(asked) = asked.filter(|_| !is_lost) {
                self.asked.insert(end, asked);
            }
        }
        if is_lost {
            self.proposer.handle_lost(batch);
        } else {
            self.in_flight = Some((batch, last));
        }
    }

    /// Applies the next committed entry; returns it with its outcome.
    pub(crate) fn apply(
        &mut self,
        at: usize,
        w: &World,
    ) -> Option<(Option<Asked>, ShardEntry, Outcome)> {
        let group = &w.groups.shards[self.shard];
        while self.applied < group.committed(at) {
            let entry = group.get(at, self.applied);
            self.applied += 1;
            let Some(entry) = entry else { continue };
            let outcome = self.machine.apply(self.applied, &entry);
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
            let asked = self.asked.remove(&self.applied);
            return Some((asked, (*entry).clone(), outcome));
        }
        None
    }

    /// Takes the effects that concern the outbox; returns the others.
    pub(crate) fn effects(&mut self) -> Vec<DurableEffect> {
        let mut others = Vec::new();
        while let Some(effect) = self.machine.durable.poll_effect() {
            match effect {
                DurableEffect::Route(row) => self.drain.handle_route(RouteDelta {
                    filter: row.filter,
                    wanted: row.wanted,
                    version: RouteVersion(row.version),
                }),
                DurableEffect::WillDue(row) => self.drain.handle_will(WillKey(row.id.0), row),
                DurableEffect::Membership(row) => {
                    self.memberships.handle_row(row.version, row.since, row);
                }
                other => others.push(other),
            }
        }
        others
    }

    /// Whether the groups have the member that this SUBSCRIBE made, and whatever came after it.
    pub(crate) fn is_seated(&self, subs: &Command) -> bool {
        let memberships = &self.memberships;
        match self.machine.durable.answer_repeat(subs) {
            Answer::Subscribed(all) => {
                let mut all = all.iter();
                self.leads.is_some() && all.all(|one| memberships.is_seated(one.membership))
            }
            // Its connection has lost the session: nobody waits.
            _ => false,
        }
    }

    /// What is still to be done here.
    pub(crate) fn owes(&self) -> Option<String> {
        let queued = self.machine.durable.counters().queue_messages;
        let parts = [
            ("proposer", self.proposer.is_idle()),
            ("drain", self.drain.is_empty()),
            ("memberships", self.memberships.is_empty()),
            ("queues", queued == 0),
        ];
        let owed = parts.iter().filter(|(_, is_idle)| !is_idle);
        let owed: Vec<&str> = owed.map(|(name, _)| *name).collect();
        (!owed.is_empty()).then(|| owed.join(" and "))
    }
}

fn proposer() -> Proposer<Wired> {
    let shares = ShareLimits {
        enqueue_bytes: 8 * ITEM_BYTES,
        open_bytes: 2 * ITEM_BYTES,
        ack_bytes: 4 * ITEM_BYTES,
        duty_bytes: 1 << 20,
    };
    Proposer::new(ProposerLimits {
        shares,
        batch_items: 5,
        ..ProposerLimits::default()
    })
}
