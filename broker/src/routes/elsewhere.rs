//! The routes and the other nodes: whom they wait for, whom they tell, who leads their group.

use std::sync::Arc;

use cluster::RoutesEntry;
use cluster::RoutesMachine;
use cluster::exchange::{Letter, RoutesReply, RoutesRequest, Said, kinds};
use cluster::link::{Channel, Responder};
use cluster::raft::{Group, Unproposed};
use cluster_core::{NodeEpoch, RoutesAnswer, RoutesCommand, Unavailable, WallMs};
use ractor::{Actor, SpawnErr};
use runtime::ractor;

use super::{Routes, Routing};
use crate::peers::{DEADLINE, Deliveries, Peers, Post, PostHandle, PostMessage, Posted, Streams};

/// Bytes that the leader's answer to rows may have.
const ANSWER_BYTES: u32 = 64;

impl Routes {
    /// Takes note of the epochs that meta shows, if they have changed. That comes before anything
    /// else: a SUBACK waits for every epoch that has not ended, and no row leads to an epoch
    /// without a stream.
    ///
    /// # Errors
    /// No stream to an epoch can be begun.
    pub(super) async fn renew_epochs(&self, routing: &mut Routing) -> Result<(), SpawnErr> {
        if !routing.epochs_seen.has_changed().unwrap_or(false) {
            return Ok(());
        }
        let view = routing.epochs_seen.borrow_and_update().clone();
        let before = std::mem::replace(&mut routing.epochs, view);
        let mut posts = routing.posts.clone();
        for epoch in before.current.difference(&routing.epochs.current) {
            routing.visible.handle_ended(*epoch);
            if let Some(post) = posts.remove(epoch)
                && post.actor.cast(PostMessage::Ended).is_err()
            {
                tracing::debug!(%epoch, "the stream to an ended epoch had ended");
            }
        }
        for epoch in routing.epochs.current.difference(&before.current) {
            routing.visible.handle_begun(*epoch);
            if *epoch != self.epoch {
                posts.insert(*epoch, self.begin_stream(routing, *epoch).await?);
            }
        }
        routing.posts.clone_from(&posts);
        let epochs = routing.epochs.clone();
        self.peers.set_streams(Streams { epochs, posts });
        // New ones have heard nothing.
        routing.told = 0;
        self.tell_applied(routing);
        self.bring_epochs(routing);
        Ok(())
    }

    /// Whoever leads the group brings the epochs in, once: the rows of ended ones vanish.
    pub(super) fn bring_epochs(&self, routing: &mut Routing) {
        let known = self
            .group
            .with(|machine| machine.routes_mut().epochs().index);
        let wanted = routing.epochs.index;
        if known < wanted && routing.epochs_asked < wanted && self.group.status().is_leader {
            routing.epochs_asked = wanted;
            self.propose(routing, None, RoutesCommand::Epochs(routing.epochs.clone()));
        }
    }

    async fn begin_stream(&self, routing: &Routing, to: NodeEpoch) -> Result<PostHandle, SpawnErr> {
        let (bytes, deliveries) = (Arc::default(), Deliveries::default());
        let post = Post {
            node: (self.node_of)(to),
            from: self.epoch,
            to,
            peers: self.peers.clone(),
            threads: self.threads.clone(),
            bytes: Arc::clone(&bytes),
            deliveries: deliveries.clone(),
        };
        let (actor, _) = Actor::spawn_linked(None, post, (), routing.me.get_cell()).await?;
        Ok(PostHandle {
            actor,
            bytes,
            deliveries,
        })
    }

    /// Tells the other nodes how far this one matches publishes by what the group has.
    pub(super) fn tell_applied(&self, routing: &mut Routing) {
        let index = routing.applied;
        if index > routing.told {
            routing.told = index;
            let letter = || Posted::of(Letter::RoutesApplied { index });
            self.peers.post_to_all(letter);
        }
    }

    /// Another node takes this one for the leader.
    pub(super) fn asked(&self, command: RoutesCommand, responder: Responder) {
        let group = self.group.clone();
        let time = WallMs(self.clock.wall_ms());
        tokio::spawn(async move {
            let entry = RoutesEntry { time, command }.encode();
            let reply = match group.propose(entry.into()).await {
                Ok(answer) => RoutesReply::Applied(answer),
                Err(Unproposed::Unavailable {
                    why: Unavailable::Led(node),
                    ..
                }) => RoutesReply::NotLeading(Some(node)),
                Err(Unproposed::Unavailable { .. }) => RoutesReply::NotLeading(None),
                Err(Unproposed::Lost) => RoutesReply::Unknown,
            };
            responder.reply(reply.encode());
        });
    }
}

/// Proposes to the group, here or at the node that leads it; none if what became of it is not
/// known, or if it was refused.
pub(super) async fn propose(
    group: &Group<RoutesMachine>,
    peers: &Peers,
    time: WallMs,
    command: RoutesCommand,
) -> Option<RoutesAnswer> {
    let command_there = command.clone();
    let entry = RoutesEntry { time, command }.encode();
    let leader = match group.propose(entry.into()).await {
        Ok(answer) => return Some(answer),
        Err(Unproposed::Unavailable {
            why: Unavailable::Led(node),
            ..
        }) => node,
        Err(_) => return None,
    };
    let channel = Channel {
        kind: kinds::ROUTES,
        group: 0,
    };
    let request = RoutesRequest {
        command: command_there,
    };
    let asked = peers.ask(leader, channel, &request, ANSWER_BYTES, DEADLINE);
    let reply = RoutesReply::decode(&asked.ok()?.wait().await.ok()?);
    match reply.ok()? {
        RoutesReply::Applied(answer) => Some(answer),
        RoutesReply::NotLeading(_) | RoutesReply::Unknown => None,
    }
}
