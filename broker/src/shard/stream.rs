//! The node's numbered stream to one shard.

use std::collections::VecDeque;
use std::sync::Arc;

use cluster_core::{Attempt, Numbered, Sent, Share, ShareLimits};
use mqtt::ClientId;
use session::{Acks, Command, ConnectionId, GroupSeq, Token};

use super::room::Room;
use crate::ids::Owed;

/// Acknowledged sequences that wait for company (SEMANTICS, Sessions): losing them delivers again,
/// under the same packet id. This many go at once.
const ACKED_TOGETHER: usize = 256;

/// Bytes that a command is accounted with beside the message in it.
pub(super) const COMMAND_BYTES: u64 = 256;

/// What the node asks of the shard, and who is told the answer.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(super) command: Arc<Carried>,
    pub(super) reply: Reply,
}

impl Item {
    /// The connection without which nobody wants it: it asked, or waits for what is owed, and was
    /// told nothing yet. An `Open` outlives it, for its answer names what is to be closed; so does
    /// what nobody is told: a `Close`, acknowledgements (their epoch guards them, and without them
    /// more is sent again), retained messages of QoS 0 (their stamp guards them). What wills and
    /// memberships ask for is owed to outboxes.
    pub(super) fn owner(&self) -> Option<ConnectionId> {
        match self.reply {
            Reply::Owed(Owed::Connection(id, _)) | Reply::Answer(id, _) => Some(id),
            Reply::Owed(Owed::Will { .. })
            | Reply::Opened(..)
            | Reply::Member(..)
            | Reply::Nobody => None,
        }
    }
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

/// What waits to be numbered, and what is numbered and not answered.
///
/// `held` is bounded by what may be owed: the windows of the node's connections; by bytes once the
/// log takes nothing any more, see [`super::backlog`].
pub(super) struct Stream {
    held: VecDeque<(Item, Attempt)>,
    held_bytes: u64,
    /// Acknowledged sequences, fewer than [`ACKED_TOGETHER`]: no entry is made for them alone until
    /// they are due.
    acked: Vec<Acks>,
    /// The same of groups.
    group_acked: Vec<GroupSeq>,
    numbered: Numbered<Item>,
}

impl Stream {
    pub(super) fn new() -> Self {
        Self {
            held: VecDeque::new(),
            held_bytes: 0,
            acked: Vec::new(),
            group_acked: Vec::new(),
            numbered: Numbered::new(ShareLimits::default()),
        }
    }

    /// Takes an item behind all that came before.
    pub(super) fn push(&mut self, item: Item) {
        self.release_acks();
        self.hold(item);
    }

