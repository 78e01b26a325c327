//! Starting groups: what a replica has on disk, and when it counts as started.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cluster_core::RaftId;
use defects::Defect;
use openraft::{Raft, ServerState};
use storage::raft::GroupId;

use super::catch_up::catch_up;
use super::control::GroupControl as _;
use super::driver::{self, Drive as _, Driven};
use super::failure::{CloseError, OpenError};
use super::group::{Group, RaftOf};
use super::log_store::GroupLog;
use super::network::Network;
use super::node::{Inner, RaftNode};
use super::replica::{Limits, Replica};
use super::state_machine::Hosting;
use crate::machine::Machine;

/// How long a group may take from its election until everything committed is applied.
const START_PATIENCE: Duration = Duration::from_mins(1);

impl RaftNode {
    /// Starts a group of which this node is to be the only voter: makes its machine of its state
    /// file, founds the group if it is new, gets it elected, and returns when everything that is
    /// committed is applied. Its Raft id is the node's number.
    ///
    /// # Errors
    /// The group is not started, and may not be started again before the node was opened again;
    /// what is on disk stays.
    pub async fn start_group<M: Machine>(
        &self,
        id: GroupId,
        name: &str,
        config: M::Config,
    ) -> Result<Group<M>, OpenError> {
        let inner = &self.inner;
        let replica = RaftId(u64::from(inner.config.node.0));
        let driven = inner.open_driven(id, name, replica, config).await?;
        let group = Group::new(Arc::clone(&driven));
        let led = inner.lead(&driven, &group).await;
        if let Err(error) = led {
            driven.stop().await;
            return Err(error);
        }
        inner.drive(driven).await?;
        Ok(group)
    }

    /// Starts a replica of a group that has other members: one that was a member before, one that
    /// is none any more, or an empty one, which the group's leader fills once it has made it a
    /// member. Returns when what the log knows to be committed is applied, and waits for no leader.
    ///
    /// # Errors
    /// As [`RaftNode::start_group`].
    pub async fn start_replica<M: Machine>(
        &self,
        id: GroupId,
        name: &str,
        replica: RaftId,
        config: M::Config,
    ) -> Result<Group<M>, OpenError> {
        let inner = &self.inner;
        let driven = inner.open_driven(id, name, replica, config).await?;
        let group = Group::new(Arc::clone(&driven));
        if let Err(error) = inner.check_own(&driven).await {
            driven.stop().await;
            return Err(error);
        }
        inner.drive(driven).await?;
        Ok(group)
    }
}

impl Inner {
    pub(super) fn enter(&self, id: GroupId, name: &str) -> Result<(), OpenError> {
        let mut groups = self.groups();
        if groups.is_closed {
            return Err(OpenError::Closed);
        }
        if groups.names.contains_key(&id) || groups.names.values().any(|other| other == name) {
            return Err(OpenError::Started {
                group: id,
                name: name.to_owned(),
            });
        }
        groups.names.insert(id, name.to_owned());
        Ok(())
    }

    pub(super) async fn open_replica<M: Machine>(
        &self,
        id: GroupId,
        name: &str,
        config: M::Config,
    ) -> Result<Arc<Replica<M>>, OpenError>
    where
        M::Config: Send,
    {
        let path = self.config.folder.join(format!("{name}.redb"));
        let limits = Limits {
            cache_bytes: self.config.state_cache_bytes,
            flush_log_bytes: self.config.flush_log_bytes,
            flush_age: self.config.flush_age,
        };
        let (fs, context) = (Arc::clone(&self.fs), Arc::clone(&self.context));
        let step = Arc::clone(&self.step);
        let open = move || Ok((Replica::open(fs, &path, id, limits, config, context)?, step));
        let (replica, step) = self.opening(id, open).await?;
        let replica = Arc::new(replica);
        self.note_opened(&replica);
        drop(step);
        Ok(replica)
    }

    pub(super) async fn catch_up<M: Machine>(
        &self,
        replica: &Arc<Replica<M>>,
    ) -> Result<(), OpenError> {
        let (replica, log) = (Arc::clone(replica), Arc::clone(&self.log));
        self.opening(replica.group, move || catch_up(&replica, &log))
            .await
    }

    /// Whether log and state file are of one time.
    pub(super) fn check_log<M: Machine>(&self, replica: &Replica<M>) -> Result<(), OpenError> {
        let (group, path) = (replica.group, replica.path().to_owned());
        let flushed = replica.flushed().map(|id| id.index);
        let purged = self.log.log_state(group).last_purged.map(|id| id.index);
        if let Some(purged) = purged.filter(|purged| Some(*purged) > flushed) {
            return Err(OpenError::Gap {
                path,
                group,
                purged,
                flushed,
            });
        }
        match flushed {
            Some(_) if defects::is(Defect::VoterAfterDamage) => Ok(()),
            Some(flushed) if self.log.vote(group).is_none() => Err(OpenError::LogLost {
                path,
                group,
                flushed,
            }),
            _ => Ok(()),
        }
    }

