//! What the node that leads a shard does for it: brings items of all nodes into the log, and
//! carries the outbox out.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cluster::exchange::{ItemsReply, Said};
use cluster::link::Responder;
use cluster::raft::Group;
use cluster::{Outcome, ShardEntryWriter, ShardItem, ShardMachine};
use cluster_core::{
    Batch, Body, BootMs, ClockReading, Drain, EpochView, LogClock, LogTime, NodeEpoch, Proposer,
    ProposerEffect, ProposerLimits, Refused, Sent, ShardId, Share, ShareLimits, Stamped,
    Unavailable,
};
use mqtt::{Filter, Topic};
use session::{Command, Message, WillRow};

use super::expiry::Times;
use super::reads::Reads;
use super::stream::{COMMAND_BYTES, Item, weight_of};

/// Something on its way into the shard's log.
#[derive(Clone, Debug)]
pub(crate) enum Wired {
    /// Of this node's stream.
    Sent(Sent<Item>),
    /// Of another node's stream.
    Remote(Remote),
    /// What the leader itself wants in the log.
    Duty(Command),
    /// Which node epochs are current.
    Epochs(EpochView),
}

impl Wired {
    /// The message that it brings to queues, if it is one.
    pub(super) fn message(&self) -> Option<&Arc<Message>> {
        let command = match self {
            Self::Sent(Sent {
                body: Body::Item(item),
                ..
            }) => &**item.command,
            Self::Remote(Remote {
                item:
                    ShardItem::Item {
                        body: Body::Item(command),
                        ..
                    },
                ..
            }) => command,
            _ => return None,
        };
        match command {
            Command::Enqueue(enqueue) => Some(&enqueue.message),
            _ => None,
        }
    }

    /// What it is accounted to, and with how many bytes.
    fn weight(&self) -> (Share, u64) {
        match self {
            Self::Sent(Sent {
                body: Body::Item(item),
                ..
            }) => weight_of(&item.command),
            Self::Remote(Remote {
                item:
                    ShardItem::Item {
                        body: Body::Item(command),
                        ..
                    },
                ..
            }) => weight_of(command),
            Self::Sent(_) | Self::Remote(_) => (Share::Ack, COMMAND_BYTES),
            Self::Duty(_) | Self::Epochs(_) => (Share::Duty, COMMAND_BYTES),
        }
    }
}

/// An item of another node.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(super) request: RequestId,
    /// Its place in the request.
    at: usize,
    pub(super) item: ShardItem,
}

/// Names a request of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RequestId(u64);

/// One leadership of a shard.
pub(super) struct Lead {
    pub(super) group: Group<ShardMachine>,
    /// Tells its batches from those of an earlier leadership.
    pub(super) number: u64,
    proposer: Proposer<Wired>,
    log_clock: LogClock,
    /// What the log's time and the wall clock were when an entry was stamped last, or looked for
    /// what is due; and when that was.
    pub(super) times: Times,
    pub(super) times_at: BootMs,
    pub(super) drain: Drain<WillRow>,
    pub(super) restating: Restating,
    pub(super) reads: Reads,
}

/// Whether the routes were told that all rows of a shard from before its recovery are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Restating {
    /// Not by this leadership.
    #[default]
    Due,
    UnderWay,
    Done,
}

impl Restating {
    /// The routes were told, or it is not known.
    pub(super) fn after(is_done: bool) -> Self {
        match is_done {
            true => Self::Done,
            false => Self::Due,
        }
    }
}

impl Lead {
    /// A leadership begins.
    pub(super) fn new(
        shard: u16,
        number: u64,
        group: Group<ShardMachine>,
        reading: ClockReading,
    ) -> Self {
        let last = group.with(|machine| machine.time());
        let shares = ShareLimits::default();
        let limits = ProposerLimits {
            // It refuses nothing that this node's stream took: what finds no room there is held.
            // Nodes together may have more on their way than there is room; they send it again.
            shares: ShareLimits {
                open_bytes: 2 * shares.open_bytes,
                enqueue_bytes: 2 * shares.enqueue_bytes,
                ack_bytes: 2 * shares.ack_bytes,
                duty_bytes: u64::MAX,
            },
            ..ProposerLimits::default()
        };
        let log_clock = LogClock::new(last, reading);
        let mut drain = Drain::new(ShardId(shard));
        drain.handle_lead();
        Self {
            group,
            number,
            proposer: Proposer::new(limits),
            times: times(log_clock.last(), reading),
            times_at: reading.boot,
            log_clock,
            drain,
            restating: Restating::default(),
            reads: Reads::default(),
        }
    }

    /// Takes an item on its way into the log.
    pub(super) fn handle_item(&mut self, wired: Wired, now: BootMs) {
        let (share, bytes) = wired.weight();
        self.proposer.handle_item(wired, share, bytes, now);
    }

    /// The next batch to propose, if none is under way. What is refused goes back to its sender.
    pub(super) fn poll_batch(
        &mut self,
        mut refused: impl FnMut(Wired, Refused),
    ) -> Option<(Batch, Vec<Wired>)> {
        while let Some(effect) = self.proposer.poll_effect() {
            match effect {
                ProposerEffect::Propose { batch, items } => return Some((batch, items)),
                // The group wakes itself when it is asked.
                ProposerEffect::Wake => self.proposer.handle_awake(),
                ProposerEffect::Refuse { item, reason } => refused(item, reason),
            }
        }
        None
    }

