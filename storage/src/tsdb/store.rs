//! The store as its writer sees it: open, insert, seal.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use telemetry::query::{SourceRow, merge_rows};
use telemetry::{DeviceId, Head, Merge, MetricName, Row, Stamp};

use super::cache::Cache;
use super::error::Error;
use super::manifest::{self, Change, Manifest, ReplayOffset, SegmentV1, StoreV1};
use super::marks::{BucketMark, Marks, Sealed, Standing};
use super::output::Output;
use super::segment::{BlockEntry, Segment, is_file_name};
use crate::fs::{FolderLock, Fs, LOCK_FILE};

/// Is the configuration of a hot store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Number of buckets; fixed when the folder is created.
    pub buckets: u16,
    /// Rows of a merged block, at least 1.
    pub block_rows: usize,
    /// Segments of one level that are merged into one of the next, at least 2.
    pub merge_fan_in: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            buckets: 64,
            block_rows: 120,
            merge_fan_in: 4,
        }
    }
}

/// Sabotage: what a test leaves out to see that its checks bite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defects {
    /// Commits a segment to the manifest whose bytes were never synced.
    pub commit_before_sync: bool,
    /// Takes rows that are sealed already as new ones.
    pub insert_without_lookup: bool,
    /// Commits replay offsets apart from, and before, the segment that they cover.
    pub offsets_before_segment: bool,
}

/// Index pages held in memory, in bytes.
const PAGE_CACHE_BYTES: usize = 32 << 20;
/// Decoded blocks held in memory, in bytes.
const BLOCK_CACHE_BYTES: usize = 16 << 20;
/// Devices whose newest sealed time is remembered; beyond it the memory starts anew.
const NEWEST_DEVICES_MAX: usize = 1 << 20;
/// Rows of one block of a sealed head.
const SEAL_BLOCK_ROWS: usize = 1024;

/// Is the hot store of a node. Cloning gives another handle on the same store.
#[derive(Clone, Debug)]
pub struct Tsdb {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) folder: PathBuf,
    pub(super) config: Config,
    pub(super) defects: Defects,
    /// `None` once the store is closed.
    owned: Mutex<Option<Owned>>,
    pub(super) state: Mutex<State>,
    pub(super) next_id: AtomicU64,
    pub(super) pages: Cache<Vec<BlockEntry>>,
    blocks: Cache<Vec<Row>>,
    /// Newest sealed time by device; `None` for a device without sealed rows.
    newest: Mutex<HashMap<DeviceId, Option<i64>>>,
    pub(super) seals: AtomicU64,
    pub(super) merges: AtomicU64,
}

/// What makes this the one process that may change the folder.
#[derive(Debug)]
struct Owned {
    manifest: Manifest,
    _lock: Box<dyn FolderLock>,
}

/// What a reader must see at one moment.
#[derive(Debug)]
pub(super) struct State {
    pub(super) active: Head,
    /// The head that is being written out.
    pub(super) sealing: Option<Arc<Head>>,
    /// Live segments, oldest data first.
    pub(super) live: Arc<Vec<Arc<Segment>>>,
    /// Which buckets have changed hands.
    pub(super) marks: Marks,
}

/// Says what an insertion did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inserted {
    /// What happened in the head.
    pub head: Merge,
    /// Points that a segment holds with an equal value.
    pub sealed_duplicates: u32,
    /// Points that a segment holds with another value; the stored one stays.
    pub conflicts: Vec<Conflict>,
    /// Whether the row is older than the newest sealed one of its device.
    pub late: bool,
    /// Whether neither head nor segments had a row of this device and time.
    pub new_row: bool,
}

/// Is a point that came with another value than the sealed one.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// The metric.
    pub metric: MetricName,
    /// The sealed value, which stays.
    pub stored: f64,
    /// The value that came.
    pub refused: f64,
}

impl PartialEq for Conflict {
    fn eq(&self, other: &Self) -> bool {
        let bits = |conflict: &Self| (conflict.stored.to_bits(), conflict.refused.to_bits());
        self.metric == other.metric && bits(self) == bits(other)
    }
}

