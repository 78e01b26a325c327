//! Bytes of messages on their way into the shards' logs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all messages under way may occupy together, in bytes.
///
/// It refuses nothing: a message that was read is taken. Beyond the limit no more are read, which
/// is where the window of TCP ends at the publishers.
#[derive(Debug)]
pub(crate) struct UnderWay {
    bytes: AtomicU64,
    /// Of them, what waits for shards whose logs take nothing: their publishers are bounded there
    /// ([`super::backlog`]), and nobody else waits for them.
    excused: AtomicU64,
    bytes_limit: u64,
}

impl UnderWay {
    pub(super) fn new(bytes_limit: u64) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            excused: AtomicU64::new(0),
            bytes_limit,
        }
    }

    /// Counts a message until what is returned is dropped.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Room {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Room {
            of: Arc::clone(self),
            bytes,
        }
    }

    /// Bytes up to the limit.
    pub(crate) fn left(&self) -> u64 {
        let excused = self.excused.load(Ordering::Relaxed);
        let counted = self.bytes().saturating_sub(excused);
        self.bytes_limit.saturating_sub(counted)
    }

    /// What of a shard is excused changed.
    pub(super) fn excuse(&self, before: u64, now: u64) {
        self.excused.fetch_add(now, Ordering::Relaxed);
        self.excused.fetch_sub(before, Ordering::Relaxed);
    }

    /// Bytes of the messages under way.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Counts a message as under way, from the fan-out until the shard has answered.
#[derive(Debug)]
pub(crate) struct Room {
    of: Arc<UnderWay>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.of.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_stuck_shard_takes_no_room_from_others() {
        let under_way = Arc::new(UnderWay::new(100));
        let stuck = under_way.take(90);
        under_way.excuse(0, 90);
        assert_eq!((under_way.bytes(), under_way.left()), (90, 100));
        // The log goes on: what had waited is counted until it is answered.
        under_way.excuse(90, 0);
        assert_eq!(under_way.left(), 10);
        drop(stuck);
        assert_eq!(under_way.left(), 100);
    }

    #[test]
    fn what_is_dropped_gives_its_room_back() {
        let under_way = Arc::new(UnderWay::new(100));
        let (first, second) = (under_way.take(60), under_way.take(60));
        assert_eq!((under_way.bytes(), under_way.left()), (120, 0));
        drop(first);
        assert_eq!(under_way.left(), 40);
        drop(second);
        assert_eq!((under_way.bytes(), under_way.left()), (0, 100));
    }
}
