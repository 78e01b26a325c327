//! Flushes of a state file, and what becomes of one that finds no space.

use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use storage::state::{self, Applied, Changes};

use super::Replica;
use crate::machine::Machine;
use crate::raft::codec::{self, stored_id};
use crate::raft::types::LogId;

/// How long a flush that found no space waits before it is tried again, at first; twice as long
/// after each further time. No jitter: the driver lets few flushes of a node run at once.
const SPACE_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest such wait. Each try reads the whole file, see [`state::StateFile::reopen`].
const SPACE_RETRY_DELAY_MAX: Duration = Duration::from_secs(10);

/// What is on its way into the file.
#[derive(Default)]
pub(super) struct Flushing {
    /// What the machine gave away and no flush has made durable. About as many bytes as it was
    /// asked to have unflushed at most.
    kept: Option<Kept>,
    /// How often there was no space for it.
    refusals: u32,
    /// Whether a flush failed otherwise: there is no second try.
    has_failed: bool,
}

struct Kept {
    changes: Changes,
    applied: Applied,
}

impl<M: Machine> Replica<M> {
    pub(in crate::raft) fn is_flush_due(&self) -> bool {
        let now = self.context.now();
        let retry_at_ms = self.retry_at_ms.load(Ordering::Acquire);
        if retry_at_ms > 0 {
            return Duration::from_millis(retry_at_ms) <= now;
        }
        self.asked.load(Ordering::Acquire) || self.hosted().policy.is_due(now)
    }

    /// Makes everything that was applied durable in the state file; up to where it goes now.
    /// Blocks on the disk, and on a flush that is under way; the machine goes on meanwhile.
    ///
    /// An error that may pass ([`state::Error::may_pass`]) leaves all as it was, to be tried again
    /// when [`Replica::is_flush_due`] says so.
    pub(in crate::raft) fn flush(&self) -> Result<Option<LogId>, state::Error> {
        let mut flushing = self.flushing();
        self.flush_holding(&mut flushing)
    }

    pub(super) fn flushing(&self) -> MutexGuard<'_, Flushing> {
        self.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn flush_holding(
        &self,
        flushing: &mut Flushing,
    ) -> Result<Option<LogId>, state::Error> {
        self.asked.store(false, Ordering::Release);
        // What a flush that panics leaves is no better than what one that fails does.
        if std::mem::replace(&mut flushing.has_failed, true) {
            return Err(state::Error::Failed {
                path: self.path.clone(),
                what: "an earlier flush failed".to_owned(),
            });
        }
        let flushed = self.flush_kept(flushing).and_then(|()| {
            flushing.kept = self.take_changes();
            self.flush_kept(flushing)
        });
        if let Err(error) = flushed {
            let error = self.refused(flushing, error);
            flushing.has_failed = !error.may_pass();
            return Err(error);
        }
        flushing.has_failed = false;
        Ok(self.flushed())
    }

    /// What is to be flushed; `None` if nothing was applied since the last time.
    fn take_changes(&self) -> Option<Kept> {
        let mut hosted = self.hosted();
        let applied = hosted.applied?;
        if self.flushed().is_some_and(|flushed| flushed == applied) {
            return None;
        }
        let bytes = std::mem::take(&mut hosted.unflushed_bytes);
        self.in_flight_bytes.store(bytes, Ordering::Relaxed);
        hosted.policy.handle_flushed();
        let applied = Applied {
            id: stored_id(&applied),
            opaque: codec::write_stored_membership(&hosted.membership),
        };
        Some(Kept {
            changes: hosted.machine.changes(),
            applied,
        })
    }

    /// Writes what the machine has given away, and forgets it once it is durable.
    fn flush_kept(&self, flushing: &mut Flushing) -> Result<(), state::Error> {
        let Some(kept) = &flushing.kept else {
            return Ok(());
        };
        if self.file.is_closed() {
            self.file.reopen()?;
        }
        // A commit that was refused may be whole all the same.
        if self.file.flushed().as_ref() != Some(&kept.applied) {
            self.file.apply(&kept.changes, &kept.applied)?;
            self.file.flush()?;
        }
        self.hosted().machine.handle_flushed();
        self.forget_kept(flushing);
        Ok(())
    }

    pub(super) fn forget_kept(&self, flushing: &mut Flushing) {
        flushing.kept = None;
        self.in_flight_bytes.store(0, Ordering::Relaxed);
        if std::mem::take(&mut flushing.refusals) > 0 {
            self.retry_at_ms.store(0, Ordering::Release);
            let waiting = &self.context.groups_without_space;
            waiting.fetch_sub(1, Ordering::Relaxed);
            tracing::info!(group = %self.group, file = %self.path.display(),
                "there is space for a state file again: what was kept is in it");
        }
    }

    /// Opens the file again if a full disk closed it, and says when to try once more. What it was
    /// to take stays in memory, and in the log, which is not purged meanwhile.
    fn refused(&self, flushing: &mut Flushing, error: state::Error) -> state::Error {
        if !error.may_pass() {
            return error;
        }
        // Who reads shall not wait until there is space to write.
        if !self.file.is_closed()
            && let Err(error) = self.file.reopen()
            && !error.may_pass()
        {
            return error;
        }
        self.context.flushes_refused.fetch_add(1, Ordering::Relaxed);
        if flushing.refusals == 0 {
            let waiting = &self.context.groups_without_space;
            waiting.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(group = %self.group, file = %self.path.display(), %error,
                "a state file cannot be written: make room on its disk; nothing is lost, but the \
                 log grows, and acknowledgements are withheld once memory or disk has no room");
        }
        let delay = retry_delay(flushing.refusals);
        flushing.refusals = flushing.refusals.saturating_add(1);
        let at = (self.context.now() + delay).as_millis() as u64;
        self.retry_at_ms.store(at, Ordering::Release);
        error
    }
}

fn retry_delay(refusals: u32) -> Duration {
    let factor = 1_u32.checked_shl(refusals).unwrap_or(u32::MAX);
    SPACE_RETRY_DELAY
        .saturating_mul(factor)
        .min(SPACE_RETRY_DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_space_grows_to_its_limit() {
        let seconds = |refusals| retry_delay(refusals).as_secs();
        assert_eq!(
            [0, 1, 3, 4, 31, 32, u32::MAX].map(seconds),
            [1, 2, 8, 10, 10, 10, 10]
        );
    }
}