/// Is the size of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// What stands at each level, lowest first.
    pub levels: Vec<LevelStats>,
    /// Rows not yet sealed.
    pub head_rows: u64,
    /// Points not yet sealed.
    pub head_points: u64,
    /// Memory of the rows not yet sealed, in bytes.
    pub head_bytes: u64,
    /// Seals since the store was opened.
    pub seals: u64,
    /// Merges since the store was opened.
    pub merges: u64,
}

/// Is the size of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelStats {
    /// The level; 0 for sealed heads.
    pub level: u32,
    /// Number of segments.
    pub segments: u64,
    /// Number of rows.
    pub rows: u64,
    /// Number of points.
    pub points: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes of the blocks alone.
    pub block_bytes: u64,
}

impl Stats {
    /// Bytes of blocks per point in merged segments, if there are any points.
    #[must_use]
    pub fn merged_bytes_per_point(&self) -> Option<f64> {
        let merged = self.levels.iter().filter(|level| level.level > 0);
        let (bytes, points) = merged.fold((0, 0), |(bytes, points), level| {
            (bytes + level.block_bytes, points + level.points)
        });
        (points > 0).then(|| bytes as f64 / points as f64)
    }
}

impl Tsdb {
    /// Opens the store in `folder`, creating it when the folder is absent or empty. Deletes files
    /// of segments that the manifest does not name: an unfinished seal or merge. Takes the folder
    /// for this process.
    ///
    /// # Errors
    /// Nothing was changed, except that unnamed segment files may have been deleted.
    ///
    /// # Panics
    /// When `config` is out of its bounds.
    pub fn open(fs: Arc<dyn Fs>, folder: &Path, config: Config) -> Result<Self, Error> {
        Self::open_with_defects(fs, folder, config, Defects::default())
    }

