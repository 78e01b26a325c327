//! A machine with its state file in memory, which crashes when it is told to.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage::fs::FaultFs;
use storage::raft::LogId;
use storage::state::{Applied, Changes, Config, Error, Row, StateFile};

use crate::stored::arbitrary::harmed;
use crate::{Damaged, Machine};

pub(super) struct Kept<M: Machine> {
    config: M::Config,
    file: StateFile,
    pub(super) machine: M,
    /// Entries and what they answered; the first has index 1.
    log: Vec<(Vec<u8>, String)>,
    flushed: usize,
    /// Changes that are on their way to the disk, and up to which entry.
    pending: Option<(Changes, usize)>,
}

impl<M: Machine> Kept<M> {
    pub(super) fn new(config: M::Config) -> Self {
        let machine = restored(&config, Vec::new()).unwrap();
        Self {
            file: state_file(),
            machine,
            config,
            log: Vec::new(),
            flushed: 0,
            pending: None,
        }
    }

    /// Applies an entry; returns what it answered, as text.
    pub(super) fn apply(&mut self, entry: &[u8]) -> String {
        let index = self.log.len() as u64 + 1;
        let answer = format!("{:?}", self.machine.apply(index, entry).unwrap());
        self.log.push((entry.to_vec(), answer.clone()));
        answer
    }

    /// Writes what changed, in one go.
    pub(super) fn flush(&mut self) {
        self.begin_flush();
        self.finish_flush();
    }

    /// Takes what changed; nothing of it is stored yet.
    fn begin_flush(&mut self) {
        assert!(self.pending.is_none(), "one flush at a time");
        self.pending = Some((self.machine.changes(), self.log.len()));
    }

    fn finish_flush(&mut self) {
        let Some((changes, entries)) = self.pending.take() else {
            return;
        };
        apply(&self.file, &changes, entries);
        self.flushed = entries;
        self.machine.handle_flushed();
    }

    /// Starts again from the rows of the last flush and the entries behind it, which answer as
    /// they did.
    pub(super) fn crash(&mut self) {
        self.pending = None;
        self.machine = restored(&self.config, self.rows()).unwrap();
        for (at, (entry, answer)) in self.log.iter().enumerate().skip(self.flushed) {
            let again = self.machine.apply(at as u64 + 1, entry).unwrap();
            assert_eq!(&format!("{again:?}"), answer, "entry {at} answers anew");
        }
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        let rows = self.file.snapshot().unwrap().rows().unwrap();
        rows.map(Result::unwrap).collect()
    }

    pub(super) fn value(&self, kind: u8, key: &[u8]) -> Option<Bytes> {
        self.file.get(kind, key).unwrap()
    }
}

/// Two machines, of which one is flushed and crashes now and then, answer and end alike.
///
/// `entry` makes the next entry, told how many there were; `between` does to the one that crashes
/// what no entry may depend on.
pub(super) fn crashes_change_nothing<M: Machine>(
    config: &M::Config,
    seed: u64,
    mut entry: impl FnMut(&mut StdRng, usize, &M) -> Vec<u8>,
    mut between: impl FnMut(&mut StdRng, &mut Kept<M>),
) -> (Kept<M>, Kept<M>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut crashing = Kept::<M>::new(config.clone());
    let mut spared = Kept::<M>::new(config.clone());
    for count in 0..rng.random_range(20..300) {
        let entry = entry(&mut rng, count, &spared.machine);
        assert_eq!(crashing.apply(&entry), spared.apply(&entry), "seed {seed}");
        between(&mut rng, &mut crashing);
        if rng.random_ratio(1, 4) {
            match crashing.pending {
                Some(_) => crashing.finish_flush(),
                None => crashing.begin_flush(),
            }
        }
        if rng.random_ratio(1, 16) {
            crashing.crash();
        }
    }
    crashing.finish_flush();
    crashing.flush();
    spared.flush();
    let (one, other) = (crashing.rows(), spared.rows());
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one, other, "seed {seed}");
    }
    assert_eq!(one.len(), other.len(), "seed {seed}");
    (crashing, spared)
}

pub(super) fn restored<M: Machine>(config: &M::Config, rows: Vec<Row>) -> Result<M, Damaged> {
    M::restore(config, &mut rows.into_iter().map(Ok::<_, Error>))
}

/// Restores rows of which one is harmed: no panic, and no row is refused without its name.
pub(super) fn harmed_rows_are_named<M: Machine>(config: &M::Config, rows: &[Row], seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut refused = 0;
    for _ in 0..400 {
        let mut rows = rows.to_vec();
        let at = rng.random_range(0..rows.len());
        let row = &mut rows[at];
        let harms: Vec<(u16, u8, u8)> = (0..rng.random_range(1..3)).map(|_| rng.random()).collect();
        match rng.random_range(0..6) {
            0 => row.kind = rng.random(),
            1 => row.key = harmed(row.key.to_vec(), &harms).into(),
            _ => row.value = harmed(row.value.to_vec(), &harms).into(),
        }
        if let Err(error) = restored::<M>(config, rows) {
            assert!(error.what.starts_with("row "), "{error}");
            refused += 1;
        }
    }
    assert!(refused > 0, "no harm was noticed");
}

fn state_file() -> StateFile {
    let fs = Arc::new(FaultFs::new(1));
    StateFile::open(fs, Path::new("/state/shard.redb"), Config::new(1)).unwrap()
}

fn apply(file: &StateFile, changes: &Changes, index: usize) {
    let id = LogId {
        index: index as u64,
        term: 1,
        leader: 0,
    };
    if file.applied().is_some_and(|applied| applied.id == id) {
        assert!(changes.is_empty(), "changes without an entry");
        return;
    }
    let opaque = Bytes::new();
    file.apply(changes, &Applied { id, opaque }).unwrap();
}
