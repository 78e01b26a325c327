//! What a node does as the leader of shards.

use session::{Command, DurableEffect, WillId};
use tidewire_cluster_core::{
    DrainEffect, EpochView, MembershipEffect, NodeEpoch, Standing, WillKey,
};

use super::super::conns::Serve;
use super::super::defect::Defect;
use super::super::disk::ShardWhat;
use super::super::machine::Machine;
use super::super::shard::{Item, Reply};
use super::World;
use super::net::PeerItem;
use super::node::Node;
use super::streams::ANSWER_MS;

impl Node {
    /// Who leads a shard, as far as this node knows.
    pub(super) fn leader(&self, shard: usize, w: &World) -> Option<(u64, usize)> {
        let known = w.groups.shards[shard].leader(self.at);
        known.max(self.told_leads.get(&shard).copied())
    }

    pub(super) fn carry_out(&mut self, effects: Vec<DurableEffect>, w: &mut World) {
        for effect in effects {
            let (epoch, item) = match effect {
                DurableEffect::Deliver(it) => (it.node_epoch, PeerItem::Delivery(it)),
                DurableEffect::DeliverShared(it) => (it.node_epoch, PeerItem::Shared(it)),
                DurableEffect::TakenOver {
                    connection,
                    node_epoch,
                    ..
                } => (node_epoch, PeerItem::TakenOver(connection)),
                other => unreachable!("the host keeps {other:?}"),
            };
            let epoch = NodeEpoch(epoch.0);
            // What this node's meta does not show yet is kept until it does: nothing may be missing.
            let is_over = self.meta.standing(epoch) == Standing::Ended;
            if self.front.epoch == Some(epoch) {
                self.take_peer(item, &mut w.ctx);
            } else if !is_over {
                self.peers.entry(epoch).or_default().push(item);
            }
        }
    }

    /// Does all that a shard's lead asks for.
    pub(crate) fn lead(&mut self, shard: usize, w: &mut World) {
        let now = w.ctx.boot();
        let Some(host) = self.hosts.get_mut(&shard) else {
            return;
        };
        host.follow(self.at, w);
        let serves = self.is_serving() || w.ctx.defect == Defect::WillBeforeRoutes;
        while let Some(host) = self.hosts.get_mut(&shard)
            && let Some(effect) = host.drain.poll_effect(now)
        {
            match effect {
                DrainEffect::Resume => {
                    let effects = host.resume(w);
                    self.carry_out(effects, w);
                }
                DrainEffect::SendRoutes(deltas) => {
                    host.routes_sent_ms = Some(now.0);
                    self.tell_routes(deltas, w);
                }
                DrainEffect::RoutesDone { version } => {
                    let version = version.0;
                    let done = Command::RoutesDone { version };
                    host.duty(ShardWhat::Duty(done), w);
                }
                // Its routes may be those of long ago.
                DrainEffect::Publish { key, .. } if !serves => {
                    host.drain.handle_will_failed(key, now);
                }
                DrainEffect::Publish { key, row } => self.publish_will(shard, key, &row, &w.ctx),
                DrainEffect::WillDone { key: WillKey(id) } => {
                    let done = Command::WillDone { id: WillId(id) };
                    host.duty(ShardWhat::Duty(done), w);
                }
            }
        }
        while let Some(host) = self.hosts.get_mut(&shard)
            && let Some(effect) = host.memberships.poll_effect(now)
        {
            match effect {
                MembershipEffect::Send(row) => {
                    let (home, reply) = (
                        self.shard_of(&row.filter),
                        Reply::Member(shard, row.version),
                    );
                    let command = Command::Membership(Box::new(row.to_command(shard as u16)));
                    self.push(home, Item { command, reply }, None);
                }
                MembershipEffect::Done { version } => {
                    let done = Command::MembershipDone { version };
                    host.duty(ShardWhat::Duty(done), w);
                }
            }
        }
        let Some(host) = self.hosts.get_mut(&shard) else {
            return;
        };
        for asked in host.propose(self.at, w) {
            self.refuse(shard, asked, w);
        }
    }

    /// What time makes due in the shards led here.
    pub(super) fn tick_shards(&mut self, w: &mut World) {
        let now = w.ctx.boot();
        let view = self.meta.epochs();
        for host in self.hosts.values_mut() {
            host.follow(self.at, w);
            if host.leads.is_none() {
                continue;
            }
            host.proposer.handle_timeout(now);
            if host
                .routes_sent_ms
                .is_some_and(|at| now.0 >= at + ANSWER_MS)
            {
                host.routes_sent_ms = None;
                host.drain.handle_routes_failed(now);
            }
            let machine = &host.machine;
            let view = match w.ctx.defect {
                Defect::NewEpochGone => all_others_gone(machine, &view).unwrap_or(view.clone()),
                _ => view.clone(),
            };
            if machine.receiver.epochs().index < view.index {
                host.duty(ShardWhat::Epochs(view), w);
            }
            let stamped = host.stamp(w);
            let due = host
                .machine
                .durable
                .due(session::WallMs(stamped.time.time.0), 100);
            for command in due {
                if stamped.may_expire || matches!(command, Command::ReplayEnd { .. }) {
                    host.duty(ShardWhat::Duty(command), w);
                }
            }
        }
    }
}

/// The view of a leader that takes what it does not know for ended.
fn all_others_gone(machine: &Machine, view: &EpochView) -> Option<EpochView> {
    let owners = machine.durable.node_epochs().map(|e| NodeEpoch(e.0));
    let newest = owners.chain(machine.receiver.sources()).max()?;
    (newest > view.begun).then(|| EpochView {
        index: machine.receiver.epochs().index + 1,
        begun: newest,
        current: view.current.clone(),
    })
}
