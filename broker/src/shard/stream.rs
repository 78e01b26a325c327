//! The node's numbered stream to one shard, and the shard's proposer behind it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use cluster::{ShardEntryWriter, ShardItem};
use cluster_core::{
    Attempt, Batch, Body, BootMs, EpochView, LogTime, NodeEpoch, Numbered, Proposer,
    ProposerEffect, ProposerLimits, Sent, Share, ShareLimits, Unavailable,
};
use mqtt::ClientId;
use session::{Acks, Command, ConnectionId, GroupSeq, Token};

use super::expiry::Times;
use super::room::Room;
use crate::ids::Owed;

/// Acknowledged sequences that wait for company (SEMANTICS, Sessions): losing them delivers again,
/// under the same packet id. This many go at once.
const ACKED_TOGETHER: usize = 256;

/// Bytes that a command is accounted with beside the message in it.
const COMMAND_BYTES: u64 = 256;

/// What the node asks of the shard, and who is told the answer.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(super) command: Arc<Carried>,
    pub(super) reply: Reply,
}

/// A command and what its message occupies.
#[derive(Debug)]
pub(crate) struct Carried {
    command: Command,
    _room: Option<Room>,
}

impl Carried {
    pub(super) fn new(command: Command, room: Option<Room>) -> Arc<Self> {
        Arc::new(Self {
            command,
            _room: room,
        })
    }
}

impl std::ops::Deref for Carried {
    type Target = Command;

    fn deref(&self) -> &Command {
        &self.command
    }
}

/// Who is told the answer.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Nobody,
    Owed(Owed),
    Answer(ConnectionId, Token),
    Opened(ConnectionId, ClientId),
    /// The shard of the member, which wrote the row of this version.
    Member(u16, u64),
}

/// Something on its way into the shard's log.
#[derive(Clone, Debug)]
pub(crate) enum Wired {
    /// Of the node's stream.
    Sent(Sent<Item>),
    /// What the leader itself wants in the log.
    Duty(Command),
    /// Which node epochs are current.
    Epochs(EpochView),
}

impl Wired {
    /// The sending that it belongs to.
    fn attempt(&self) -> Option<Attempt> {
        match self {
            Self::Sent(sent) => Some(sent.attempt),
            Self::Duty(_) | Self::Epochs(_) => None,
        }
    }
}

/// The entry of a batch, and of a moment when the log's time and the wall clock were so.
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
                Body::Item(item) => Body::Item(times.into_log(item.command.command.clone())),
                Body::Nop => Body::Nop,
            },
        },
        Wired::Duty(command) => ShardItem::Duty(command.clone()),
        Wired::Epochs(view) => ShardItem::Epochs(view.clone()),
    }
}

/// What waits to be numbered, what is numbered and not answered, what is being proposed.
///
/// `held` is bounded by what may be owed: the windows of the node's connections; by bytes once the
/// log takes nothing any more, see [`super::backlog`].
pub(super) struct Stream {
    held: VecDeque<Item>,
    held_bytes: u64,
    /// Acknowledged sequences, fewer than [`ACKED_TOGETHER`]: no entry is made for them alone until
    /// they are due.
    acked: Vec<Acks>,
    /// The same of groups.
    group_acked: Vec<GroupSeq>,
    numbered: Numbered<Item>,
    proposer: Proposer<Wired>,
}

impl Stream {
    pub(super) fn new() -> Self {
        let shares = ShareLimits::default();
        let limits = ProposerLimits {
            // It refuses nothing that the stream took: what finds no room there is held.
            shares: ShareLimits {
                open_bytes: 2 * shares.open_bytes,
                enqueue_bytes: 2 * shares.enqueue_bytes,
                ack_bytes: 2 * shares.ack_bytes,
                duty_bytes: u64::MAX,
            },
            ..ProposerLimits::default()
        };
        Self {
            held: VecDeque::new(),
            held_bytes: 0,
            acked: Vec::new(),
            group_acked: Vec::new(),
            numbered: Numbered::new(shares),
            proposer: Proposer::new(limits),
        }
    }

    /// Takes an item behind all that came before.
    pub(super) fn push(&mut self, item: Item) {
        self.release_acks();
        self.hold(item);
    }

    fn hold(&mut self, item: Item) {
        self.held_bytes += weight_of(&item.command).1;
        self.held.push_back(item);
    }

    /// Bytes of what waits to be numbered.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Bytes of messages that are not answered: what waits to be numbered, and what is numbered.
    pub(super) fn unanswered_bytes(&self) -> u64 {
        self.held_bytes + self.numbered.bytes(Share::Enqueue)
    }

    /// Takes acknowledged sequences. They go with the next item, or once [`Self::release_acks`] says
    /// so; true when they wait for that.
    pub(super) fn push_acks(&mut self, acks: Vec<Acks>) -> bool {
        self.acked.extend(acks);
        self.acks_wait()
    }

    /// As [`Self::push_acks`], for messages of groups.
    pub(super) fn push_group_acks(&mut self, acks: Vec<GroupSeq>) -> bool {
        self.group_acked.extend(acks);
        self.acks_wait()
    }

