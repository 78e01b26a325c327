//! Room in memory for what is submitted and not yet durable.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Greatest number of callbacks that wait for room. One io thread needs one; a callback beyond
/// this is called at once and its owner tries again in vain, which harms nothing.
pub const READY_CALLBACKS_MAX: usize = 4096;

type Ready = Box<dyn FnOnce() + Send>;

/// Counts bytes against a limit and wakes those who wait for room.
pub(crate) struct Room {
    bytes_limit: u64,
    bytes: AtomicU64,
    /// Set while there is no room on disk, whatever the bytes say.
    closed: AtomicBool,
    waiting: Mutex<Vec<Ready>>,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room")
            .field("bytes", &self.bytes)
            .field("bytes_limit", &self.bytes_limit)
            .finish_non_exhaustive()
    }
}

impl Room {
    pub(crate) fn new(bytes_limit: u64) -> Self {
        Self {
            bytes_limit,
            bytes: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            waiting: Mutex::new(Vec::new()),
        }
    }

    /// Takes room; false when there is none. What exceeds the whole limit passes alone, or it
    /// could never pass.
    pub(crate) fn reserve(&self, bytes: u64) -> bool {
        self.bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                self.fits(now, bytes).then_some(now + bytes)
            })
            .is_ok()
    }

    fn fits(&self, now: u64, bytes: u64) -> bool {
        now == 0 || now + bytes <= self.bytes_limit
    }

    /// Gives room back; wakes nobody.
    pub(crate) fn release(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Is the bytes taken.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Says that there is no room on disk: nobody is woken until [`Room::reopen`].
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Says that the disk may have room again.
    pub(crate) fn reopen(&self) {
        self.closed.store(false, Ordering::Release);
        self.wake();
    }

    /// Calls back once there may be room for `bytes`; at once, on the caller's thread, when there
    /// is.
    pub(crate) fn notify(&self, bytes: u64, ready: Ready) {
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            // Looked at under the lock, or the last release could pass between look and push.
            let is_closed = self.closed.load(Ordering::Acquire);
            let has_room = !is_closed && self.fits(self.bytes(), bytes);
            if !has_room && waiting.len() < READY_CALLBACKS_MAX {
                waiting.push(ready);
                return;
            }
        }
        ready();
    }

    /// Half of the limit must be free before anybody is woken, or each release would wake all
    /// for one batch.
    fn is_free(&self) -> bool {
        !self.closed.load(Ordering::Acquire) && self.bytes() <= self.bytes_limit / 2
    }

    /// Wakes those who wait, if there is room.
    pub(crate) fn wake(&self) {
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.is_empty() || !self.is_free() {
                return;
            }
            std::mem::take(&mut *waiting)
        };
        waiting.into_iter().for_each(|ready| ready());
    }

    /// Wakes all who wait, since nothing will be taken any more.
    pub(crate) fn stop(&self) {
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        waiting.into_iter().for_each(|ready| ready());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_exceeds_the_limit_passes_alone() {
        let room = Room::new(10);

        assert!(room.reserve(20));
        assert!(!room.reserve(1));
        room.release(20);
        assert!(room.reserve(10));
    }

    #[test]
    fn who_waits_is_woken_once_half_is_free_and_the_disk_has_room() {
        let room = Room::new(10);
        let woken = Arc::new(AtomicBool::new(false));
        assert!(room.reserve(10));
        let flag = Arc::clone(&woken);
        room.notify(1, Box::new(move || flag.store(true, Ordering::Release)));
        room.close();

        room.release(4);
        room.wake();
        assert!(!woken.load(Ordering::Acquire), "6 of 10 are taken");
        room.release(2);
        room.wake();
        assert!(!woken.load(Ordering::Acquire), "the disk is full");
        room.reopen();
        assert!(woken.load(Ordering::Acquire));
    }
}
