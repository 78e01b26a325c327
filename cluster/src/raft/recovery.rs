//! Making a replica go on alone, when the majority of its group is lost for good.
//!
//! ```text
//!  stop Raft ─► apply every entry of the log ─► vote of the new id ─► state file: one transaction ─► purge ─► Raft
//!                                                                     ▲
//!                          a crash before it: all again; behind it: the file knows the new id ─┘
//! ```

use std::sync::Arc;

use cluster_core::{Incarnation, RaftId};
use storage::raft::{AppendError, GroupId};
use tokio::sync::oneshot;

use super::catch_up::apply_all;
use super::codec::{self, stored_id};
use super::driver::Driven;
use super::failure::OpenError;
use super::group::Group;
use super::node::{Inner, RaftNode};
use super::replica::Replica;
use super::types::{LeaderId, LogId, Vote};
use crate::machine::Machine;

/// As whom a replica goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Its new Raft id, which is no member's yet: no vote that a lost voter gave is for it, and none that
    /// it gives was given before.
    pub replica: RaftId,
    /// What its machine counts in from then on.
    pub incarnation: Incarnation,
}

impl RaftNode {
    /// Has the replica of a group that lies here go on as the only member of the group, with all that
    /// its log has: entries that it does not know to be committed may have been answered. Stops it
    /// first, if it was started under its former id. Whoever is a member of the former group is none of
    /// this one. Returns when it is started; it is to be elected ([`super::GroupControl::elect`]).
    ///
    /// May be repeated, also after a crash at any moment and after the group has got members again:
    /// what is done is not done once more.
    ///
    /// # Errors
    /// The replica is not started. On the disk it is as it was, or recovered.
    pub async fn recover_replica<M: Machine>(
        &self,
        id: GroupId,
        name: &str,
        recovery: Recovery,
        config: M::Config,
    ) -> Result<Group<M>, OpenError> {
        let inner = &self.inner;
        let hosted = inner.take_or_open::<M>(id, name, config).await?;
        if hosted.knows(recovery.replica) {
            inner.catch_up(&hosted).await?;
        } else {
            inner.recover(&hosted, recovery).await?;
        }
        let raft = inner.open_raft(recovery.replica, &hosted).await?;
        let context = Arc::clone(&inner.context);
        let (node, hold) = (inner.config.node, inner.config.hold);
        let driven = Arc::new(Driven::new(node, raft, hosted, context, hold));
        let group = Group::new(Arc::clone(&driven));
        inner.drive(driven).await?;
        Ok(group)
    }
}

impl Inner {
    /// The replica that lies here: of a group that was started the same one, for its file may be open
    /// once only.
    async fn take_or_open<M: Machine>(
        &self,
        id: GroupId,
        name: &str,
        config: M::Config,
    ) -> Result<Arc<Replica<M>>, OpenError>
    where
        M::Config: Send,
    {
        let started = self.groups().started.remove(&id);
        let Some(group) = started else {
            self.enter(id, name)?;
            let hosted = self.open_replica::<M>(id, name, config).await?;
            self.check_log(&hosted)?;
            return Ok(hosted);
        };
        group.stop().await;
        let hosted = group.hosted().downcast::<Replica<M>>();
        let hosted = hosted.map_err(|_| OpenError::Started {
            group: id,
            name: name.to_owned(),
        })?;
        // What the stopped Raft still has on its way changes nothing from here on.
        let stopped = Arc::clone(&hosted);
        self.opening(id, move || Ok(stopped.begin_run())).await?;
        Ok(hosted)
    }

    async fn recover<M: Machine>(
        &self,
        hosted: &Arc<Replica<M>>,
        recovery: Recovery,
    ) -> Result<(), OpenError> {
        let group = hosted.group;
        let (replica, log) = (Arc::clone(hosted), Arc::clone(&self.log));
        self.opening(group, move || apply_all(&replica, &log))
            .await?;
        let applied = hosted.applied_state().0;
        let vote = self.log.vote(group);
        let vote = vote.map(|vote| codec::read_vote(&vote)).transpose();
        let vote = vote.map_err(|error| self.not_started(group, format!("the vote: {error}")))?;
        let voted = vote.map_or(0, |vote| vote.leader_id.term);
        let term = voted.max(applied.map_or(0, |id| id.leader_id.term)) + 1;
        let leader_id = LeaderId {
            term,
            node_id: recovery.replica.0,
        };
        let index = applied.map_or(0, |id| id.index + 1);
        let id = LogId { leader_id, index };
        tracing::warn!(%group, replica = %recovery.replica, last = ?applied, %term, index,
            "a group goes on with what this node has of it, alone");
        // Before the state: what was recovered must not lack a vote.
        self.save_vote(group, leader_id).await?;
        let (replica, alone) = (Arc::clone(hosted), (recovery.replica, self.config.node));
        let incarnation = recovery.incarnation;
        self.opening(group, move || {
            Ok(replica.recover(id, alone, incarnation)?)
        })
        .await?;
        let purged = self.log.purge(group, stored_id(&id));
        purged.map_err(|error| self.not_started(group, error))?;
        let (done, written) = oneshot::channel();
        let flushing = self.log.flush(move |result| {
            // Nobody waits any more if this was cancelled.
            let _ = done.send(result);
        });
        flushing.map_err(|error| self.not_started(group, error))?;
        self.written(group, written).await
    }

    async fn save_vote(&self, group: GroupId, leader_id: LeaderId) -> Result<(), OpenError> {
        let vote = Vote {
            leader_id,
            committed: false,
        };
        let (done, written) = oneshot::channel();
        let saving = self
            .log
            .save_vote(group, codec::write_vote(&vote), move |result| {
                // Nobody waits any more if this was cancelled.
                let _ = done.send(result);
            });
        saving.map_err(|error| self.not_started(group, error))?;
        self.written(group, written).await
    }

    async fn written(
        &self,
        group: GroupId,
        written: oneshot::Receiver<Result<(), AppendError>>,
    ) -> Result<(), OpenError> {
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.not_started(group, error)),
            Err(error) => Err(self.not_started(group, error)),
        }
    }
}
