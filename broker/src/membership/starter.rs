//! Starting, recovering and removing this node's replicas.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cluster::member::{Member, MemberEvent, group_id};
use cluster::raft::{Group, OpenError, RaftNode, Recovery};
use cluster::{Machine, MetaMachine, RoutesConfig, RoutesMachine, ShardConfig, ShardMachine};
use cluster_core::{Group as GroupName, NodeId, RaftId, ShardId};
use mqtt::Templates;
use runtime::Clock;
use tokio::sync::mpsc;

use super::MembershipError;
use super::events::Replica;
use super::founding::{check_templates, found};
use super::replicas::Replicas;
use crate::Config;
use crate::data_folder::{DataFolder, FolderError};

/// How long a group with a single voter, which is here, may take to be led.
const LEAD_PATIENCE: Duration = Duration::from_secs(60);

/// Starts and removes replicas of this node.
pub(super) struct Starter {
    pub(super) raft: RaftNode,
    pub(super) member: Member,
    pub(super) replicas: Replicas,
    pub(super) config: Config,
    /// Those that the cluster was founded with.
    pub(super) templates: Templates,
    /// Whether all groups had their only voter here at the start, so that one without a log was new
    /// and not lost.
    pub(super) is_alone: bool,
    /// The id of the founder's replicas, if this node is the founder.
    pub(super) own: RaftId,
    pub(super) started: mpsc::Sender<Replica>,
}

impl Starter {
    /// Starts this node's replica of meta if it lies on the disk, or is to be the first of a new
    /// cluster.
    pub(super) async fn open_meta(
        &mut self,
        folder: &DataFolder,
        clock: &Arc<dyn Clock>,
    ) -> Result<Option<Group<MetaMachine>>, MembershipError> {
        let identity = folder.identity();
        let node = NodeId(identity.node);
        let replica = match self.replicas.get(GroupName::Meta) {
            Some(replica) => replica,
            None if folder.is_founder() => self.own,
            None => return Ok(None),
        };
        let is_new = folder.is_founder() && !self.raft.has_log(group_id(GroupName::Meta));
        self.enter(GroupName::Meta, replica)?;
        let meta: Group<MetaMachine> = if is_new {
            let id = group_id(GroupName::Meta);
            self.raft.start_group(id, "meta", ()).await?
        } else {
            start(&self.raft, GroupName::Meta, replica, ()).await?
        };
        if meta.with(|machine| machine.meta().shards()) == 0 && is_new {
            found(&meta, folder, clock).await?;
        }
        check_templates(&meta, node, &self.templates)?;
        self.is_alone = meta.with(|machine| {
            let meta = machine.meta();
            meta.is_lone() && meta.is_layout_plain() && meta.member(node).is_some()
        });
        self.member.set_meta(meta.clone());
        Ok(Some(meta))
    }

    /// Notes under which id the group is to lie here.
    fn enter(&mut self, group: GroupName, replica: RaftId) -> Result<(), FolderError> {
        if self.replicas.get(group) != Some(replica) {
            self.replicas.set(group, Some(replica))?;
        }
        Ok(())
    }

    /// Does what an event asks for on the disk.
    pub(super) async fn handle(&mut self, event: &MemberEvent) -> Result<(), MembershipError> {
        match *event {
            MemberEvent::StartReplica { group, replica, .. } => self.start(group, replica).await,
            MemberEvent::RemoveReplica { group, replica } => self.remove(group, replica).await,
            MemberEvent::RecoverReplica {
                group: GroupName::Shard(ShardId(shard)),
                from,
                replica,
                incarnation,
            } => {
                let recovery = Recovery {
                    replica,
                    incarnation,
                };
                self.recover(shard, from, recovery)
            }
            _ => Ok(()),
        }
    }

