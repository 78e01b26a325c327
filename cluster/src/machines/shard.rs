//! The machine of a session shard: the receiving ends of the streams and the sessions behind them.

use std::collections::BTreeSet;

use cluster_core::{
    Admission, Attempt, Body, EpochView, Incarnation, LogTime, NodeEpoch, Receiver, Rising,
    Standing,
};
use defects::Defect;
use mqtt::Templates;
use session::{Answer, Command, Durable, Limits, WallMs};
use storage::state::{Changes, Row};

use crate::stored::row::{damaged, decode_value, encode_value, readable};
use crate::stored::shard_rows::{
    MESSAGE_KIND, NAME, STREAMS_KIND, StreamsRow, decode_row, delete_row, put_row,
};
use crate::stored::wire::Why;
use crate::stored::{ShardEntry, ShardItem};
use crate::{Damaged, Machine};

/// Bounds of a shard; replicated settings, equal on all replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardConfig {
    /// Those of its sessions.
    pub limits: Limits,
    /// The device-owned templates that the cluster was founded with.
    pub templates: Templates,
}

/// What became of an item of a shard's entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is applied, now or before.
    Applied(Answer),
    /// Nothing changed: an item before it is missing, or its sending is over; the sender goes
    /// back.
    Gap {
        /// The number that is wanted.
        next: u64,
    },
    /// Nothing changed: its node's epoch has ended.
    Ended,
}

/// The replicated state of a session shard. Effects wait in [`Durable::poll_effect`].
///
/// One entry carries many commands, so [`Durable`] counts them itself: what it takes for its log
/// index rises by one with each command, whatever index the entry has, and is stored with it.
#[derive(Debug)]
pub struct ShardMachine {
    receiver: Receiver,
    durable: Durable,
    /// What the wall clock showed at the last entry, if one was believed.
    wall: Option<cluster_core::WallMs>,
    is_applied: bool,
    flushed: Flushed,
}

/// Is called after each flush.
struct Flushed(Option<Box<dyn Fn() + Send + Sync>>);

impl std::fmt::Debug for Flushed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flushed").finish_non_exhaustive()
    }
}

impl ShardMachine {
    /// The sessions.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// The sessions, for what is not replicated: effects, deliveries, loaded payloads.
    pub fn durable_mut(&mut self) -> &mut Durable {
        &mut self.durable
    }

    /// Calls this after each flush, under the machine's lock: it must not block, and must not use
    /// the machine. Who waits for payloads to leave memory goes on.
    pub fn on_flushed(&mut self, flushed: impl Fn() + Send + Sync + 'static) {
        self.flushed = Flushed(Some(Box::new(flushed)));
    }

    /// The time of the last entry.
    pub fn time(&self) -> LogTime {
        LogTime {
            time: cluster_core::WallMs(self.durable.time().0),
            wall: self.wall,
        }
    }

    /// The receiving ends of the streams.
    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    fn item(&mut self, time: WallMs, item: &ShardItem) -> Outcome {
        match item {
            ShardItem::Item {
                epoch,
                attempt,
                n,
                body,
            } => self.received(time, (*epoch, *attempt, *n), body),
            ShardItem::Duty(command) => Outcome::Applied(self.command(time, command)),
            ShardItem::Epochs(view) => {
                self.renew_epochs(time, view);
                Outcome::Applied(Answer::Done)
            }
        }
    }

    fn received(
        &mut self,
        time: WallMs,
        (epoch, attempt, n): (NodeEpoch, Attempt, u64),
        body: &Body<Command>,
    ) -> Outcome {
        match (self.receiver.admit(epoch, attempt, n), body) {
            (Admission::New, Body::Item(command)) => Outcome::Applied(self.command(time, command)),
            (Admission::Repeat, Body::Item(command)) if defects::is(Defect::RepeatRecomputed) => {
                Outcome::Applied(self.command(time, command))
            }
            (Admission::Repeat, Body::Item(command)) => {
                Outcome::Applied(self.durable.answer_repeat(command))
            }
            (Admission::New | Admission::Repeat, Body::Nop) => Outcome::Applied(Answer::Done),
            (Admission::Gap { next }, _) => Outcome::Gap { next },
            (Admission::Ended, _) => Outcome::Ended,
        }
    }

