//! What the store's writer and those who pull records of other nodes share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use storage::log::StoredRecord;
use tokio::sync::{mpsc, watch};

use crate::log::{LogId, Position};

/// Answers with records that wait for the writer; those who pull wait then, each with one more.
const ANSWERS_MAX: usize = 4;

/// Where partitions of a log are read from.
pub(crate) type Places = BTreeMap<u16, Position>;

/// Is what one answer brought.
#[derive(Debug)]
pub(crate) struct Batch {
    /// For which run of the writer.
    run: u64,
    pub(crate) log: LogId,
    pub(crate) incarnation: u64,
    pub(crate) records: Vec<StoredRecord>,
}

/// Carries records from those who pull to the writer, and back how far they are sealed.
///
/// A writer that begins anew reads from the store's offsets again; what was pulled for the run
/// before is dropped.
#[derive(Debug)]
pub(crate) struct Pulls {
    state: Mutex<State>,
    /// The run of the writer; 0 before the first.
    run: watch::Sender<u64>,
    send: mpsc::Sender<Batch>,
    receive: Mutex<mpsc::Receiver<Batch>>,
}

#[derive(Debug, Default)]
struct State {
    starts: BTreeMap<LogId, Places>,
    sealed: BTreeMap<LogId, Places>,
    /// The buckets whose records the writer takes.
    taken: BTreeSet<u16>,
}

impl Pulls {
    pub(crate) fn new() -> Self {
        let (send, receive) = mpsc::channel(ANSWERS_MAX);
        Self {
            state: Mutex::default(),
            run: watch::Sender::new(0),
            send,
            receive: Mutex::new(receive),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer begins at the store's offsets.
    pub(crate) fn begin(&self, offsets: BTreeMap<LogId, Places>) {
        let mut state = self.state();
        state.starts.clone_from(&offsets);
        state.sealed = offsets;
        self.run.send_modify(|run| *run += 1);
    }

    /// The writer takes records of these buckets from now on.
    pub(crate) fn set_taken(&self, buckets: &BTreeSet<u16>) {
        self.state().taken.clone_from(buckets);
    }

    /// Whether the writer takes records of a bucket.
    pub(crate) fn takes(&self, bucket: u16) -> bool {
        self.state().taken.contains(&bucket)
    }

    /// The store has everything before these offsets, durably.
    pub(crate) fn note_sealed(&self, log: LogId, partition: u16, position: Position) {
        let mut state = self.state();
        let places = state.sealed.entry(log).or_default();
        places.insert(partition, position);
    }

    /// The writer's run, to be watched.
    pub(crate) fn run(&self) -> watch::Receiver<u64> {
        self.run.subscribe()
    }

    /// The run, and where it begins to read a log.
    pub(crate) fn starts(&self, log: LogId) -> (u64, Places) {
        let state = self.state();
        let starts = state.starts.get(&log).cloned();
        (*self.run.borrow(), starts.unwrap_or_default())
    }

    /// How far the store has a log durably.
    pub(crate) fn sealed(&self, log: LogId) -> Places {
        self.state().sealed.get(&log).cloned().unwrap_or_default()
    }

    /// Hands records to the writer; waits while it has enough. False once there is no writer.
    pub(crate) async fn give(
        &self,
        run: u64,
        log: LogId,
        incarnation: u64,
        records: Vec<StoredRecord>,
    ) -> bool {
        let batch = Batch {
            run,
            log,
            incarnation,
            records,
        };
        self.send.send(batch).await.is_ok()
    }

    /// The next answer for the present run, if one waits.
    pub(crate) fn next(&self) -> Option<Batch> {
        let run = *self.run.borrow();
        let mut receive = self.receive.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let batch = receive.try_recv().ok()?;
            if batch.run == run {
                return Some(batch);
            }
        }
    }
}
