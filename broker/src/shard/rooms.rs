//! Nodes whose streams are full, and which deliveries wait for them.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use cluster_core::NodeEpoch;
use session::{Durable, DurableEffect};

use super::ShardMessage;
use super::host::{Hosted, ShardHost};
use crate::peers::{DeliveryRoom, delivery_bytes};

impl ShardHost {
    /// The next effect, and what room it took if it goes to another node. Nothing more is handed out
    /// for one that is full with it.
    pub(super) fn next_effect(
        &self,
        durable: &mut Durable,
        full: &mut BTreeSet<NodeEpoch>,
    ) -> Option<(DurableEffect, Option<DeliveryRoom>)> {
        let effect = durable.poll_effect()?;
        let elsewhere = delivery_bytes(&effect).filter(|(to, _)| *to != self.epoch);
        let Some((to, bytes)) = elsewhere else {
            return Some((effect, None));
        };
        let found = self.peers.find_room(to, bytes);
        if found.is_full {
            durable.handle_full(session::NodeEpoch(to.0));
            full.insert(to);
        }
        Some((effect, found.room))
    }

    /// Nothing more is handed out for a node until it has room.
    pub(super) fn filled(&self, hosted: &mut Hosted, to: NodeEpoch) {
        if hosted.full.insert(to) {
            tracing::debug!(shard = self.shard, %to, "the stream to a node is full");
            let held = &self.peers.counters().deliveries_held_total;
            held.fetch_add(1, Ordering::Relaxed);
            self.wait_for_room(hosted, to);
        }
    }

    /// There may be room for a node, or is not any more.
    pub(super) fn may_have_room(&self, hosted: &mut Hosted, to: NodeEpoch) {
        if !self.go_on(hosted, to) && hosted.full.contains(&to) {
            self.wait_for_room(hosted, to);
        }
    }

    /// Looks at all nodes that were full: of a stream that was not there yet, or is no more, nobody tells.
    pub(super) fn look_for_room(&self, hosted: &mut Hosted) {
        for to in hosted.full.clone() {
            self.go_on(hosted, to);
        }
    }

    fn wait_for_room(&self, hosted: &Hosted, to: NodeEpoch) {
        let me = hosted.me.clone();
        let notify = move || {
            if me.cast(ShardMessage::Room(to)).is_err() {
                tracing::debug!("the shard's host has ended: the node is stopping");
            }
        };
        self.peers.notify_room(to, Box::new(notify));
    }

    /// Hands out again for a node that was full, if it has room; says whether it has.
    fn go_on(&self, hosted: &mut Hosted, to: NodeEpoch) -> bool {
        let has_room = self.peers.has_delivery_room(to);
        if has_room
            && hosted.full.remove(&to)
            && let Some(lead) = &hosted.lead
        {
            let node_epoch = session::NodeEpoch(to.0);
            lead.group
                .with(|machine| machine.durable_mut().handle_room(node_epoch));
        }
        has_room
    }
}