    fn acks_wait(&mut self) -> bool {
        let acked: usize = self.acked.iter().map(|one| one.seqs.len()).sum();
        if acked + self.group_acked.len() < ACKED_TOGETHER && self.held.is_empty() {
            return true;
        }
        self.release_acks();
        false
    }

    /// Lets acknowledged sequences wait for company no longer.
    pub(super) fn release_acks(&mut self) {
        let acked = std::mem::take(&mut self.acked);
        let acked = (!acked.is_empty()).then_some(Command::Ack(acked));
        let groups = std::mem::take(&mut self.group_acked);
        let groups = (!groups.is_empty()).then_some(Command::GroupAck(groups));
        for command in acked.into_iter().chain(groups) {
            self.hold(Item {
                command: Carried::new(command, None),
                reply: Reply::Nobody,
            });
        }
    }

    /// Takes what only the leader asks for; nobody is told.
    pub(super) fn duty(&mut self, wired: Wired, now: BootMs) {
        self.proposer
            .handle_item(wired, Share::Duty, COMMAND_BYTES, now);
    }

    /// The next batch to propose, if none is under way.
    pub(super) fn poll_batch(&mut self, now: BootMs) -> Option<(Batch, Vec<Wired>)> {
        self.number();
        self.send(now);
        while let Some(effect) = self.proposer.poll_effect() {
            match effect {
                ProposerEffect::Propose { batch, items } => return Some((batch, items)),
                // The group wakes itself when it is asked.
                ProposerEffect::Wake => self.proposer.handle_awake(),
                ProposerEffect::Refuse { item, reason } => {
                    tracing::debug!(%reason, "an item was not proposed; it is sent again");
                    if let Some(attempt) = item.attempt() {
                        self.numbered.handle_error(attempt);
                    }
                }
            }
        }
        None
    }

    /// The batch is in the log and applied.
    pub(super) fn handle_committed(&mut self, batch: Batch) {
        self.proposer.handle_committed(batch);
    }

    /// Nothing of the batch was appended; it is proposed again.
    pub(super) fn handle_unavailable(
        &mut self,
        batch: Batch,
        items: Vec<Wired>,
        why: Unavailable,
        now: BootMs,
    ) {
        self.proposer.handle_unavailable(batch, items, why, now);
    }

    /// It is not known what became of the batch: everything unanswered is sent again.
    pub(super) fn handle_lost(&mut self, batch: Batch) {
        self.proposer.handle_lost(batch);
        self.numbered.handle_error(self.numbered.attempt());
    }

    /// Item `n` was applied; gives it back if it was not answered before.
    pub(super) fn handle_answer(&mut self, n: u64) -> Option<Item> {
        self.numbered
            .handle_answer(n)
            .map(|confirmed| confirmed.item)
    }

    /// An item before one of this sending is missing.
    pub(super) fn handle_gap(&mut self, attempt: Attempt) {
        self.numbered.handle_error(attempt);
    }

    /// Time passed.
    pub(super) fn handle_timeout(&mut self, now: BootMs) {
        self.proposer.handle_timeout(now);
    }

    /// Whether everything is answered.
    pub(super) fn is_idle(&self) -> bool {
        self.acked.is_empty()
            && self.group_acked.is_empty()
            && self.held.is_empty()
            && self.numbered.is_empty()
            && self.proposer.is_idle()
    }

    fn number(&mut self) {
        while let Some(item) = self.held.pop_front() {
            let (share, bytes) = weight_of(&item.command);
            // A connection of this node that comes back does so behind what it left in this very
            // stream, so nothing of an ended one needs to become a `Nop`.
            if let Err(item) = self.numbered.push(item, None, share, bytes) {
                self.held.push_front(item);
                return;
            }
            self.held_bytes -= bytes;
        }
    }

    fn send(&mut self, now: BootMs) {
        while let Some(sent) = self.numbered.poll_item(|_| true) {
            let (share, bytes) = match &sent.body {
                Body::Item(item) => weight_of(&item.command),
                Body::Nop => (Share::Ack, COMMAND_BYTES),
            };
            self.proposer
                .handle_item(Wired::Sent(sent), share, bytes, now);
        }
    }
}

