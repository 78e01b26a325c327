//! From CONNECT to its answer: who may, and when the shard is asked.

use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;

use mqtt::ReasonCode;
use runtime::Exit;
use session::{Admitted, Credentials, Epoch, Identity, Opened};
use socket2::SockRef;

use super::Connection;
use crate::admission::Refusal;
use crate::ids::shard_of;
use crate::shard::ShardItem;

impl Connection {
    /// Anonymous access: the identity is the client id (SEMANTICS, Identity).
    pub(super) fn authenticate(&mut self, credentials: &Credentials) {
        if self.is_sent_away(credentials.client.as_ref()) {
            return;
        }
        if let Some(refusal) = self.refusal {
            self.io.shared.refusals.count_told();
            return self.live.handle_refused(refusal.reason(), self.io.now());
        }
        self.io.handshakes.borrow_mut().handle_connect(self.id);
        let client = match &credentials.client {
            Some(client) => client.detach(),
            None => self.assign_client_id(),
        };
        let identity = Identity(client.text().clone());
        self.live
            .handle_admitted(Admitted { identity, client }, self.io.now());
    }

    fn assign_client_id(&self) -> mqtt::ClientId {
        let shared = &self.io.shared;
        let number = shared.assigned_ids.fetch_add(1, Ordering::Relaxed);
        let id = format!("auto-{:016x}-{number}", shared.assigned_salt);
        mqtt::ClientId::try_from(id.as_str()).expect("hex digits are a client id")
    }

    /// Proposes the `Open` that is there now, or once it is its turn.
    pub(super) fn queue_open(&mut self) {
        let open = self.extra.as_ref().and_then(|extra| extra.open.as_ref());
        let Some(open) = open else { return };
        let shard = shard_of(&open.client, self.io.shared.shard_count);
        // It may have lain in the listener's backlog while this node began a new epoch, and its client be
        // at another node by now.
        if self.is_abandoned() {
            return self.opened(Opened::No(ReasonCode::ServerUnavailable));
        }
        if self.io.shared.shards.is_stuck(shard) {
            return self.propose_open();
        }
        let now = self.io.now().mono;
        let may_open = self.io.opens.borrow_mut().handle_open(shard, self.id, now);
        if may_open {
            self.propose_open();
        }
    }

    /// It is the turn of the `Open` that waits.
    pub(super) fn open_now(&mut self) {
        // Its socket is not read meanwhile: who gave up is to cost no entry of the log.
        if self.live.is_connecting() && !self.is_abandoned() {
            return self.propose_open();
        }
        self.opened(Opened::No(ReasonCode::ServerUnavailable));
    }

    /// Whether the client has closed its side. Who has sent something behind its CONNECT seems to be
    /// there; no promise rests on this.
    fn is_abandoned(&self) -> bool {
        // A client may publish behind its CONNECT and leave at once (§3.1.4): it is served.
        if self.held_back {
            return false;
        }
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(&self.socket).peek(&mut byte) {
            Ok(length) => length == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    /// The `Open` has waited too long.
    pub(super) fn open_late(&mut self) {
        let refusal = Refusal::OpenWait;
        self.io.count_refusal(refusal);
        self.io.shared.refusals.count_told();
        self.opened(Opened::No(refusal.reason()));
    }

    /// Ends as if the socket had: nobody who reads is at its other end, as far as can be seen.
    pub(super) fn give_way(&mut self) {
        // Its CONNECT may have come meanwhile.
        if self.live.client().is_none() {
            self.exit.get_or_insert(Exit::Kicked);
            self.socket_ended();
        }
    }

    fn propose_open(&mut self) {
        let Some(open) = self.extra().open.clone() else {
            return;
        };
        let shard = shard_of(&open.client, self.io.shared.shard_count);
        if self.io.shared.shards.is_stuck(shard) {
            // It would be answered too late, and wait there long after its connection.
            return self.opened(Opened::No(ReasonCode::ServerUnavailable));
        }
        let item = ShardItem::Open {
            connection: self.id,
            command: open,
            sighting: self.extra().sighting.clone(),
        };
        self.io.outbound.borrow_mut().push_to_shard(shard, item);
    }

    /// Proposes the `Open` again, expecting the ownership that the shard named.
    pub(super) fn open_again(&mut self, current: Option<Epoch>) {
        if !self.live.is_connecting() || self.is_abandoned() {
            // The connection ended meanwhile: a late `Open` would unseat a later connection.
            let refused = Opened::No(ReasonCode::ServerUnavailable);
            return self.live.handle_opened(refused, self.io.now());
        }
        if let Some(open) = &mut self.extra().open {
            open.expected_epoch = current;
            self.propose_open();
        }
    }
}
