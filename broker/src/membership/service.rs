//! What comes over links, and which part of the node it is for.

use std::sync::{Arc, OnceLock};

use cluster::control::{self, Control};
use cluster::exchange::kinds;
use cluster::link::{Admitter, Event, Incoming, LinkStream, Service, Wish};
use cluster::member::{self, Member};
use cluster::raft::{self, RaftNode};
use cluster_core::NodeId;

use crate::peers::Exchange;

/// Deals requests of other nodes out.
pub(super) struct NodeService {
    pub(super) raft: RaftNode,
    pub(super) exchange: Exchange,
    /// There once the node has its membership.
    pub(super) member: Arc<OnceLock<Member>>,
    /// There once the node has its control plane.
    pub(super) control: Arc<OnceLock<Control>>,
}

impl Service for NodeService {
    fn handle_request(&self, request: Incoming) {
        let kind = request.channel.kind;
        if raft::CHANNELS.contains(&kind) {
            self.raft.handle_request(request);
        } else if member::CHANNELS.contains(&kind) {
            if let Some(member) = self.member.get() {
                member.handle_request(request);
            }
        } else if kind == control::CHANNEL {
            if let Some(control) = self.control.get() {
                control.handle_request(request);
            }
        } else if kinds::ALL.contains(&kind) || kinds::TELEMETRY.contains(&kind) {
            self.exchange.handle_request(request);
        } else {
            tracing::warn!(from = %request.from, channel = %request.channel, "nobody is asked so");
        }
    }

    fn handle_stream(&self, from: NodeId, stream: LinkStream) {
        if let Some(control) = self.control.get() {
            control.handle_stream(from, stream);
        }
    }

    fn handle_wish(&self, wish: Wish, from: &str, admitter: Admitter) {
        tracing::info!(from, "a node asks to join");
        if let Some(member) = self.member.get() {
            member.handle_wish(wish, admitter);
        }
    }

    fn handle_event(&self, event: Event) {
        match event {
            Event::Refused {
                address,
                here: true,
                refusal,
                ..
            } => tracing::warn!(address, %refusal, "a node was refused"),
            Event::Refused {
                address, refusal, ..
            } => tracing::warn!(address, %refusal, "this node was refused"),
            other => tracing::debug!(?other, "a link"),
        }
    }
}
