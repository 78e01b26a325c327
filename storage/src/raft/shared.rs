//! What callers, the writer thread and the reclaimer share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use crossbeam_channel::{Receiver, Sender};

use super::GroupId;
use super::group::{CacheChange, Group};
use crate::journal::{Frame, SegmentStart};

/// How many appended runs are remembered for eviction, however small they are.
const RUNS_CACHED_MAX: usize = 1 << 18;

type Groups = BTreeMap<GroupId, Arc<Mutex<Group>>>;

/// What callers, the writer thread and the reclaimer share. A lock is held for memory only, never
/// over a call of the file system; whoever takes several takes them in the order of the fields.
pub(super) struct Shared {
    groups: RwLock<Groups>,
    /// The bytes of each segment, from the oldest that was not given up.
    segments: Mutex<BTreeMap<u64, u64>>,
    /// Appended runs by age, as tickets of their groups.
    cached: Mutex<VecDeque<(GroupId, u64)>>,
    cached_bytes: AtomicUsize,
    cache_bytes_limit: usize,
    waiters: Mutex<Vec<Waiter>>,
    waits: AtomicBool,
    /// Bytes of records since the last copy forward, copies not counted.
    pub(super) fresh_bytes: AtomicU64,
    pub(super) reclaimer: Signal,
}

/// Called when the queue may have room again.
pub(super) type Waiter = Box<dyn FnOnce() + Send>;

impl Shared {
    pub(super) fn new(cache_bytes_limit: usize, reclaimer: Signal) -> Self {
        Self {
            groups: RwLock::default(),
            segments: Mutex::default(),
            cached: Mutex::default(),
            cached_bytes: AtomicUsize::new(0),
            cache_bytes_limit,
            waiters: Mutex::default(),
            waits: AtomicBool::new(false),
            fresh_bytes: AtomicU64::new(0),
            reclaimer,
        }
    }

    /// A panic under a lock is a broken invariant, which ends the process; until then the state is
    /// at least readable.
    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn groups(&self) -> RwLockReadGuard<'_, Groups> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn group(&self, id: GroupId) -> Arc<Mutex<Group>> {
        if let Some(group) = self.groups().get(&id) {
            return Arc::clone(group);
        }
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(groups.entry(id).or_default())
    }

    pub(super) fn segments(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        Self::lock(&self.segments)
    }

    pub(super) fn start_segment(&self, start: &SegmentStart) {
        let mut segments = self.segments();
        if let Some(mut before) = segments.last_entry() {
            before.insert(start.previous_end);
        }
        segments.insert(start.sequence, start.first_offset);
    }

    pub(super) fn grow_segment(&self, frame: &Frame) {
        let end = frame.next.offset;
        self.segments().insert(frame.position.segment, end);
    }

    /// Accounts for a run that came into the cache.
    pub(super) fn cached(&self, group: GroupId, ticket: u64, bytes: usize) {
        self.cached_bytes.fetch_add(bytes, Ordering::Relaxed);
        Self::lock(&self.cached).push_back((group, ticket));
    }

    pub(super) fn uncached(&self, change: CacheChange) {
        self.cached_bytes
            .fetch_sub(change.removed, Ordering::Relaxed);
    }

    pub(super) fn cached_bytes(&self) -> usize {
        self.cached_bytes.load(Ordering::Relaxed)
    }

    /// Lets the oldest durable runs leave the cache while it is above its limit.
    pub(super) fn evict(&self) {
        loop {
            let mut cached = Self::lock(&self.cached);
            let over = self.cached_bytes() > self.cache_bytes_limit;
            if !over && cached.len() <= RUNS_CACHED_MAX {
                return;
            }
            let Some((id, ticket)) = cached.front().copied() else {
                return;
            };
            drop(cached);
            let group = self.group(id);
            let mut group = Self::lock(&group);
            if !group.is_durable(ticket) {
                return;
            }
            let removed = group.evict(ticket);
            drop(group);
            self.uncached(CacheChange { added: 0, removed });
            // Only this thread takes from the front.
            cached = Self::lock(&self.cached);
            cached.pop_front();
        }
    }

    /// Calls `waiter` when an append is completed.
    pub(super) fn wait(&self, waiter: Waiter) {
        Self::lock(&self.waiters).push(waiter);
        self.waits.store(true, Ordering::Release);
    }

    /// Calls whoever waits for room.
    pub(super) fn wake_waiters(&self) {
        if !self.waits.swap(false, Ordering::AcqRel) {
            return;
        }
        let waiters = std::mem::take(&mut *Self::lock(&self.waiters));
        for waiter in waiters {
            waiter();
        }
    }
}

/// Wakes the reclaimer.
#[derive(Debug, Clone)]
pub(super) struct Signal(Sender<()>);

impl Signal {
    pub(super) fn new() -> (Self, Receiver<()>) {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        (Self(sender), receiver)
    }

    pub(super) fn wake(&self) {
        // A full channel holds a signal that is not taken yet, and will be taken after this.
        let _ = self.0.try_send(());
    }
}