    /// Starts a replica beside all others: each waits for the disk most of the time.
    async fn start(&mut self, group: GroupName, replica: RaftId) -> Result<(), MembershipError> {
        if let Some(other) = self.replicas.get(group).filter(|other| *other != replica) {
            self.remove(group, other).await?;
        }
        self.enter(group, replica)?;
        let (raft, member, tell) = (self.raft.clone(), self.member.clone(), self.started.clone());
        // A group that a move brings back to its founder has another id, and members elsewhere.
        let is_founders = self.is_alone && replica == self.own;
        let is_new = is_founders && !self.raft.has_log(group_id(group));
        let config = self.config.cluster.routes_limit;
        let shard_config = self.shard_config();
        tokio::spawn(async move {
            let started = match group {
                GroupName::Meta => {
                    let meta = start::<MetaMachine>(&raft, group, replica, ()).await;
                    meta.iter().for_each(|meta| member.set_meta(meta.clone()));
                    Replica::Meta(meta)
                }
                GroupName::Routes => {
                    let config = RoutesConfig { rows_max: config };
                    let routes =
                        begin::<RoutesMachine>(&raft, group, replica, is_new, config).await;
                    routes
                        .iter()
                        .for_each(|routes| member.set_routes(routes.clone()));
                    Replica::Routes(routes)
                }
                GroupName::Shard(ShardId(shard)) => {
                    let started = begin(&raft, group, replica, is_new, shard_config).await;
                    Replica::Shard(shard, started)
                }
            };
            if tell.send(started).await.is_err() {
                tracing::debug!("a replica started after the node had stopped");
            }
        });
        Ok(())
    }

    fn shard_config(&self) -> ShardConfig {
        ShardConfig {
            limits: self.config.shard(),
            templates: self.templates.clone(),
        }
    }

    /// Has a shard's replica `from` go on alone, under another Raft id.
    fn recover(
        &mut self,
        shard: u16,
        from: RaftId,
        recovery: Recovery,
    ) -> Result<(), MembershipError> {
        let group = GroupName::Shard(ShardId(shard));
        let known = self.replicas.get(group);
        if known != Some(from) && known != Some(recovery.replica) {
            tracing::error!(
                shard,
                %from,
                ?known,
                "the replica with which the shard is to go on is not on this node's disk"
            );
            return Ok(());
        }
        // What lies there says itself whether it was recovered, so a crash may come before it was.
        self.enter(group, recovery.replica)?;
        let (raft, tell, config) = (self.raft.clone(), self.started.clone(), self.shard_config());
        tokio::spawn(async move {
            let id = group_id(group);
            let recovered = raft
                .recover_replica::<ShardMachine>(id, &name(group), recovery, config)
                .await;
            if let Ok(started) = &recovered {
                elect_alone(group, started, recovery.replica).await;
            }
            if tell.send(Replica::Shard(shard, recovered)).await.is_err() {
                tracing::debug!("a replica started after the node had stopped");
            }
        });
        Ok(())
    }

    /// Removes a replica, whether it runs or not.
    async fn remove(&mut self, group: GroupName, replica: RaftId) -> Result<(), MembershipError> {
        if self.replicas.get(group) == Some(replica) {
            let id = group_id(group);
            self.raft.remove_replica(id, &name(group)).await?;
            self.replicas.set(group, None)?;
        }
        self.member.handle_removed(group, replica).await;
        Ok(())
    }
}

/// Makes a new group whose only voter is here, or starts a replica.
async fn begin<M: Machine>(
    raft: &RaftNode,
    group: GroupName,
    replica: RaftId,
    is_new: bool,
    config: M::Config,
) -> Result<Group<M>, OpenError> {
    match is_new {
        true => {
            raft.start_group(group_id(group), &name(group), config)
                .await
        }
        false => start(raft, group, replica, config).await,
    }
}

/// Starts a replica; gets it elected at once if it votes alone.
async fn start<M: Machine>(
    raft: &RaftNode,
    group: GroupName,
    replica: RaftId,
    config: M::Config,
) -> Result<Group<M>, OpenError> {
    let id = group_id(group);
    let started = raft
        .start_replica::<M>(id, &name(group), replica, config)
        .await?;
    elect_alone(group, &started, replica).await;
    Ok(started)
}

/// Gets a replica elected that votes alone.
async fn elect_alone<M: Machine>(group: GroupName, started: &Group<M>, replica: RaftId) {
    let control = started.control();
    if control.membership().voters == BTreeSet::from([replica]) {
        control.elect().await;
        let mut leader = started.watch_leader();
        let led = tokio::time::timeout(LEAD_PATIENCE, leader.wait_for(Option::is_some)).await;
        if !matches!(led, Ok(Ok(_))) {
            tracing::warn!(
                group = name(group),
                "a group whose only voter is here is not led"
            );
        }
    }
}

/// The name of a group's state file.
fn name(group: GroupName) -> String {
    match group {
        GroupName::Meta => "meta".to_owned(),
        GroupName::Routes => "routes".to_owned(),
        GroupName::Shard(ShardId(shard)) => format!("shard-{shard:04}"),
    }
}
