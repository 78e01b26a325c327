//! What a broker does for its member: starts and removes replicas, and begins another epoch.

use std::sync::Arc;
use std::time::Duration;

use cluster_core::{Group as GroupName, MetaAnswer, RaftId};
use tidewire_cluster::member::{Member, MemberEvent, group_id};
use tidewire_cluster::raft::{Group, RaftNode};
use tidewire_cluster::{MetaMachine, RoutesConfig, RoutesMachine};
use tokio::sync::watch;

use super::defect::Defect;
use super::ledger::Ledger;
use super::node::{Events, Seat, name};

const RENEW_PAUSE: Duration = Duration::from_millis(500);

/// Carries out what the member says.
pub(crate) struct Host {
    seat: Arc<Seat>,
    raft: RaftNode,
    member: Option<Member>,
    routes: watch::Sender<u64>,
}

impl Host {
    pub(crate) fn new(seat: Arc<Seat>, raft: RaftNode, routes: watch::Sender<u64>) -> Self {
        Self {
            seat,
            raft,
            member: None,
            routes,
        }
    }

    pub(crate) fn set_member(&mut self, member: Member) {
        self.member = Some(member);
    }

    fn member(&self) -> &Member {
        self.member.as_ref().expect("it was set before it runs")
    }

    pub(crate) fn set_meta(&self, meta: Group<MetaMachine>) {
        self.seat.with_live(|live| live.meta = Some(meta.clone()));
        self.member().set_meta(meta);
    }

    /// The node matches with whatever its replica of the routes has applied.
    pub(crate) fn set_routes(&self, routes: Group<RoutesMachine>) {
        let (mut applied, sender) = (routes.watch_applied(), self.routes.clone());
        tokio::spawn(async move {
            loop {
                let index = *applied.borrow_and_update();
                sender.send_replace(index);
                if applied.changed().await.is_err() {
                    return;
                }
            }
        });
        self.member().set_routes(routes);
    }

    pub(crate) async fn run(self, mut events: Events) -> turmoil::Result {
        while let Some(event) = events.recv().await {
            match event {
                MemberEvent::StartReplica {
                    group,
                    replica,
                    is_new,
                } => {
                    let on_disk = self
                        .seat
                        .with_kept(|kept| kept.replicas.get(&group).copied());
                    let is_lost = !is_new && on_disk != Some(replica);
                    if is_lost && self.seat.defect != Defect::VoterAfterDamage {
                        tokio::spawn(renew(self.member().clone(), group));
                        continue;
                    }
                    self.seat
                        .with_kept(|kept| kept.replicas.insert(group, replica));
                    self.start(group, replica).await?;
                }
                MemberEvent::RemoveReplica { group, replica } => {
                    self.seat
                        .with_live(|live| drop(live.ledgers.remove(&group_id(group).0)));
                    let (id, name) = (group_id(group), name(group));
                    let removed = self.raft.remove_replica(id, &name);
                    removed.await?;
                    self.seat.with_kept(|kept| kept.replicas.remove(&group));
                    self.member().handle_removed(group, replica).await;
                }
                MemberEvent::Ended(_) => {
                    let start = self.seat.with_kept(|kept| {
                        kept.starts.0 += 1;
                        kept.starts
                    });
                    self.member().begin(start).await;
                }
                _ => {}
            }
        }
        Err("the member has stopped by itself".into())
    }

    pub(crate) async fn start(&self, group: GroupName, replica: RaftId) -> turmoil::Result {
        let (id, name) = (group_id(group), name(group));
        match group {
            GroupName::Meta => {
                let meta = self
                    .raft
                    .start_replica::<MetaMachine>(id, &name, replica, ());
                self.set_meta(meta.await?);
            }
            GroupName::Routes => {
                let config = RoutesConfig { rows_max: 1_000 };
                let routes = self
                    .raft
                    .start_replica::<RoutesMachine>(id, &name, replica, config);
                self.set_routes(routes.await?);
            }
            GroupName::Shard(_) => {
                let owner = self.seat.owner(group);
                let ledger = self.raft.start_replica::<Ledger>(id, &name, replica, owner);
                let ledger = ledger.await?;
                self.seat
                    .with_live(|live| drop(live.ledgers.insert(id.0, ledger)));
            }
        }
        Ok(())
    }
}

/// Has meta give this node another replica in the place of a lost one; tried until meta answers.
async fn renew(member: Member, group: GroupName) {
    loop {
        match member.renew(group).await {
            Ok(MetaAnswer::Done) => return,
            // A change of the group is under way: this one is wanted after it too.
            Ok(_) | Err(_) => tokio::time::sleep(RENEW_PAUSE).await,
        }
    }
}