    /// As [`Tsdb::open`], with sabotage.
    ///
    /// # Errors
    /// As [`Tsdb::open`].
    ///
    /// # Panics
    /// As [`Tsdb::open`].
    #[doc(hidden)]
    pub fn open_with_defects(
        fs: Arc<dyn Fs>,
        folder: &Path,
        config: Config,
        defects: Defects,
    ) -> Result<Self, Error> {
        assert!(config.buckets >= 1, "a store has at least one bucket");
        assert!(config.block_rows >= 1, "a block has at least one row");
        assert!(
            config.merge_fan_in >= 2,
            "a merge takes at least two segments"
        );
        fs.create_dir_all(folder)?;
        refuse_foreign(&*fs, folder)?;
        let lock = fs.lock(folder)?;
        let manifest = open_manifest(&*fs, folder, &config)?;
        let named = manifest.segments()?;
        delete_unnamed(&*fs, folder, &named)?;
        let marks = Marks::read(&manifest)?;
        let mut live = Vec::with_capacity(named.len());
        for about in &named {
            live.push(Arc::new(Segment::open(&fs, folder, *about)?));
        }
        sort_by_age(&mut live);
        let last_named = named.iter().map(|about| about.id).max().unwrap_or(0);
        // One that was never named counts too: rows in a later segment of its number would be dead.
        let next_id = last_named.max(marks.last_dead()) + 1;
        let state = State {
            active: Head::new(),
            sealing: None,
            live: Arc::new(live),
            marks,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                fs,
                folder: folder.to_owned(),
                config,
                defects,
                owned: Mutex::new(Some(Owned {
                    manifest,
                    _lock: lock,
                })),
                state: Mutex::new(state),
                next_id: AtomicU64::new(next_id),
                pages: Cache::new(PAGE_CACHE_BYTES),
                blocks: Cache::new(BLOCK_CACHE_BYTES),
                newest: Mutex::new(HashMap::new()),
                seals: AtomicU64::new(0),
                merges: AtomicU64::new(0),
            }),
        })
    }

    /// The places from which the logs are to be replayed, in order of source and partition.
    ///
    /// # Errors
    /// When the manifest cannot be read.
    pub fn replay_offsets(&self) -> Result<Vec<ReplayOffset>, Error> {
        self.shared.with_manifest(Manifest::offsets)
    }

    /// Unites a row with the store. What a segment holds already is not taken again: an equal
    /// value is a duplicate, another one a conflict, and only metrics it lacks go into the head.
    ///
    /// For one thread, the one that seals. Reads the disk only for a row that is not newer than
    /// all sealed ones of its device, or for the first row of a device after a start.
    ///
    /// # Errors
    /// Nothing was inserted.
    pub fn insert(
        &self,
        bucket: u16,
        device: &DeviceId,
        row: &Row,
        stamp: Stamp,
    ) -> Result<Inserted, Error> {
        let mut inserted = Inserted::default();
        let newest = self.newest_sealed(bucket, device)?;
        inserted.late = newest.is_some_and(|newest| row.ts_ms < newest);
        let may_be_sealed = newest.is_some_and(|newest| row.ts_ms <= newest);
        let sealed = if may_be_sealed && !self.shared.defects.insert_without_lookup {
            self.sealed_row(bucket, device, row.ts_ms)?
        } else {
            None
        };
        let mut state = self.shared.state();
        let rows_before = state.active.rows();
        inserted.head = match &sealed {
            None => state.active.insert(bucket, device, row, stamp),
            Some(sealed) => {
                let rest = inserted.compare(sealed, row);
                state.active.insert(bucket, device, &rest, stamp)
            }
        };
        inserted.new_row = sealed.is_none() && state.active.rows() > rows_before;
        Ok(inserted)
    }

    /// What the segments hold of one device and time, united; `None` when nothing.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn lookup(&self, bucket: u16, device: &DeviceId, ts_ms: i64) -> Result<Option<Row>, Error> {
        match self.newest_sealed(bucket, device)? {
            Some(newest) if ts_ms <= newest => self.sealed_row(bucket, device, ts_ms),
            _ => Ok(None),
        }
    }

    /// The newest sealed time of a device.
    fn newest_sealed(&self, bucket: u16, device: &DeviceId) -> Result<Option<i64>, Error> {
        if let Some(&newest) = self.shared.newest().get(device) {
            return Ok(newest);
        }
        let sealed = self.shared.sealed();
        let mut newest = None;
        for segment in sealed.of(bucket) {
            let blocks = segment.blocks_of(bucket, device, &self.shared.pages)?;
            newest = newest.max(blocks.iter().map(|block| block.ts_max_ms).max());
        }
        let mut known = self.shared.newest();
        if known.len() >= NEWEST_DEVICES_MAX {
            known.clear();
        }
        known.insert(device.clone(), newest);
        Ok(newest)
    }

    fn sealed_row(&self, bucket: u16, device: &DeviceId, ts_ms: i64) -> Result<Option<Row>, Error> {
        let sealed = self.shared.sealed();
        let mut found = Vec::new();
        for segment in sealed.of(bucket) {
            if !(segment.about.ts_min_ms..=segment.about.ts_max_ms).contains(&ts_ms) {
                continue;
            }
            for block in segment.blocks_of(bucket, device, &self.shared.pages)? {
                if !(block.ts_min_ms..=block.ts_max_ms).contains(&ts_ms) {
                    continue;
                }
                let rows = self
                    .shared
                    .blocks
                    .get_or((segment.about.id, block.offset), || {
                        let rows = segment.rows(&block)?;
                        let weight = rows.iter().map(|row| 64 + 8 * row.len()).sum();
                        Ok::<_, Error>((rows, weight))
                    })?;
                if let Ok(at) = rows.binary_search_by_key(&ts_ms, |row| row.ts_ms) {
                    found.push(std::iter::once(SourceRow::sealed(rows[at].clone())));
                }
            }
        }
        Ok(merge_rows(found).next())
    }

    /// Memory of the rows not yet sealed, in bytes: seal at `head_bytes_limit`.
    #[must_use]
    pub fn head_bytes(&self) -> u64 {
        self.shared.state().active.bytes() as u64
    }

    /// Makes the head durable as a level-0 segment and, in the same transaction, moves the replay
    /// offsets. With an empty head only the offsets move. Blocks on the disk; readers go on.
    ///
    /// # Errors
    /// What became durable is unknown; end the process. A start finds either all of it or nothing.
    pub fn seal(&self, offsets: &[ReplayOffset]) -> Result<(), Error> {
        self.seal_and_freeze(offsets, &[])
    }

    /// As [`Tsdb::seal`], and notes in the same transaction that these buckets, under these epochs of
    /// theirs, are to change hands: who inserts must take no more rows of them.
    ///
    /// # Errors
    /// As [`Tsdb::seal`].
    pub fn seal_and_freeze(
        &self,
        offsets: &[ReplayOffset],
        frozen: &[(u16, u64)],
    ) -> Result<(), Error> {
        let head = {
            let mut state = self.shared.state();
            let head = Arc::new(state.active.take());
            state.sealing = Some(Arc::clone(&head));
            head
        };
        if self.shared.defects.offsets_before_segment {
            let offsets_only = Change {
                offsets,
                ..Change::default()
            };
            self.shared
                .with_manifest(|manifest| manifest.commit(&offsets_only))?;
        }
        let sealed = self.write_head(&head)?;
        self.shared.with_manifest(|manifest| {
            let mut marks = self.shared.state().marks.clone();
            for (bucket, epoch) in frozen.iter().copied() {
                let standing = Standing::Frozen;
                marks.set(bucket, BucketMark { standing, epoch });
            }
            let buckets = marks.rows(frozen.iter().map(|(bucket, _)| *bucket));
            let change = Change {
                add: &sealed,
                offsets,
                buckets: &buckets,
                ..Change::default()
            };
            manifest.commit(&change)?;
            let opened = self.shared.open_all(&sealed)?;
            {
                let mut newest = self.shared.newest();
                for (_, device, rows) in head.iter() {
                    if let (Some(known), Some(row)) = (newest.get_mut(device), rows.last()) {
                        *known = (*known).max(Some(row.ts_ms));
                    }
                }
            }
            let mut state = self.shared.state();
            state.replace(&HashSet::new(), opened);
            state.sealing = None;
            state.marks = marks;
            Ok(())
        })?;
        if !sealed.is_empty() {
            self.shared.seals.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes the head: one segment, or more when the metric names do not fit one.
    fn write_head(&self, head: &Head) -> Result<Vec<SegmentV1>, Error> {
        let mut output = Output::new(&self.shared, 0);
        for (bucket, device, rows) in head.iter() {
            for block in rows.chunks(SEAL_BLOCK_ROWS) {
                output.push(bucket, device, block)?;
            }
        }
        output.finish()
    }

    /// The size of the store.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.shared.state();
        let mut levels: BTreeMap<u32, LevelStats> = BTreeMap::new();
        for segment in state.live.iter() {
            let about = &segment.about;
            let level = levels.entry(about.level).or_default();
            level.level = about.level;
            level.segments += 1;
            level.rows += about.rows;
            level.points += about.points;
            level.bytes += about.bytes;
            level.block_bytes += about.block_bytes;
        }
        let heads = || {
            [Some(&state.active), state.sealing.as_deref()]
                .into_iter()
                .flatten()
        };
        Stats {
            levels: levels.into_values().collect(),
            head_rows: heads().map(Head::rows).sum(),
            head_points: heads().map(Head::points).sum(),
            head_bytes: heads().map(|head| head.bytes() as u64).sum(),
            seals: self.shared.seals.load(Ordering::Relaxed),
            merges: self.shared.merges.load(Ordering::Relaxed),
        }
    }

    /// Lets the folder go, so that another may open it, whoever still holds a handle. The files
    /// stay readable here until they are merged away; changes are refused.
    pub fn close(&self) {
        *self.shared.owned() = None;
    }

    /// Forgets the rows not yet sealed, before they are replayed from the log.
    pub fn clear_head(&self) {
        let mut state = self.shared.state();
        state.active = Head::new();
        state.sealing = None;
    }
}

