//! What only a node with a lease may send: it would be a promise.

use defects::Defect;
use mqtt::Packet;
use session::{Ack, AckKind, Opened};

use super::Connection;
use crate::io::serve::Io;

/// An answer that waits for the lease.
pub(super) enum Promise {
    Ack(Ack),
    Packet(Box<Packet>),
}

impl Promise {
    /// Whether it leaves whatever the lease says: a defect.
    fn is_careless(&self) -> bool {
        defects::is(match self {
            Self::Ack(_) => Defect::AckWithoutLease,
            Self::Packet(_) => Defect::SubackWithoutLease,
        })
    }
}

impl Io {
    /// Whether this node may promise anything now (SEMANTICS, Cluster). A lone node always may.
    pub(in crate::io) fn has_lease(&self) -> bool {
        self.shared.lease.is_held(self.now().mono.0)
    }
}

impl Connection {
    /// Sends an answer now, or once the node has its lease and everything before it has left.
    pub(super) fn promise(&mut self, promise: Promise) {
        if !self.withholds() || promise.is_careless() {
            return self.keep(promise);
        }
        let id = self.id;
        let withheld = &mut self.extra().withheld;
        if withheld.is_empty() {
            self.io.wait_for_lease(id);
        }
        self.extra().withheld.push_back(promise);
    }

    /// The shard has answered the `Open`: goes on with it, now or once the node has its lease.
    pub(super) fn opened_under_lease(&mut self, opened: Opened) {
        if !matches!(opened, Opened::Yes { .. }) || self.io.has_lease() {
            return self.opened(opened);
        }
        let id = self.id;
        self.extra().opened = Some(opened);
        self.io.wait_for_lease(id);
    }

    fn withholds(&self) -> bool {
        let waits = |extra: &super::Extra| !extra.withheld.is_empty();
        self.extra.as_deref().is_some_and(waits) || !self.io.has_lease()
    }

    /// Sends what was withheld, if the node has its lease again.
    pub(super) fn keep_promises(&mut self) {
        let waits = |extra: &super::Extra| !extra.withheld.is_empty() || extra.opened.is_some();
        if !self.extra.as_deref().is_some_and(waits) || !self.io.has_lease() {
            return;
        }
        if let Some(opened) = self.extra().opened.take() {
            self.opened(opened);
        }
        for promise in std::mem::take(&mut self.extra().withheld) {
            self.keep(promise);
        }
    }

    fn keep(&mut self, promise: Promise) {
        match promise {
            Promise::Ack(ack) => self.ack(ack),
            Promise::Packet(packet) => self.send(&packet),
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
