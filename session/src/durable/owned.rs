//! Subscriptions that every node computes: they have no row in the routes.

use mqtt::{ClientId, Filter};

use super::Durable;

impl Durable {
    /// Whether the template says that all topics of the filter belong to the client.
    pub(super) fn is_of_template(&self, client: &ClientId, filter: &Filter) -> bool {
        self.templates.owner_of_filter(filter) == Some(client.as_str())
    }

    /// Whether a subscription of a client needs no row: what its filter matches goes to the client's
    /// shard in any case, and its session's identity is bound to the client id. Both hold as long as
    /// the session is there: the templates never change, nor does the identity of a session.
    pub(super) fn is_owned(&self, client: &ClientId, filter: &Filter) -> bool {
        self.is_of_template(client, filter)
            && self
                .sessions
                .get(client)
                .is_some_and(|session| session.is_bound(client))
    }

    /// Whether a persistent session or a group of the shard wants what the filter matches and can
    /// only have it by a row.
    pub(super) fn needs_route(&self, filter: &Filter) -> bool {
        let subscribers = self.trie.filter_len(filter) - usize::from(self.has_owner(filter));
        subscribers > 0 || self.groups.trie.filter_len(filter) > 0
    }

    /// Which version of the routes an answer about a subscription waits for; 0 for none.
    pub(super) fn awaited_version(&self, filter: &Filter, is_owned: bool) -> u64 {
        if is_owned {
            0
        } else {
            self.outbox.version(filter)
        }
    }

    /// Whether one of the filter's subscribers needs no row.
    fn has_owner(&self, filter: &Filter) -> bool {
        let Some(owner) = self.templates.owner_of_filter(filter) else {
            return false;
        };
        let Ok(owner) = ClientId::try_from(owner) else {
            return false;
        };
        self.trie.get(filter, &owner).is_some() && self.is_owned(&owner, filter)
    }
}
