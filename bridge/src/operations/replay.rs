//! Dead letters on their way through the line once more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use admin::bridge::{LETTERS_MAX, Replay, Replayed};
use tokio::sync::watch;

use super::letters::{Found, Letter};
use super::{OperationError, asked};
use crate::ingest::{Batch, Ingest, OutletId, RefusedReason};
use crate::line::Telemetry;
use crate::log::{Outcome, Port, PortId, Ticket};
use crate::stream::Outlet;

/// Longest wait for room, and then for all of a replay to be durable.
const SETTLE_WAIT: Duration = Duration::from_secs(10);

/// Holds what replays of a line have in common.
#[derive(Debug)]
pub(crate) struct Replays {
    /// Held by whoever reads letters: one at a time.
    pub(super) reading: Arc<tokio::sync::Mutex<()>>,
    /// Held by a replay to its end.
    replaying: tokio::sync::Mutex<()>,
    outlets: Vec<Outlet>,
    port: PortId,
    settling: Arc<Settling>,
}

/// Counts what became of the letters of the replay that is under way.
#[derive(Debug)]
struct Settling {
    run: Mutex<Run>,
    moved: watch::Sender<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Run {
    /// Its number: tickets of an earlier one that gave up waiting may still come.
    number: u64,
    durable: u64,
    not_durable: u64,
}

impl Settling {
    fn run(&self) -> Run {
        *self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> u64 {
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        let number = run.number + 1;
        *run = Run {
            number,
            ..Run::default()
        };
        number
    }
}

impl Port for Settling {
    fn settled(&self, outcome: Outcome, tickets: Vec<Ticket>) {
        {
            let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
            let number = run.number;
            let ours = tickets.iter().filter(|ticket| ticket.words[0] == number);
            let count = ours.count() as u64;
            match outcome {
                Outcome::Durable => run.durable += count,
                Outcome::NotDurable => run.not_durable += count,
            }
        }
        self.moved.send_replace(());
    }
}

impl Replays {
    pub(crate) fn new(ingest: &Ingest, outlets: &[Outlet]) -> Self {
        let settling = Arc::new(Settling {
            run: Mutex::new(Run::default()),
            moved: watch::Sender::new(()),
        });
        Self {
            reading: Arc::default(),
            replaying: tokio::sync::Mutex::default(),
            outlets: outlets.to_vec(),
            port: ingest.port(Arc::clone(&settling) as Arc<dyn Port>),
            settling,
        }
    }

    /// Finds where a letter's message goes.
    fn outlet_of(&self, letter: &Letter) -> Result<OutletId, String> {
        let key = letter.record.key.len();
        if key > usize::from(u16::MAX) {
            return Err(format!("{}: a device id of {key} bytes", letter.id));
        }
        let Some(topic) = &letter.topic else {
            // The embedded log is the only one.
            return Ok(OutletId(0));
        };
        let place = self.outlets.iter().position(|one| one.topic == *topic);
        place.map(|place| OutletId(place as u16)).ok_or_else(|| {
            let id = letter.id;
            format!("{id}: no stream goes to topic {topic} any more")
        })
    }
}

impl Telemetry {
    /// Sends the messages of dead letters again, with their devices and times of receipt, oldest
    /// first, and waits up to some seconds until they are durable as their streams' modes demand.
    /// The letters stay where they are; a message that fails again makes a new one.
    ///
    /// # Errors
    /// [`OperationError`]; nothing was sent.
    pub async fn replay(&self, asked_for: &Replay) -> Result<Replayed, OperationError> {
        let replays = &self.replays;
        let Ok(_one) = replays.replaying.try_lock() else {
            return Err(OperationError::Busy);
        };
        let turn = Arc::clone(&replays.reading).lock_owned();
        match asked_for {
            Replay::Letter { id } => {
                let letter = self.letter(id, turn.await).await?;
                let outlet = replays.outlet_of(&letter);
                let outlet = outlet.map_err(OperationError::Unsendable)?;
                let answer = Replayed::default();
                Ok(self.send(vec![(outlet, letter)], answer).await)
            }
            Replay::Reason {
                reason,
                limit,
                after,
            } => {
                let limit = limit.unwrap_or(LETTERS_MAX);
                let newest = asked(limit, Some(reason), after.as_deref())?;
                let found = self.collect(newest, turn.await).await?;
                let (sendable, answer) = self.sort_out(found);
                let mut answer = self.send(sendable, answer).await;
                if answer.unsettled > 0 {
                    // A second time is a duplicate at most.
                    answer.remaining += answer.unsettled;
                    answer.next.clone_from(after);
                }
                Ok(answer)
            }
        }
    }

    fn sort_out(&self, found: Found) -> (Vec<(OutletId, Letter)>, Replayed) {
        let mut answer = Replayed {
            remaining: found.remaining,
            next: found.next.map(|next| next.to_string()),
            partial: found.partial,
            ..Replayed::default()
        };
        let mut sendable = Vec::new();
        for letter in found.letters.into_iter().rev() {
            match self.replays.outlet_of(&letter) {
                Ok(outlet) => sendable.push((outlet, letter)),
                Err(refusal) => {
                    answer.refused += 1;
                    answer.refusal.get_or_insert(refusal);
                }
            }
        }
        (sendable, answer)
    }

    async fn send(&self, letters: Vec<(OutletId, Letter)>, mut answer: Replayed) -> Replayed {
        let replays = &self.replays;
        let count = letters.len() as u64;
        let number = replays.settling.begin();
        let ticket = Ticket {
            kind: 0,
            words: [number, 0],
        };
        let mut moved = replays.settling.moved.subscribe();
        let mut batches: BTreeMap<OutletId, Batch> = BTreeMap::new();
        for (outlet, letter) in letters {
            let batch = || self.ingest.batch(outlet, replays.port);
            let mut record = letter.record;
            record.retransmit = true;
            let batch = batches.entry(outlet).or_insert_with(batch);
            batch.push_again(record, ticket);
        }
        let settle = async {
            for (outlet, batch) in batches {
                if !self.submit(outlet, batch).await {
                    return;
                }
            }
            let is_open = || {
                let run = replays.settling.run();
                run.durable + run.not_durable < count
            };
            // The sender lives as long as `self`.
            while is_open() && moved.changed().await.is_ok() {}
        };
        // Who waits in vain says so by what it has counted.
        let in_time = tokio::time::timeout(SETTLE_WAIT, settle).await;
        tracing::info!(count, in_time = in_time.is_ok(), "replayed dead letters");
        answer.replayed = replays.settling.run().durable;
        answer.unsettled = count - answer.replayed;
        answer
    }

    /// Submits a batch as soon as there is room; false when nothing is taken any more.
    async fn submit(&self, outlet: OutletId, mut batch: Batch) -> bool {
        loop {
            match self.ingest.submit(batch) {
                Ok(()) => return true,
                Err(refused) if refused.reason == RefusedReason::Stopped => return false,
                Err(refused) => batch = refused.batch,
            }
            let (ready, is_ready) = tokio::sync::oneshot::channel();
            let ready = move || {
                if ready.send(()).is_err() {
                    tracing::debug!("the replay has given up waiting for room");
                }
            };
            self.ingest
                .notify_ready(outlet, batch.bytes(), Box::new(ready));
            if is_ready.await.is_err() {
                return false;
            }
        }
    }
}
