//! Messages of one publisher, topic and QoS come in the order of their publishing.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Sim;
use super::super::client::Label;

pub(super) fn check(sim: &Sim) -> Vec<String> {
    let mut violations = Vec::new();
    // What a lost member had comes to another behind what that one has had.
    let alone = sim.clients.iter().filter(|client| !client.spec.shares());
    for subscriber in alone {
        let mut seen = BTreeSet::new();
        let mut highest: BTreeMap<(usize, &str, u8), u32> = BTreeMap::new();
        for got in &subscriber.got {
            let Label::Publish { client, n } = got.label else {
                continue;
            };
            // What was published before the SUBACK may come with its repeat only; retained values
            // come again with each subscription.
            let sent = sim.clients[client].sent[&n].at;
            let is_ordered = sent > subscriber.subscribed && !got.topic.starts_with("r/");
            if !is_ordered || !seen.insert(got.label) {
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
