//! Messages of one publisher, topic and QoS come in the order of their publishing.

use std::collections::{BTreeMap, BTreeSet};

use super::super::client::Label;
use super::Seen;

pub(super) fn check(seen: &Seen<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    // What a lost member had comes to another behind what that one has had.
    let alone = seen.clients.iter().filter(|client| !client.spec.shares());
    for subscriber in alone {
        let mut known = BTreeSet::new();
        let mut highest: BTreeMap<(usize, &str, u8), u32> = BTreeMap::new();
        for got in &subscriber.got {
            let Label::Publish { client, n } = got.label else {
                continue;
            };
            // What was published before the SUBACK may come with its repeat only; retained values
            // come again with each subscription.
            let sent = seen.clients[client].sent[&n].at;
            // What a client gave up with its session may come late by the node of its old connection,
            // if it was on its way when that ended.
            let publisher = &seen.clients[client];
            let is_given_up = publisher.spec.cleans && publisher.sent[&n].acked_on.is_none();
            let was_on_its_way = !seen.sent_again.contains(&got.label);
            let is_late = seen.tries.len() > 1 && is_given_up && was_on_its_way;
            let is_ordered =
                !is_late && sent > subscriber.subscribed && !got.topic.starts_with("r/");
            if !is_ordered || !known.insert(got.label) {
                continue;
            }
            let key = (client, got.topic.as_str(), got.qos as u8);
            let before = highest.entry(key).or_default();
            if n < *before {
                violations.push(format!(
                    "{}: {:?} {} came after {before}",
                    subscriber.spec.id, got.label, got.topic
                ));
            }
            *before = n.max(*before);
        }
    }
    violations
}
