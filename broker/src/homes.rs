//! Which session shard has what a topic or a filter is about.

use std::num::NonZeroU32;
use std::ops::Range;

use mqtt::{Filter, Templates, Topic};

use crate::ids::shard_of;

/// The shards of a cluster, and its device-owned templates: what belongs to a client lives in the
/// shard of the client, by no row of the routes.
pub(crate) struct Homes {
    shards: NonZeroU32,
    templates: Templates,
}

impl Homes {
    pub(crate) fn new(shards: NonZeroU32, templates: Templates) -> Self {
        Self { shards, templates }
    }

    /// The shard of the client that a topic belongs to: its subscriptions have no row there.
    pub(crate) fn owner(&self, topic: &Topic) -> Option<u16> {
        let owner = self.templates.owner(topic)?;
        Some(shard_of(owner, self.shards))
    }

    /// The shard that keeps the retained message of a topic.
    pub(crate) fn retained(&self, topic: &Topic) -> u16 {
        let owner = self.templates.owner(topic);
        shard_of(owner.unwrap_or(topic), self.shards)
    }

    /// The shards that may keep retained messages which a filter matches.
    pub(crate) fn retained_of(&self, filter: &Filter) -> Range<u16> {
        let one = match self.templates.owner_of_filter(filter) {
            Some(owner) => shard_of(owner, self.shards),
            None if filter.has_wildcard() => return 0..self.shards.get() as u16,
            None => shard_of(filter.topic_filter(), self.shards),
        };
        one..one + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_for_a_retained_message_asks_the_shard_that_keeps_it() {
        let templates = Templates::parse(["cmd/{client_id}/#"]).expect("a template");
        for templates in [templates, Templates::default()] {
            let has_templates = !templates.is_empty();
            let homes = Homes::new(NonZeroU32::new(32).expect("some"), templates);
            let topic = |text: &str| Topic::try_from(text).expect("a topic");
            let filter = |text: &str| Filter::try_from(text).expect("a filter");
            for device in (0..50).map(|n| format!("dev-{n}")) {
                for level in ["", "/x", "/x/y"] {
                    let of = format!("cmd/{device}{level}");
                    let kept = homes.retained(&topic(&of));
                    assert_eq!(homes.retained_of(&filter(&of)), kept..kept + 1);
                    for wide in ["#", "cmd/#", "cmd/+/#", &format!("+/{device}/#")] {
                        assert_eq!(homes.retained_of(&filter(wide)), 0..32, "{wide}");
                    }
                    let own = homes.retained_of(&filter(&format!("cmd/{device}/#")));
                    assert!(own.contains(&kept));
                    assert_eq!(own.len(), if has_templates { 1 } else { 32 });
                    let owner = homes.owner(&topic(&of));
                    assert_eq!(owner, has_templates.then_some(kept));
                }
            }
            let other = topic("cfg/dev-1/x");
            assert_eq!(homes.owner(&other), None);
            let kept = homes.retained(&other);
            assert_eq!(homes.retained_of(&filter("cfg/dev-1/x")), kept..kept + 1);
        }
    }
}
