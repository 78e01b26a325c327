//! A replica whose state goes on under another Raft id.

use std::collections::BTreeMap;

use cluster_core::{Incarnation, NodeId, RaftId};

use storage::state;

use super::Replica;
use crate::machine::Machine;
use crate::raft::failure::Fatal;
use crate::raft::types::{Entry, LogId, Membership, StoredMembership};

impl<M: Machine> Replica<M> {
    /// A Raft begins with this replica: it alone changes it from now on. What an earlier one still has
    /// on its way is refused, for nobody waits until that has ended.
    pub(in crate::raft) fn begin_run(&self) -> u64 {
        let _flushing = self.flushing();
        let mut hosted = self.hosted();
        hosted.run += 1;
        hosted.run
    }

    /// As [`Replica::apply`], by the Raft of a run; nothing once another has begun.
    pub(in crate::raft) fn apply_in(
        &self,
        run: u64,
        entries: &[Entry],
    ) -> Result<Option<Vec<Option<M::Answer>>>, Fatal> {
        let hosted = self.hosted();
        if hosted.run != run {
            return Ok(None);
        }
        self.apply_holding(hosted, entries).map(Some)
    }

    /// Whether a Raft id is one of the members, as far as this replica has applied.
    pub(in crate::raft) fn knows(&self, replica: RaftId) -> bool {
        let (_, membership) = self.applied_state();
        membership.membership().get_node(&replica.0).is_some()
    }

    /// Makes what was applied the state of a group whose only member is `replica` on `node`, as the
    /// effect of an entry of its own; whole and durable, or not at all. Blocks on the disk.
    pub(in crate::raft) fn recover(
        &self,
        id: LogId,
        (replica, node): (RaftId, NodeId),
        incarnation: Incarnation,
    ) -> Result<(), state::Error> {
        let nodes = BTreeMap::from([(replica.0, node)]);
        let alone = Membership::new(vec![[replica.0].into()], nodes);
        let alone = alone.expect("its only voter is its only member");
        let mut flushing = self.flushing();
        let mut hosted = self.hosted();
        hosted.machine.handle_recovered(incarnation);
        hosted.applied = Some(id);
        hosted.membership = StoredMembership::new(Some(id), alone);
        let applied = hosted.applied;
        drop(hosted);
        self.flush_holding(&mut flushing)?;
        self.tell_applied(applied);
        Ok(())
    }
}
