//! Applies what is known to be committed behind the state file, at a start: in large steps, which
//! Raft would do in small ones.

use storage::raft::RaftLog;

use super::codec;
use super::failure::{Fatal, OpenError};
use super::replica::Replica;
use super::types::Entry;
use crate::machine::Machine;

/// Payload of a step.
const STEP_BYTES: usize = 4 << 20;

/// Applies the entries between the state file and the committed position of the log. What the log
/// does not say to be committed is left to Raft. Blocks on the disk.
pub(super) fn catch_up<M: Machine>(replica: &Replica<M>, log: &RaftLog) -> Result<(), OpenError> {
    let group = replica.group;
    let unreadable = |why: String| OpenError::Failed(Fatal::Read { group, why });
    let committed = match log.committed(group) {
        Some(committed) => codec::read_committed(&committed)
            .map_err(|error| unreadable(format!("the committed position: {error}")))?,
        None => None,
    };
    match committed {
        Some(committed) => apply_upto(replica, log, committed.index),
        None => Ok(()),
    }
}

/// Applies every entry behind the state file, whether it is known to be committed or not. Blocks on the
/// disk.
pub(super) fn apply_all<M: Machine>(replica: &Replica<M>, log: &RaftLog) -> Result<(), OpenError> {
    match log.log_state(replica.group).last {
        Some(last) => apply_upto(replica, log, last.index),
        None => Ok(()),
    }
}

fn apply_upto<M: Machine>(replica: &Replica<M>, log: &RaftLog, upto: u64) -> Result<(), OpenError> {
    let group = replica.group;
    let unreadable = |why: String| OpenError::Failed(Fatal::Read { group, why });
    let applied = replica.applied_state().0;
    let mut next = applied.map_or(0, |applied| applied.index + 1);
    while next <= upto {
        let stored = log
            .entries(group, next..upto + 1, STEP_BYTES)
            .map_err(|error| unreadable(error.to_string()))?;
        // Raft says what it makes of a log that ends before what is committed.
        let Some(last) = stored.last() else {
            return Ok(());
        };
        assert_eq!(stored[0].id.index, next, "the log goes back to the file");
        next = last.id.index + 1;
        let entries: Vec<Entry> = stored
            .iter()
            .map(|entry| {
                codec::raft_entry(entry)
                    .map_err(|error| unreadable(format!("entry {}: {error}", entry.id)))
            })
            .collect::<Result<_, _>>()?;
        replica.apply(&entries).map_err(OpenError::Failed)?;
    }
    Ok(())
}
