//! Buckets that have changed hands, or are about to, and which of their rows are dead.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::Error;
use super::manifest::{BucketV1, Change, Manifest};
use super::segment::Segment;
use super::store::Tsdb;

/// Is how a bucket stands in a store that has given it away, or has taken it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketMark {
    /// What has become of the bucket.
    pub standing: Standing,
    /// The bucket's epoch under which that is so. Nothing that is older counts any more.
    pub epoch: u64,
}

/// Says what has become of a bucket in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its rows are here, sealed, and no more come before a later epoch gives it to this store again.
    Frozen,
    /// Its rows are here, copied from another store, and count once a later epoch gives it to this
    /// one.
    Adopted,
    /// Its rows are not here, or are not yet.
    Dropped,
}

impl Standing {
    const ALL: [(Self, u8); 3] = [(Self::Frozen, 1), (Self::Adopted, 2), (Self::Dropped, 3)];

    fn number(self) -> u8 {
        let own = Self::ALL.iter().find(|(standing, _)| *standing == self);
        own.expect("all are listed").1
    }

    fn from_number(number: u8) -> Option<Self> {
        let own = Self::ALL.iter().find(|(_, of)| *of == number);
        own.map(|(standing, _)| *standing)
    }
}

/// By bucket, the last segment in which its rows are dead.
type Dead = BTreeMap<u16, u64>;

/// Holds the marks of a store; cloning is cheap.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    by_bucket: Arc<BTreeMap<u16, BucketMark>>,
    dead: Arc<Dead>,
}

impl Marks {
    pub(super) fn read(manifest: &Manifest) -> Result<Self, Error> {
        let (mut by_bucket, mut dead) = (BTreeMap::new(), Dead::new());
        for (bucket, row) in manifest.buckets()? {
            let standing = Standing::from_number(row.standing).ok_or_else(|| {
                manifest.damaged(format!("bucket {bucket} stands as {}", row.standing))
            })?;
            let epoch = row.epoch;
            by_bucket.insert(bucket, BucketMark { standing, epoch });
            if row.dead_upto > 0 {
                dead.insert(bucket, row.dead_upto);
            }
        }
        Ok(Self {
            by_bucket: Arc::new(by_bucket),
            dead: Arc::new(dead),
        })
    }

    pub(super) fn get(&self, bucket: u16) -> Option<BucketMark> {
        self.by_bucket.get(&bucket).copied()
    }

    pub(super) fn set(&mut self, bucket: u16, mark: BucketMark) {
        Arc::make_mut(&mut self.by_bucket).insert(bucket, mark);
    }

    /// The rows of a bucket in segments up to this one are dead.
    fn kill(&mut self, bucket: u16, upto: u64) {
        Arc::make_mut(&mut self.dead).insert(bucket, upto);
    }

    /// The last segment in which rows are dead, 0 without any.
    pub(super) fn last_dead(&self) -> u64 {
        self.dead.values().copied().max().unwrap_or(0)
    }

    /// Forgets the dead of which no segment is left; which buckets' they were.
    pub(super) fn bury(&mut self, live: impl Iterator<Item = u64>) -> Vec<u16> {
        let oldest = live.min().unwrap_or(u64::MAX);
        let gone = self.dead.iter().filter(|(_, upto)| **upto < oldest);
        let gone: Vec<u16> = gone.map(|(bucket, _)| *bucket).collect();
        if !gone.is_empty() {
            Arc::make_mut(&mut self.dead).retain(|_, upto| *upto >= oldest);
        }
        gone
    }

    /// The rows of the manifest for these buckets.
    pub(super) fn rows(&self, buckets: impl Iterator<Item = u16>) -> Vec<(u16, BucketV1)> {
        let row = |bucket| {
            let BucketMark { standing, epoch } = self.get(bucket)?;
            let row = BucketV1 {
                standing: standing.number(),
                epoch,
                dead_upto: self.dead.get(&bucket).copied().unwrap_or(0),
            };
            Some((bucket, row))
        };
        buckets.filter_map(row).collect()
    }
}

/// Is the sealed part of a store at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    live: Arc<Vec<Arc<Segment>>>,
    dead: Arc<Dead>,
}

impl Sealed {
    pub(super) fn new(live: &Arc<Vec<Arc<Segment>>>, marks: &Marks) -> Self {
        Self {
            live: Arc::clone(live),
            dead: Arc::clone(&marks.dead),
        }
    }

    /// All segments, oldest data first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.live.iter()
    }

    /// The segments in which rows of a bucket live, if there are any in them.
    pub(super) fn of(&self, bucket: u16) -> impl Iterator<Item = &Arc<Segment>> {
        let lives = move |segment: &&Arc<Segment>| !self.is_dead(bucket, segment);
        self.live.iter().filter(lives)
    }

    /// Whether the rows of a bucket in a segment are dead.
    pub(super) fn is_dead(&self, bucket: u16, segment: &Segment) -> bool {
        let upto = self.dead.get(&bucket);
        upto.is_some_and(|upto| segment.about.id <= *upto)
    }

    /// Whether no row has died since.
    pub(super) fn has_dead_of(&self, marks: &Marks) -> bool {
        Arc::ptr_eq(&self.dead, &marks.dead)
    }
}

impl Tsdb {
    /// How a bucket stands; `None` for one that never changed hands.
    #[must_use]
    pub fn mark(&self, bucket: u16) -> Option<BucketMark> {
        self.shared.state().marks.get(bucket)
    }

    /// How buckets stand that have changed hands.
    #[must_use]
    pub fn marks(&self) -> Arc<BTreeMap<u16, BucketMark>> {
        Arc::clone(&self.shared.state().marks.by_bucket)
    }

    /// Drops what the store holds of a bucket that another store has from this epoch on: its rows are
    /// read no more, merges leave them out, and its replay offsets are deleted. Durable when it
    /// returns. Blocks on the disk.
    ///
    /// # Errors
    /// What became durable is unknown; end the process. A start finds either all of it or nothing.
    ///
    /// # Panics
    /// When rows of the bucket are not sealed: who drops it has taken none since it was frozen.
    pub fn drop_bucket(&self, bucket: u16, epoch: u64) -> Result<(), Error> {
        let shared = &self.shared;
        shared.with_manifest(|manifest| {
            let (sealed, mut marks) = {
                let state = shared.state();
                let heads = [state.sealing.as_deref(), Some(&state.active)];
                let mut unsealed = heads.into_iter().flatten().flat_map(telemetry::Head::iter);
                assert!(
                    !unsealed.any(|(of, _, _)| of == bucket),
                    "bucket {bucket} goes with all of its rows"
                );
                (state.sealed(), state.marks.clone())
            };
            let segments = sealed.of(bucket);
            let mut blocks = segments.flat_map(|segment| segment.entries_from(bucket, None));
            // A merge that is under way may hold them under a later number: it is not taken.
            if blocks.next().transpose()?.is_some() {
                marks.kill(bucket, shared.last_id());
            }
            let standing = Standing::Dropped;
            marks.set(bucket, BucketMark { standing, epoch });
            let change = Change {
                forget: Some(bucket),
                buckets: &marks.rows(std::iter::once(bucket)),
                ..Change::default()
            };
            manifest.commit(&change)?;
            shared.state().marks = marks;
            shared.forget_newest();
            Ok(())
        })
    }
}