    fn command(&mut self, time: WallMs, command: &Command) -> Answer {
        self.durable.apply(self.durable.index() + 1, time, command)
    }

    /// Disconnects the sessions of every node that has ended: had it a stream or does the state
    /// name it.
    fn renew_epochs(&mut self, time: WallMs, view: &EpochView) {
        let streams = self.receiver.renew_epochs(view);
        let mut ended: BTreeSet<NodeEpoch> = streams.into_iter().collect();
        let named = self.durable.node_epochs();
        let named = named.map(|epoch| NodeEpoch(epoch.0));
        let view = self.receiver.epochs();
        ended.extend(named.filter(|epoch| view.standing(*epoch) == Standing::Ended));
        for epoch in ended {
            let node_epoch = session::NodeEpoch(epoch.0);
            self.command(time, &Command::NodeGone { node_epoch });
        }
    }
}

impl Machine for ShardMachine {
    type Config = ShardConfig;
    /// One for each item, in order.
    type Answer = Vec<Outcome>;
    const VERSION: u32 = 1;

    fn restore(
        config: &ShardConfig,
        rows: &mut dyn Iterator<Item = Result<Row, storage::state::Error>>,
    ) -> Result<Self, Damaged> {
        let mut streams = None;
        let mut failed = None;
        let mut last = None;
        let sessions = std::iter::from_fn(|| {
            loop {
                match readable(NAME, rows.next()?).and_then(|row| read(row, &mut streams)) {
                    Ok(Some((stored, row))) => {
                        last = Some(stored);
                        return Some(row);
                    }
                    Ok(None) => {}
                    Err(damaged) => {
                        failed = Some(damaged);
                        return None;
                    }
                }
            }
        });
        let durable = Durable::restore(config.limits, config.templates.clone(), sessions);
        if let Some(damaged) = failed {
            return Err(damaged);
        }
        let durable = durable.map_err(|error| {
            let row = last.expect("without rows nothing contradicts");
            damaged(NAME, &row, &Why::State(error.to_string()))
        })?;
        let streams = streams.unwrap_or_default();
        let wall = streams.wall;
        Ok(Self {
            receiver: Receiver::restore(streams.streams, streams.epochs),
            durable,
            wall,
            is_applied: false,
            flushed: Flushed(None),
        })
    }

    fn apply(&mut self, _index: u64, entry: &[u8]) -> Result<Vec<Outcome>, Damaged> {
        let entry = ShardEntry::decode(entry)?;
        self.wall = entry.time.wall;
        self.is_applied = true;
        let time = WallMs(entry.time.time.0);
        let items = entry.items.iter();
        Ok(items.map(|item| self.item(time, item)).collect())
    }

    /// In the unit of ownership epochs.
    fn reached(&self) -> u64 {
        self.durable.index()
    }

    fn handle_recovered(&mut self, incarnation: Incarnation) {
        let floor = Rising::new(incarnation, 0);
        self.durable.handle_recovered(floor.get());
        self.is_applied = true;
    }

    fn changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        if std::mem::take(&mut self.is_applied) {
            let row = StreamsRow {
                epochs: self.receiver.epochs().clone(),
                streams: self.receiver.streams().collect(),
                wall: self.wall,
            };
            changes.put(STREAMS_KIND, &[], &encode_value(&row));
        }
        for (key, row) in self.durable.take_rows() {
            match row {
                Some(row) => put_row(&row, &mut changes),
                None => delete_row(&key, &mut changes),
            }
        }
        changes
    }

    fn handle_flushed(&mut self) {
        self.durable.handle_flushed();
        if let Some(flushed) = &self.flushed.0 {
            flushed();
        }
    }
}

/// Reads a row of the sessions. That of the streams is kept, one of a message passed over.
fn read(
    row: Row,
    streams: &mut Option<StreamsRow>,
) -> Result<Option<(Row, session::Row)>, Damaged> {
    let decoded = match row.kind {
        MESSAGE_KIND => return Ok(None),
        STREAMS_KIND => decode_value(&row.value).map(|row| {
            *streams = Some(row);
            None
        }),
        _ => decode_row(&row).map(Some),
    };
    match decoded {
        Ok(decoded) => Ok(decoded.map(|decoded| (row, decoded))),
        Err(why) => Err(damaged(NAME, &row, &why)),
    }
}