    fn hold(&mut self, item: Item) {
        self.held_bytes += weight_of(&item.command).1;
        let last = self.held.back();
        let since = last.map_or(self.numbered.since(), |(_, since)| *since);
        self.held.push_back((item, since));
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

    /// The next item to send to whoever leads the shard. What goes again and belongs to a connection
    /// that is not open any more goes as nothing (`docs/adr/013`).
    pub(super) fn poll_sent(
        &mut self,
        is_open: impl Fn(ConnectionId) -> bool,
    ) -> Option<Sent<Item>> {
        self.number();
        self.numbered
            .poll_item(|owner| is_open(ConnectionId(owner.0)))
    }

    /// Item `n` was applied; gives it back if it was not answered before.
    pub(super) fn handle_answer(&mut self, n: u64) -> Option<Item> {
        self.numbered
            .handle_answer(n)
            .map(|confirmed| confirmed.item)
    }

    /// Something of this sending may not have arrived, or did not count: everything unanswered is
    /// sent again, unless that was done since.
    pub(super) fn handle_error(&mut self, attempt: Attempt) {
        self.numbered.handle_error(attempt);
    }

    /// The shard wants this number in the place of an item of this sending.
    pub(super) fn handle_gap(&mut self, attempt: Attempt, next: u64) {
        self.numbered.handle_gap(attempt, next);
    }

    /// Everything unanswered is to be sent again: another node leads the shard, or this one anew.
    pub(super) fn restart(&mut self) {
        self.numbered.handle_error(self.numbered.attempt());
    }

    /// What ended connections had asked for and was not sent again.
    pub(super) fn withdrawn(&self) -> u64 {
        self.numbered.withdrawn()
    }

    /// Whether everything is answered.
    pub(super) fn is_idle(&self) -> bool {
        self.acked.is_empty()
            && self.group_acked.is_empty()
            && self.held.is_empty()
            && self.numbered.is_empty()
    }

    fn number(&mut self) {
        while let Some((item, since)) = self.held.pop_front() {
            let (share, bytes) = weight_of(&item.command);
            let owner = item.owner();
            let owner = owner.map(|owner| cluster_core::ConnectionId(owner.0));
            let pushed = self.numbered.push_since(item, owner, share, bytes, since);
            if let Err(item) = pushed {
                self.held.push_front((item, since));
                return;
            }
            self.held_bytes -= bytes;
        }
    }
}

/// What a command is accounted to, and with how many bytes.
pub(super) fn weight_of(command: &Command) -> (Share, u64) {
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
    use cluster_core::Body;
    use session::NodeEpoch as SessionEpoch;

    fn item(n: u64) -> Item {
        let node_epoch = SessionEpoch(n);
        Item {
            command: Carried::new(Command::NodeGone { node_epoch }, None),
            reply: Reply::Nobody,
        }
    }

    fn sent(stream: &mut Stream) -> Vec<Sent<Item>> {
        std::iter::from_fn(|| stream.poll_sent(|_| true)).collect()
    }

    fn numbers(sent: &[Sent<Item>]) -> Vec<u64> {
        sent.iter().map(|sent| sent.n).collect()
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
        let is_ack = |sent: &Sent<Item>| match &sent.body {
            Body::Item(item) => matches!(**item.command, Command::Ack(_)),
            Body::Nop => false,
        };
        let mut stream = Stream::new();
        assert!(stream.push_acks(acks(0..1)));
        assert!(stream.push_acks(acks(1..2)));
        assert!(sent(&mut stream).is_empty() && !stream.is_idle());

        // Before the item: it may end the ownership that they name.
        stream.push(item(1));
        let all = sent(&mut stream);
        assert_eq!(all.iter().map(is_ack).collect::<Vec<_>>(), [true, false]);

        assert!(!stream.push_acks(acks(2..2 + ACKED_TOGETHER as u64)));
        assert_eq!(sent(&mut stream).len(), 1);

        assert!(stream.push_acks(acks(900..901)));
        stream.release_acks();
        assert_eq!(sent(&mut stream).len(), 1);

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

        let first = sent(&mut stream);
        assert_eq!(stream.held_bytes(), 3 * COMMAND_BYTES);
        assert_eq!(stream.unanswered_bytes(), (fitting + 3) * COMMAND_BYTES);
        for n in numbers(&first) {
            stream.handle_answer(n);
        }
        stream.poll_sent(|_| true).expect("what was held");
        assert_eq!(stream.held_bytes(), 0);
    }

    /// Of each kind one item, of connections 1 to 7.
    fn of_all_kinds() -> Vec<Item> {
        let replies = [
            Reply::Owed(Owed::Connection(ConnectionId(1), Token(1))),
            Reply::Answer(ConnectionId(2), Token(1)),
            Reply::Opened(ConnectionId(3), ClientId::try_from("c").expect("an id")),
            Reply::Nobody,
            Reply::Owed(Owed::Will {
                shard: 0,
                id: session::WillId(1),
            }),
            Reply::Member(0, 1),
        ];
        let item = |(n, reply): (u64, Reply)| Item { reply, ..item(n) };
        (0..).zip(replies).map(item).collect()
    }

    #[test]
    fn what_is_owed_to_ended_connections_alone_is_sent_again_as_nothing() {
        let mut stream = Stream::new();
        for item in of_all_kinds() {
            stream.push(item);
        }
        let is_nop = |sent: Sent<Item>| matches!(sent.body, Body::Nop);
        let sent = |stream: &mut Stream, open: &[u64]| -> Vec<bool> {
            let is_open = |id: ConnectionId| open.contains(&id.0);
            let all = std::iter::from_fn(|| stream.poll_sent(is_open));
            all.map(is_nop).collect()
        };
        assert_eq!(sent(&mut stream, &[]), [false; 6], "the first time");

        stream.restart();
        let expected = [false, true, false, false, false, false];
        assert_eq!(sent(&mut stream, &[1]), expected);
        stream.restart();
        let expected = [true, true, false, false, false, false];
        assert_eq!(sent(&mut stream, &[]), expected);
        assert_eq!(stream.withdrawn(), 2);
    }

    #[test]
    fn what_had_no_number_yet_when_the_stream_went_back_goes_as_nothing_too() {
        let mut stream = Stream::new();
        let share = ShareLimits::default().enqueue_bytes;
        let fitting = share / COMMAND_BYTES;
        (0..fitting).for_each(|n| stream.push(item(n)));
        of_all_kinds()
            .into_iter()
            .take(2)
            .for_each(|item| stream.push(item));
        assert_eq!(sent(&mut stream).len() as u64, fitting);
        stream.restart();
        sent(&mut stream);

        for n in 0..fitting {
            stream.handle_answer(n);
        }

        let rest = std::iter::from_fn(|| stream.poll_sent(|id| id.0 == 2));
        let rest: Vec<_> = rest
            .map(|sent| (sent.n, matches!(sent.body, Body::Nop)))
            .collect();
        assert_eq!(rest, [(fitting, true), (fitting + 1, false)]);
        assert_eq!((stream.held_bytes(), stream.withdrawn()), (0, 1));
    }

    #[test]
    fn after_an_error_everything_unanswered_is_sent_again_in_order_once() {
        let mut stream = Stream::new();
        (0..3).for_each(|n| stream.push(item(n)));
        let first = sent(&mut stream);
        assert_eq!(numbers(&first), [0, 1, 2]);
        assert!(stream.handle_answer(0).is_some());

        stream.handle_error(first[1].attempt);
        stream.handle_error(first[2].attempt);

        let again = sent(&mut stream);
        assert_eq!(numbers(&again), [1, 2]);
        assert!(again[0].attempt > first[0].attempt);
        assert_eq!(
            again[0].attempt, again[1].attempt,
            "one error of many counts"
        );
        stream.restart();
        assert_eq!(numbers(&sent(&mut stream)), [1, 2]);
        for n in [1, 2] {
            assert!(stream.handle_answer(n).is_some());
        }
        assert!(stream.is_idle());
    }
}
