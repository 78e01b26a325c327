//! What only a node with a lease may send: it would be a promise.

use cluster::member::Tenable;
use cluster_core::ShardId;
use defects::Defect;
use mqtt::Packet;
use session::{Ack, AckKind, Opened, Outgoing};

use super::Connection;
use crate::io::serve::Io;

/// What waits for the lease.
pub(super) enum Promise {
    Ack(Ack),
    Packet(Box<Packet>),
    /// With QoS 1 or 2: the client may have it from another node, which serves it now.
    Delivery(Box<Outgoing>),
}

impl Promise {
    /// Whether it leaves whatever the lease says: a defect.
    fn is_careless(&self) -> bool {
        defects::is(match self {
            Self::Ack(_) => Defect::AckWithoutLease,
            Self::Packet(_) => Defect::SubackWithoutLease,
            Self::Delivery(_) => return false,
        })
    }
}

impl Io {
    /// Whether this node may promise anything now (SEMANTICS, Cluster) to the owners of this shard's sessions. A lone
    /// node always may.
    pub(in crate::io) fn has_lease(&self, shard: u16) -> bool {
        self.tenable(shard).is_held(self.now().mono.0)
    }

    /// What this node may promise to the owners of this shard's sessions.
    pub(super) fn tenable(&self, shard: u16) -> &Tenable {
        self.shared.lease.of(ShardId(shard))
    }
}

impl Connection {
    /// Sends an answer now, or once the node has its lease and everything before it has left.
    pub(super) fn promise(&mut self, promise: Promise) {
        if promise.is_careless() || !self.withholds() {
            return self.keep(promise);
        }
        self.withhold(promise);
    }

    /// Whether something waits already, or would have to.
    pub(super) fn withholds(&self) -> bool {
        let waits = |extra: &super::Extra| !extra.withheld.is_empty();
        self.extra.as_deref().is_some_and(waits) || !self.may_promise()
    }

    /// Sends it once everything before it has left.
    pub(super) fn withhold(&mut self, promise: Promise) {
        let withheld = &mut self.extra().withheld;
        withheld.push_back(promise);
        if withheld.len() == 1 {
            self.wait_to_promise();
        }
    }

    /// The shard has answered the `Open`: goes on with it, now or once the node has its lease.
    pub(super) fn opened_under_lease(&mut self, opened: Opened) {
        if !matches!(opened, Opened::Yes { .. }) || self.io.has_lease(self.home) {
            return self.opened(opened);
        }
        self.extra().opened = Some(opened);
        self.io.wait_for_lease(self.home, self.id);
    }

    /// Whether the node has the lease under which this connection was last known to own its session.
    fn may_promise(&self) -> bool {
        self.io.has_lease(self.home) && self.io.tenable(self.home).grants() == self.grant
    }

    /// Waits for the lease. With one that was not there all the time the shard is asked first: another node
    /// may have served the client meanwhile.
    fn wait_to_promise(&mut self) {
        if !self.io.has_lease(self.home) {
            return self.io.wait_for_lease(self.home, self.id);
        }
        let grant = self.io.tenable(self.home).grants();
        if self.doubted.is_none() {
            self.doubted = Some(grant);
            self.live.handle_doubt(self.io.now());
        }
    }

    /// The session is this connection's, as of an entry that was proposed after it had been asked.
    pub(super) fn confirmed(&mut self) {
        if let Some(grant) = self.doubted.take() {
            self.grant = grant;
        }
        self.keep_promises();
    }

    /// Sends what was withheld, if it may be promised.
    pub(super) fn keep_promises(&mut self) {
        let waits = |extra: &super::Extra| !extra.withheld.is_empty() || extra.opened.is_some();
        if !self.extra.as_deref().is_some_and(waits) {
            return;
        }
        if self.io.has_lease(self.home)
            && let Some(opened) = self.extra().opened.take()
        {
            self.opened(opened);
        }
        let extra = self.extra();
        if extra.withheld.is_empty() && extra.opened.is_none() {
            return;
        }
        if !self.may_promise() {
            return self.wait_to_promise();
        }
        for promise in std::mem::take(&mut self.extra().withheld) {
            self.keep(promise);
        }
    }

    fn keep(&mut self, promise: Promise) {
        match promise {
            Promise::Ack(ack) => self.ack(ack),
            Promise::Packet(packet) => self.send(&packet),
            Promise::Delivery(outgoing) => self.deliver(&outgoing),
        }
    }
}

/// Whether it tells the client that something is kept for it. A CONNACK does too; it is held back
/// before it is made, or messages would overtake it `[MQTT-3.2.0-1]`.
pub(super) fn is_promise(packet: &Packet) -> bool {
    matches!(packet, Packet::SubAck(_) | Packet::UnsubAck(_))
}

/// Whether an acknowledgement tells the client that something is kept for it.
pub(super) fn is_promised(kind: AckKind) -> bool {
    match kind {
        AckKind::PubAck | AckKind::PubRec | AckKind::PubComp => true,
        // It says what the client said before.
        AckKind::PubRel => false,
    }
}
