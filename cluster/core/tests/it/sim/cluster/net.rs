//! Links between nodes: each direction of each pair may be cut, and loses, repeats, reorders.

use std::collections::{BTreeSet, VecDeque};

use rand::Rng;
use session::{Command, ConnectionId, Delivery, GroupDelivery, Message, Origin, Token};
use std::sync::Arc;
use tidewire_cluster_core::{
    Attempt, Body, Deltas, MetaCommand, NodeEpoch, Renewal, RenewalId, RoutesAnswer, ShardId,
    Source,
};

use super::super::ctx::Ctx;
use super::super::machine::Outcome;

/// What goes from node to node.
#[derive(Clone, Debug)]
pub(crate) enum Letter {
    /// An item of a node's stream to a shard, for its leader.
    Item {
        shard: usize,
        epoch: NodeEpoch,
        attempt: Attempt,
        n: u64,
        body: Body<Command>,
    },
    /// It is not proposed.
    Refused {
        shard: usize,
        to: NodeEpoch,
        attempt: Attempt,
    },
    /// What became of it.
    Answered {
        shard: usize,
        to: NodeEpoch,
        attempt: Attempt,
        n: u64,
        outcome: Outcome,
    },
    /// An item of a node's stream to another node.
    Peer {
        from: NodeEpoch,
        to: NodeEpoch,
        attempt: Attempt,
        n: u64,
        body: Body<PeerItem>,
    },
    /// It was taken, or one before it is missing.
    PeerAnswered {
        from: NodeEpoch,
        to: NodeEpoch,
        attempt: Attempt,
        n: u64,
        is_taken: bool,
    },
    /// Whether groups have the members that a SUBSCRIBE made, for the leader of its shard.
    AskSeated {
        shard: usize,
        epoch: NodeEpoch,
        id: ConnectionId,
        token: Token,
        command: Command,
    },
    Seated {
        to: NodeEpoch,
        id: ConnectionId,
        token: Token,
    },
    Ping(Ping),
    Renew(Renewal),
    Granted {
        epoch: NodeEpoch,
        id: RenewalId,
        meta_seen: u64,
    },
    /// For meta's leader.
    Meta(MetaCommand),
    /// For the leader of the routes.
    Routes(Deltas),
    RoutesAnswered {
        source: Source,
        answer: RoutesAnswer,
    },
}

/// For the connections of another node.
#[derive(Clone, Debug)]
pub(crate) enum PeerItem {
    Delivery(Delivery),
    Shared(GroupDelivery),
    TakenOver(ConnectionId),
    /// For its clean sessions: whose obligation it is.
    Message(Arc<Message>, Option<Origin>, u64),
}

#[derive(Clone, Debug)]
pub(crate) struct Ping {
    pub(crate) epoch: NodeEpoch,
    pub(crate) meta_applied: u64,
    pub(crate) routes_applied: u64,
    /// Shards led there, with the term and how far they are applied.
    pub(crate) leads: Vec<(usize, u64)>,
    pub(crate) applied: Vec<(ShardId, u64)>,
}

pub(crate) struct Net {
    nodes: usize,
    cut: BTreeSet<(usize, usize)>,
    asleep: BTreeSet<usize>,
    queues: Vec<VecDeque<Letter>>,
}

/// Letters that wait on a direction; the oldest are lost beyond, as with a link that breaks.
const LETTERS_MAX: usize = 2_000;

impl Net {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            nodes,
            cut: BTreeSet::new(),
            asleep: BTreeSet::new(),
            queues: std::iter::repeat_with(VecDeque::new)
                .take(nodes * nodes)
                .collect(),
        }
    }

    /// Whether the direction works, both ends do, and they are two.
    pub(crate) fn reaches(&self, from: usize, to: usize) -> bool {
        from != to && self.is_awake(from) && self.is_awake(to) && !self.cut.contains(&(from, to))
    }

    /// Whether a node runs, and is not stopped.
    pub(crate) fn is_awake(&self, at: usize) -> bool {
        !self.asleep.contains(&at)
    }

    pub(crate) fn sleep(&mut self, at: usize) {
        self.asleep.insert(at);
    }

    pub(crate) fn wake(&mut self, at: usize) {
        self.asleep.remove(&at);
    }

    /// The direction fails, and what is on it with it.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        if from != to {
            self.cut.insert((from, to));
            self.queues[from * self.nodes + to].clear();
        }
    }

    pub(crate) fn mend(&mut self) {
        self.cut.clear();
    }

    /// A process ends: what it was sent is lost, what it has sent may arrive.
    pub(crate) fn lose(&mut self, to: usize) {
        for from in 0..self.nodes {
            self.queues[from * self.nodes + to].clear();
        }
    }

    pub(crate) fn send(&mut self, from: usize, to: usize, letter: Letter) {
        if self.cut.contains(&(from, to)) {
            return;
        }
        let queue = &mut self.queues[from * self.nodes + to];
        if queue.len() >= LETTERS_MAX {
            queue.pop_front();
        }
        queue.push_back(letter);
    }

    /// The next letter for a node, by one of its links.
    pub(crate) fn receive(&mut self, to: usize, ctx: &mut Ctx) -> Option<(usize, Letter)> {
        let with_mail = |from: &usize| !self.queues[from * self.nodes + to].is_empty();
        let froms: Vec<usize> = (0..self.nodes).filter(with_mail).collect();
        if froms.is_empty() {
            return None;
        }
        let from = froms[ctx.rng.random_range(0..froms.len())];
        let queue = &mut self.queues[from * self.nodes + to];
        if ctx.fails(30) {
            // The last one comes first.
            queue.rotate_right(1);
        }
        let letter = queue.pop_front()?;
        if ctx.fails(40) {
            queue.push_back(letter.clone());
        }
        (!ctx.fails(80)).then_some((from, letter))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }
}
