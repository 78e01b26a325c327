//! What a Raft group replicates.

use std::fmt;

use cluster_core::Incarnation;
use storage::state::{Changes, Row};

/// A replicated state: it changes by entries alone, equal entries give equal states.
///
/// The group that hosts it applies entries in order, and now and then makes the state durable:
/// it takes [`Machine::changes`] under the lock, writes them beside it, and tells the outcome by
/// [`Machine::handle_flushed`]. After a start the machine is made of the rows of the last flush,
/// and the entries behind that are applied again.
pub trait Machine: Send + Sized + 'static {
    /// What a machine without rows begins with.
    type Config: Clone + Send + Sync + 'static;
    /// What an entry answers to its proposer.
    type Answer: fmt::Debug + Send + Sync + 'static;
    /// The version of its rows, see [`storage::state::Config::version`].
    const VERSION: u32;

    /// Makes the state of rows, in order of kind and key; of none, the state before any entry.
    ///
    /// # Errors
    /// Names the row that cannot be read.
    fn restore(
        config: &Self::Config,
        rows: &mut dyn Iterator<Item = Result<Row, storage::state::Error>>,
    ) -> Result<Self, Damaged>;

    /// Applies an entry. `index` rises with each call.
    ///
    /// # Errors
    /// The entry cannot be read: nothing was changed, and the process is to end, for no other
    /// replica will have skipped it.
    fn apply(&mut self, index: u64, entry: &[u8]) -> Result<Self::Answer, Damaged>;

    /// How far the state is, counted its own way: by what nodes without a replica are to compare with.
    fn reached(&self) -> u64 {
        0
    }

    /// Entries behind this state are lost for good: what the state counts goes on in this incarnation,
    /// above whatever it counted in those. By default a state counts nothing.
    fn handle_recovered(&mut self, _incarnation: Incarnation) {}

    /// Takes the rows that changed since the last call. Until [`Machine::handle_flushed`] it keeps
    /// in memory what they hold, and is not asked again.
    fn changes(&mut self) -> Changes;

    /// What the last [`Machine::changes`] gave is durable.
    fn handle_flushed(&mut self);
}

/// Says which bytes cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Damaged {
    /// The entry or row.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}
