//! The loops of disk threads without the threads: a simulation lets them take turns, when its seed
//! says so.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The loops that a log would run on threads of its own; clones are the same loops. Dropped with the
/// log they end as threads of a process do that is killed: what is queued is not written.
#[derive(Clone, Default)]
pub struct Turns(Arc<Mutex<Vec<Box<dyn Turn>>>>);

/// A loop that goes round once.
pub(crate) trait Turn: Send {
    /// Does what waits for it, without waiting for more; whether there was anything.
    fn take(&mut self) -> bool;
}

impl Turns {
    /// Lets every loop do what waits for it now: of the writer one group, with its fsync. Whether
    /// there was anything to do. Callbacks are called from here.
    pub fn take(&self) -> bool {
        let mut loops = self.loops();
        loops.iter_mut().fold(false, |did, turn| turn.take() | did)
    }

    pub(crate) fn add(&self, turn: impl Turn + 'static) {
        self.loops().push(Box::new(turn));
    }

    fn loops(&self) -> MutexGuard<'_, Vec<Box<dyn Turn>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Turns({} loops)", self.loops().len())
    }
}