    /// The batch is in the log and applied.
    pub(super) fn handle_committed(&mut self, batch: Batch) {
        self.proposer.handle_committed(batch);
    }

    /// Nothing of the batch was appended; it is proposed again, unless another node leads.
    pub(super) fn handle_unavailable(
        &mut self,
        batch: Batch,
        items: Vec<Wired>,
        why: Unavailable,
        now: BootMs,
    ) {
        self.proposer.handle_unavailable(batch, items, why, now);
    }

    /// It is not known what became of the batch.
    pub(super) fn handle_lost(&mut self, batch: Batch) {
        self.proposer.handle_lost(batch);
    }

    /// Time passed.
    pub(super) fn handle_timeout(&mut self, now: BootMs) {
        self.proposer.handle_timeout(now);
    }

    /// Whether nothing is on its way into the log.
    pub(super) fn is_idle(&self) -> bool {
        self.proposer.is_idle()
    }

    /// The time of an entry now, and whether what it makes due may be proposed.
    pub(super) fn stamp(&mut self, reading: ClockReading) -> Stamped {
        let stamped = self.log_clock.stamp(reading);
        self.times = times(stamped.time, reading);
        self.times_at = reading.boot;
        stamped
    }

    /// The log's time now.
    pub(super) fn now(&self, now: BootMs) -> session::WallMs {
        let passed_ms = now.since_ms(self.times_at);
        session::WallMs(self.times.log.0.saturating_add(passed_ms))
    }

    /// What is retained and matches, with the wall clock's times, at most `limit`, of the topics
    /// behind `after`.
    pub(super) fn retained(
        &self,
        filter: &Filter,
        after: Option<&Topic>,
        limit: usize,
        now: BootMs,
    ) -> Vec<Arc<Message>> {
        let now = self.now(now);
        let rows = self
            .group
            .with(|machine| machine.durable().retained_behind(filter, after, limit, now));
        rows.into_iter()
            .map(|row| self.times.out_of_log(row))
            .collect()
    }
}

/// The entry of a batch, and of a moment when the log's time and the wall clock were so. `epoch` is
/// this node's.
pub(super) fn encode(time: LogTime, times: Times, epoch: NodeEpoch, items: &[Wired]) -> Bytes {
    let mut writer = ShardEntryWriter::new(time);
    for item in items {
        writer.push(&stored(times, epoch, item));
    }
    writer.finish().into()
}

fn stored(times: Times, epoch: NodeEpoch, item: &Wired) -> ShardItem {
    match item {
        Wired::Sent(sent) => ShardItem::Item {
            epoch,
            attempt: sent.attempt,
            n: sent.n,
            body: match &sent.body {
                Body::Item(item) => Body::Item(times.into_log((**item.command).clone())),
                Body::Nop => Body::Nop,
            },
        },
        Wired::Remote(remote) => match remote.item.clone() {
            ShardItem::Item {
                epoch,
                attempt,
                n,
                body: Body::Item(command),
            } => ShardItem::Item {
                epoch,
                attempt,
                n,
                body: Body::Item(times.into_log(command)),
            },
            other => other,
        },
        Wired::Duty(command) => ShardItem::Duty(command.clone()),
        Wired::Epochs(view) => ShardItem::Epochs(view.clone()),
    }
}

fn times(time: LogTime, reading: ClockReading) -> Times {
    Times {
        log: session::WallMs(time.time.0),
        wall: session::WallMs(reading.wall.0),
    }
}

/// Requests of other nodes that are not answered. Bounded by the grants of the links.
#[derive(Default)]
pub(super) struct Requests {
    open: BTreeMap<RequestId, Request>,
    ids: u64,
}

struct Request {
    responder: Responder,
    outcomes: Vec<Option<Outcome>>,
    left: usize,
}

impl Requests {
    /// Takes a request; gives its items, to be proposed in this order.
    pub(super) fn take(&mut self, items: Vec<ShardItem>, responder: Responder) -> Vec<Wired> {
        if items.is_empty() {
            responder.reply(ItemsReply::Landed(Vec::new()).encode());
            return Vec::new();
        }
        self.ids += 1;
        let request = RequestId(self.ids);
        let left = items.len();
        let outcomes = vec![None; left];
        self.open.insert(
            request,
            Request {
                responder,
                outcomes,
                left,
            },
        );
        let wired = |(at, item)| Wired::Remote(Remote { request, at, item });
        items.into_iter().enumerate().map(wired).collect()
    }

    /// An item landed; the last one of a request answers it.
    pub(super) fn handle_outcome(&mut self, remote: &Remote, outcome: Outcome) {
        let Some(request) = self.open.get_mut(&remote.request) else {
            return;
        };
        if request.outcomes[remote.at].replace(outcome).is_none() {
            request.left -= 1;
        }
        if request.left > 0 {
            return;
        }
        if let Some(request) = self.open.remove(&remote.request) {
            let outcomes = request.outcomes.into_iter().flatten().collect();
            let reply = crate::defects::heard(ItemsReply::Landed(outcomes));
            request.responder.reply(reply.encode());
        }
    }

    /// An item did not land, or nobody knows: its whole request is to be sent again. Others of it
    /// may land all the same.
    pub(super) fn handle_refused(&mut self, request: RequestId, reply: &ItemsReply) {
        if let Some(request) = self.open.remove(&request) {
            request.responder.reply(reply.encode());
        }
    }
}