impl Inserted {
    /// Compares with what is sealed and gives the metrics that are not.
    fn compare(&mut self, sealed: &Row, row: &Row) -> Row {
        for (name, value) in row.metrics() {
            match sealed.get(name.as_str()) {
                Some(stored) if stored.to_bits() == value.to_bits() => self.sealed_duplicates += 1,
                Some(stored) => {
                    self.conflicts.push(Conflict {
                        metric: name.clone(),
                        stored,
                        refused: value,
                    });
                }
                None => {}
            }
        }
        row.select(|name| sealed.get(name).is_none())
    }
}

impl Shared {
    /// The sealed part of the store as it is now.
    pub(super) fn sealed(&self) -> Sealed {
        self.state().sealed()
    }

    /// The highest number that a segment was given.
    pub(super) fn last_id(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed) - 1
    }

    /// Forgets how new rows of devices are: others have come or gone.
    pub(super) fn forget_newest(&self) {
        self.newest().clear();
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owned(&self) -> MutexGuard<'_, Option<Owned>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn with_manifest<T>(
        &self,
        call: impl FnOnce(&Manifest) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match &*self.owned() {
            Some(owned) => call(&owned.manifest),
            None => Err(Error::Closed {
                path: self.folder.clone(),
            }),
        }
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<DeviceId, Option<i64>>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open_all(&self, abouts: &[SegmentV1]) -> Result<Vec<Arc<Segment>>, Error> {
        let open = |about: &SegmentV1| Segment::open(&self.fs, &self.folder, *about).map(Arc::new);
        abouts.iter().map(open).collect()
    }
}

