//! A shard's state machine: the receiving ends of the streams and the sessions behind them.

use std::collections::BTreeMap;

use session::{
    Answer, Close, Command, ConnectionId, Durable, Epoch, Identity, Limits, Open, WillFate,
};
use tidewire_cluster_core::{Admission, Attempt, Body, LogTime, NodeEpoch, Receiver};

use super::ctx::Ctx;
use super::defect::Defect;
use super::disk::{ShardEntry, ShardWhat};

/// Indexes for sessions that one entry uses: the end of several epochs is several commands.
pub(crate) const INDEXES_PER_ENTRY: u64 = 16;
/// Answers that are remembered for each node epoch.
///
/// Stands for what the rows of `Durable` are to remember by themselves (`answer_repeat`): an
/// answer is looked for only while its item is unconfirmed, and so few are.
const REMEMBERED_MAX: u64 = 4_096;

/// What became of an entry, for its proposer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Applied(Answer),
    Gap,
    Ended,
}

pub(crate) struct Machine {
    defect: Defect,
    pub(crate) receiver: Receiver,
    pub(crate) durable: Durable,
    /// The time of the last entry.
    pub(crate) time: LogTime,
    remembered: BTreeMap<(NodeEpoch, u64), Answer>,
    /// Next numbers as a machine without gap refusal, or one that knows no ended epochs, has them.
    careless: BTreeMap<NodeEpoch, u64>,
    renumbered: u64,
    /// For the checkers: whether the last item was taken as a new one.
    pub(crate) took_new: bool,
}

impl Machine {
    pub(crate) fn new(ctx: &Ctx) -> Self {
        Self {
            defect: ctx.defect,
            receiver: Receiver::default(),
            durable: Durable::with_templates(Limits::default(), ctx.templates.clone()),
            time: LogTime::default(),
            remembered: BTreeMap::new(),
            careless: BTreeMap::new(),
            renumbered: 1_000_000,
            took_new: false,
        }
    }

    /// Applies the entry at `position`, from 1.
    pub(crate) fn apply(&mut self, position: usize, entry: &ShardEntry) -> Outcome {
        let index = position as u64 * INDEXES_PER_ENTRY;
        let time = session::WallMs(entry.time.time.0);
        self.time = entry.time;
        match &entry.what {
            ShardWhat::Item {
                epoch,
                attempt,
                n,
                body,
            } => {
                let admission = self.admit(*epoch, *attempt, *n);
                self.item(index, time, (*epoch, *n), admission, body)
            }
            ShardWhat::Duty(command) => Outcome::Applied(self.duty(index, time, command)),
            ShardWhat::Epochs(view) => {
                let ended = self.receiver.renew_epochs(view);
                for (at, epoch) in ended.into_iter().enumerate() {
                    self.remembered.retain(|(of, _), _| *of != epoch);
                    let node_epoch = session::NodeEpoch(epoch.0);
                    let gone = Command::NodeGone { node_epoch };
                    self.durable.apply(index + at as u64, time, &gone);
                }
                Outcome::Applied(Answer::Done)
            }
        }
    }

    fn item(
        &mut self,
        index: u64,
        time: session::WallMs,
        (epoch, n): (NodeEpoch, u64),
        admission: Admission,
        body: &Body<Command>,
    ) -> Outcome {
        self.took_new = admission == Admission::New;
        match admission {
            Admission::New => {
                let answer = match body {
                    Body::Item(command) => self.command(index, time, command),
                    Body::Nop => Answer::Done,
                };
                self.remembered.insert((epoch, n), answer.clone());
                self.remembered
                    .remove(&(epoch, n.wrapping_sub(REMEMBERED_MAX)));
                Outcome::Applied(answer)
            }
            Admission::Repeat => Outcome::Applied(self.repeat(index, time, epoch, n, body)),
            Admission::Gap { .. } => Outcome::Gap,
            Admission::Ended => Outcome::Ended,
        }
    }

    fn admit(&mut self, epoch: NodeEpoch, attempt: Attempt, n: u64) -> Admission {
        let attempt = match self.defect {
            Defect::AttemptsMixed => Attempt(0),
            _ => attempt,
        };
        let by_rule = self.receiver.admit(epoch, attempt, n);
        let next = self.careless.entry(epoch).or_default();
        let takes = match (self.defect, by_rule) {
            (Defect::NoGapRefusal, Admission::New | Admission::Repeat | Admission::Gap { .. }) => {
                n >= *next
            }
            (Defect::EndedEpochServed, Admission::Ended) => n == *next,
            _ => {
                if by_rule == Admission::New {
                    *next = n + 1;
                }
                return by_rule;
            }
        };
        if !takes {
            return if self.defect == Defect::NoGapRefusal {
                Admission::Repeat
            } else {
                by_rule
            };
        }
        *next = n + 1;
        Admission::New
    }

    fn repeat(
        &mut self,
        index: u64,
        time: session::WallMs,
        epoch: NodeEpoch,
        n: u64,
        body: &Body<Command>,
    ) -> Answer {
        let remembered = self.remembered.get(&(epoch, n)).cloned();
        let remembered = remembered.unwrap_or(Answer::Done);
        match (self.defect, body) {
            (Defect::RepeatRecomputed, Body::Item(command)) => {
                let answer = self.durable.apply(index, time, command);
                if !matches!(answer, Answer::Q2In { .. }) {
                    return answer;
                }
                self.renumbered += 1;
                Answer::Q2In {
                    n: self.renumbered,
                    floor: 0,
                }
            }
            _ => remembered,
        }
    }

    fn command(&mut self, index: u64, time: session::WallMs, command: &Command) -> Answer {
        let Command::Open(open) = command else {
            return self.durable.apply(index, time, command);
        };
        let mut open = open.clone();
        if self.defect == Defect::OpenWithoutExpectedEpoch {
            open.expected_epoch = self.durable.epoch(&open.client);
        }
        let answer = self.durable.apply(index, time, &Command::Open(open));
        match answer {
            Answer::Opened {
                epoch,
                session_present,
                ..
            } if self.defect == Defect::EpochsRestart => Answer::Opened {
                epoch,
                incarnation: Epoch(1),
                session_present,
            },
            answer => answer,
        }
    }

    fn duty(&mut self, index: u64, time: session::WallMs, command: &Command) -> Answer {
        if let (Defect::ExpireWithoutEpoch, Command::Expire { client, .. }) = (self.defect, command)
            && let Some(current) = self.durable.epoch(client)
        {
            // Whoever owns it: the session is replaced by nothing.
            let open = Open {
                client: client.clone(),
                identity: Identity(client.text().clone()),
                expected_epoch: Some(current),
                node_epoch: session::NodeEpoch(u64::MAX),
                connection: ConnectionId(u64::MAX),
                clean_start: true,
                persistent: false,
                expiry_s: 0,
                receive_maximum: 1,
                will: None,
            };
            self.durable
                .apply(index, time, &Command::Open(Box::new(open)));
            let close = Close {
                client: client.clone(),
                epoch: Epoch(index),
                will: WillFate::Keep,
                expiry_s: None,
            };
            return self.durable.apply(index + 1, time, &Command::Close(close));
        }
        self.durable.apply(index, time, command)
    }
}
