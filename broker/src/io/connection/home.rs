//! Whether a client should be at another node, and its way there.

use mqtt::{ClientId, Version};
use runtime::Exit;

use super::Connection;
use crate::ids::shard_of;
use crate::rebalance::HomeAsked;
use crate::references::Why;

impl Connection {
    /// Has a client that connects go elsewhere: from a node that takes none any more always, else only one
    /// that can be told where to, and is not there.
    pub(super) fn is_sent_away(&mut self, client: Option<&ClientId>) -> bool {
        let shared = &self.io.shared;
        let now = self.io.now();
        let shard = client.map(|client| shard_of(client, shared.shard_count));
        if shared.draining.is_begun() {
            let reference = shard.and_then(|shard| shared.references.of(shard));
            self.live.handle_sent_away(reference.as_ref(), now);
            return true;
        }
        // Who has no client id yet gets one here, and is right wherever it comes.
        let (Some(client), Some(shard), Version::V5) = (client, shard, self.live.version()) else {
            return false;
        };
        let reference = shared.references.redirect(client, shard, now.mono.0);
        let is_sent_away = reference.is_some();
        if is_sent_away {
            self.live.handle_sent_away(reference.as_ref(), now);
        }
        is_sent_away
    }

    /// Has an established client go to the node of its shard. A session that lasts goes on there, with what
    /// was under way; one that does not is lost, so its client stays unless that is asked for.
    pub(super) fn go_home(&mut self, asked: &HomeAsked) {
        let shared = &self.io.shared;
        let now = self.io.now();
        let is_established = !self.live.is_connecting() && !self.live.is_closed();
        let may_go = is_established
            && self.live.version() == Version::V5
            && (self.live.is_persistent() || asked.clean);
        let (Some(client), Some(shard)) = (self.live.client(), self.shard()) else {
            return asked.count.stays();
        };
        let is_elsewhere = shared.references.of(shard).is_some();
        if !may_go || !is_elsewhere || shared.references.was_told(client, now.mono.0) {
            return asked.count.stays();
        }
        if !asked.count.is_misplaced() {
            return;
        }
        let why = Why::Rebalance;
        let reference = shared.references.send_away(client, shard, now.mono.0, why);
        if reference.is_some() {
            asked.count.goes();
            self.exit.get_or_insert(Exit::Kicked);
            self.live.handle_sent_away(reference.as_ref(), now);
        }
    }
}