    async fn open_driven<M: Machine>(
        &self,
        id: GroupId,
        name: &str,
        replica: RaftId,
        config: M::Config,
    ) -> Result<Arc<Driven<M>>, OpenError> {
        self.enter(id, name)?;
        let hosted = self.open_replica::<M>(id, name, config).await?;
        self.check_log(&hosted)?;
        self.catch_up(&hosted).await?;
        let raft = self.open_raft(replica, &hosted).await?;
        let context = Arc::clone(&self.context);
        Ok(Arc::new(Driven::new(
            self.config.node,
            raft,
            hosted,
            context,
            self.config.hold,
        )))
    }

    /// Runs a step of a start that blocks.
    pub(super) async fn opening<T: Send + 'static>(
        &self,
        group: GroupId,
        step: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
    ) -> Result<T, OpenError> {
        let held = Arc::clone(&self.step);
        let step = move || {
            let outcome = step();
            drop(held);
            outcome
        };
        let outcome = self.context.blocking.run(step).await;
        outcome.map_err(|error| OpenError::Raft {
            group,
            why: CloseError::from(error).to_string(),
        })?
    }

    /// Starts Raft.
    pub(super) async fn open_raft<M: Machine>(
        &self,
        id: RaftId,
        replica: &Arc<Replica<M>>,
    ) -> Result<RaftOf<M>, OpenError> {
        let log = GroupLog::new(
            Arc::clone(&self.log),
            replica.group,
            Arc::clone(&self.context.latch),
            self.context.blocking,
        );
        Raft::new(
            id.0,
            Arc::clone(&self.raft_config),
            Network::new(Arc::clone(&self.context), replica.group, id.0),
            log,
            Hosting::new(Arc::clone(replica)),
        )
        .await
        .map_err(|error| self.not_started(replica.group, error))
    }

    /// Whether what was on disk is of this replica.
    async fn check_own<M: Machine>(&self, driven: &Driven<M>) -> Result<(), OpenError> {
        let node = self.config.node;
        // Raft itself is asked: its metrics may not be there yet.
        let there = driven.raft.with_raft_state(move |state| {
            let members = state.membership_state.effective();
            let of_node = members.nodes().filter(|(_, at)| **at == node);
            of_node.map(|(id, _)| RaftId(*id)).collect::<Vec<_>>()
        });
        let there = there.await;
        let there = there.map_err(|error| self.not_started(driven.id(), error))?;
        let replica = driven.replica();
        if there.is_empty() || there.contains(&replica) {
            return Ok(());
        }
        Err(OpenError::ForeignReplica {
            group: driven.id(),
            replica,
            there,
        })
    }

    /// Gets the group led by this node, if it is the only voter, and everything committed applied.
    async fn lead<M: Machine>(
        &self,
        driven: &Driven<M>,
        group: &Group<M>,
    ) -> Result<(), OpenError> {
        let (id, replica, raft) = (group.id(), driven.replica(), &driven.raft);
        let failed = |error: &dyn fmt::Display| self.not_started(id, error);
        if raft.is_initialized().await.map_err(|e| failed(&e))? {
            let membership = driven.membership();
            let voters = membership
                .voters
                .iter()
                .chain(membership.joint.iter().flatten());
            let voters: Vec<RaftId> = voters.copied().collect();
            if voters != [replica] {
                return Err(OpenError::ForeignNode {
                    group: id,
                    voters,
                    replica,
                });
            }
            raft.trigger().elect(true).await.map_err(|e| failed(&e))?;
        } else {
            let alone = BTreeMap::from([(replica.0, self.config.node)]);
            raft.initialize(alone).await.map_err(|e| failed(&e))?;
        }
        raft.wait(Some(START_PATIENCE))
            .state(ServerState::Leader, "elected")
            .await
            .map_err(|e| failed(&e))?;
        match tokio::time::timeout(START_PATIENCE, group.read_index()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failed(&format!("{error:?}"))),
            Err(late) => Err(failed(&late)),
        }
    }

    /// The damage that was found meanwhile, if any: it says more than Raft does.
    pub(super) fn not_started(&self, group: GroupId, why: impl fmt::Display) -> OpenError {
        match self.context.latch.first() {
            Some(fatal) => OpenError::Failed(fatal),
            None => OpenError::Raft {
                group,
                why: why.to_string(),
            },
        }
    }

    /// Hands the group to the driver.
    pub(super) async fn drive<M: Machine>(
        self: &Arc<Self>,
        driven: Arc<Driven<M>>,
    ) -> Result<(), OpenError> {
        let id = driven.id();
        let is_closed = {
            let mut groups = self.groups();
            if !groups.is_closed {
                groups.started.insert(id, Arc::clone(&driven) as _);
            }
            if !std::mem::replace(&mut groups.is_driven, true) {
                let driver = driver::drive(Arc::downgrade(self), Arc::clone(&self.context));
                tokio::spawn(driver);
            }
            groups.is_closed
        };
        if is_closed {
            driven.stop().await;
            return Err(OpenError::Closed);
        }
        tokio::spawn(Arc::clone(&driven).watch_metrics());
        // A close flushes and purges nothing; nor may the last purge be on disk.
        if let Some(flushed) = driven.replica.flushed() {
            let purged = driven.purge(flushed).await;
            purged.map_err(|error| self.not_started(id, error))?;
        }
        Ok(())
    }
}