impl State {
    /// The sealed part.
    pub(super) fn sealed(&self) -> Sealed {
        Sealed::new(&self.live, &self.marks)
    }

    /// Switches the live segments.
    pub(super) fn replace(&mut self, removed: &HashSet<u64>, added: Vec<Arc<Segment>>) {
        let kept = self
            .live
            .iter()
            .filter(|segment| !removed.contains(&segment.about.id));
        let mut live: Vec<_> = kept.cloned().collect();
        live.extend(added);
        sort_by_age(&mut live);
        self.live = Arc::new(live);
    }
}

/// A merge takes the oldest segments of its level, so higher levels hold older data.
fn sort_by_age(live: &mut [Arc<Segment>]) {
    live.sort_by_key(|segment| (std::cmp::Reverse(segment.about.level), segment.about.id));
}

/// Looks before the lock is taken, so that nothing is written into a folder of somebody else.
fn refuse_foreign(fs: &dyn Fs, folder: &Path) -> Result<(), Error> {
    let own = [LOCK_FILE, manifest::FILE, manifest::FILE_NEW];
    let foreign = fs
        .list(folder)?
        .into_iter()
        .find(|name| !own.contains(&&**name) && !is_file_name(name));
    match foreign {
        None => Ok(()),
        Some(name) => {
            let what = format!("it holds {name:?}; use another folder");
            Err(Error::Foreign {
                path: folder.to_owned(),
                what,
            })
        }
    }
}

fn open_manifest(fs: &dyn Fs, folder: &Path, config: &Config) -> Result<Manifest, Error> {
    let names = fs.list(folder)?;
    if !names.iter().any(|name| name == manifest::FILE) {
        if let Some(name) = names.iter().find(|name| is_file_name(name)) {
            let what = format!("it holds {name} but no {}", manifest::FILE);
            return Err(Error::Damaged {
                path: folder.to_owned(),
                offset: 0,
                what,
            });
        }
        Manifest::create(
            fs,
            folder,
            StoreV1 {
                buckets: config.buckets,
            },
        )?;
    }
    let manifest = Manifest::open(fs, folder)?;
    let StoreV1 { buckets } = manifest.store();
    if buckets != config.buckets {
        let (found, asked) = (buckets, config.buckets);
        return Err(Error::Buckets {
            path: folder.to_owned(),
            found,
            asked,
        });
    }
    Ok(manifest)
}

fn delete_unnamed(fs: &dyn Fs, folder: &Path, named: &[SegmentV1]) -> Result<(), Error> {
    let named: HashSet<String> = named
        .iter()
        .map(|about| super::segment::file_name(about.id))
        .collect();
    let mut deleted = false;
    for name in fs.list(folder)? {
        if is_file_name(&name) && !named.contains(&name) {
            tracing::info!(file = name, "deleting an unfinished or replaced segment");
            fs.unlink(&folder.join(&name))?;
            deleted = true;
        }
    }
    if deleted {
        fs.sync_dir(folder)?;
    }
    Ok(())
}