/// What a command is accounted to, and with how many bytes.
fn weight_of(command: &Command) -> (Share, u64) {
    match command {
        Command::Open(_) => (Share::Open, COMMAND_BYTES),
        Command::Close(_) => (Share::Ack, COMMAND_BYTES),
        Command::Ack(acks) => {
            let seqs: usize = acks.iter().map(|one| one.seqs.len()).sum();
            let bytes = COMMAND_BYTES * acks.len() as u64 + 8 * seqs as u64;
            (Share::Ack, bytes)
        }
        Command::GroupAck(acks) => (Share::Ack, COMMAND_BYTES * acks.len() as u64),
        Command::Enqueue(enqueue) => (Share::Enqueue, enqueue.message.bytes() as u64),
        Command::Retain(retain) => {
            let bytes = retain.message.as_ref().map_or(0, |one| one.bytes() as u64);
            (Share::Enqueue, COMMAND_BYTES + bytes)
        }
        Command::Replay(replay) => {
            let bytes: usize = replay.rows.iter().map(|one| one.bytes()).sum();
            (Share::Enqueue, COMMAND_BYTES + bytes as u64)
        }
        _ => (Share::Enqueue, COMMAND_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use session::NodeEpoch as SessionEpoch;

    const T0: BootMs = BootMs(0);

    fn item(n: u64) -> Item {
        Item {
            command: Carried::new(
                Command::NodeGone {
                    node_epoch: SessionEpoch(n),
                },
                None,
            ),
            reply: Reply::Nobody,
        }
    }

    fn numbers(items: &[Wired]) -> Vec<u64> {
        let of = |wired: &Wired| match wired {
            Wired::Sent(sent) => sent.n,
            other => panic!("not of the stream: {other:?}"),
        };
        items.iter().map(of).collect()
    }

    #[test]
    fn what_comes_while_a_batch_is_under_way_goes_with_the_next() {
        let mut stream = Stream::new();
        stream.push(item(1));
        let (first, items) = stream.poll_batch(T0).expect("a batch");
        assert_eq!(numbers(&items), [0]);
        stream.push(item(2));
        stream.push(item(3));
        assert!(stream.poll_batch(T0).is_none());

        stream.handle_committed(first);
        assert!(stream.handle_answer(0).is_some());

        let (_, items) = stream.poll_batch(T0).expect("a batch");
        assert_eq!(numbers(&items), [1, 2]);
    }

    #[test]
    fn acknowledged_sequences_go_with_the_next_item_or_once_they_are_many_or_due() {
        let acks = |seqs: std::ops::Range<u64>| {
            vec![Acks {
                client: ClientId::try_from("c").expect("an id"),
                epoch: session::Epoch(1),
                seqs: seqs.map(session::Seq).collect(),
            }]
        };
        let is_ack = |wired: &Wired| match wired {
            Wired::Sent(sent) => match &sent.body {
                Body::Item(item) => matches!(**item.command, Command::Ack(_)),
                Body::Nop => false,
            },
            _ => false,
        };
        let mut stream = Stream::new();
        assert!(stream.push_acks(acks(0..1)));
        assert!(stream.push_acks(acks(1..2)));
        assert!(stream.poll_batch(T0).is_none() && !stream.is_idle());

        // Before the item: it may end the ownership that they name.
        stream.push(item(1));
        let (batch, items) = stream.poll_batch(T0).expect("a batch");
        assert_eq!(items.iter().map(is_ack).collect::<Vec<_>>(), [true, false]);
        stream.handle_committed(batch);

        assert!(!stream.push_acks(acks(2..2 + ACKED_TOGETHER as u64)));
        let (batch, items) = stream.poll_batch(T0).expect("a batch");
        assert_eq!(items.len(), 1);
        stream.handle_committed(batch);

        assert!(stream.push_acks(acks(900..901)));
        stream.release_acks();
        let (batch, items) = stream.poll_batch(T0).expect("a batch");
        stream.handle_committed(batch);
        assert_eq!(items.len(), 1);

        for n in 0..5 {
            stream.handle_answer(n);
        }
        assert!(stream.is_idle());
        stream.push_group_acks(vec![GroupSeq {
            filter: mqtt::Filter::try_from("$share/g/t").expect("a filter"),
            incarnation: session::Epoch(1),
            seq: session::Seq(0),
        }]);
        assert!(!stream.is_idle());
    }

    #[test]
    fn bytes_are_held_until_an_item_has_its_number() {
        let mut stream = Stream::new();
        let share = ShareLimits::default().enqueue_bytes;
        let fitting = share / COMMAND_BYTES;
        for n in 0..fitting + 3 {
            stream.push(item(n));
        }
        assert_eq!(stream.held_bytes(), (fitting + 3) * COMMAND_BYTES);

        let (batch, items) = stream.poll_batch(T0).expect("a batch");
        assert_eq!(stream.held_bytes(), 3 * COMMAND_BYTES);
        assert_eq!(stream.unanswered_bytes(), (fitting + 3) * COMMAND_BYTES);
        stream.handle_committed(batch);
        for n in numbers(&items) {
            stream.handle_answer(n);
        }
        stream.poll_batch(T0).expect("a batch");
        assert_eq!(stream.held_bytes(), 0);
    }

    #[test]
    fn after_a_lost_batch_everything_unanswered_is_sent_again_in_order() {
        let mut stream = Stream::new();
        stream.push(item(1));
        let (first, _) = stream.poll_batch(T0).expect("a batch");
        stream.push(item(2));
        assert!(stream.poll_batch(T0).is_none());

        stream.handle_lost(first);

        let mut seen = Vec::new();
        while let Some((batch, items)) = stream.poll_batch(T0) {
            stream.handle_committed(batch);
            for n in numbers(&items) {
                seen.extend(stream.handle_answer(n).map(|_| n));
            }
        }
        assert_eq!(seen, [0, 1]);
        assert!(stream.is_idle());
    }
}
