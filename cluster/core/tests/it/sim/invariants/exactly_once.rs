//! What was published with QoS 2 came once.

use std::collections::BTreeMap;

use mqtt::QoS;

use super::super::client::Label;
use super::Seen;

pub(super) fn check(seen: &Seen<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    for client in seen.clients {
        // Its own session ends now and then, and with it what tells repeats.
        if client.spec.cleans {
            continue;
        }
        let mut counts: BTreeMap<Label, u32> = BTreeMap::new();
        for got in &client.got {
            // Retained values come again with each subscription.
            if got.qos == QoS::ExactlyOnce && !got.topic.starts_with("r/") {
                *counts.entry(got.label).or_default() += 1;
            }
        }
        let twice = counts.into_iter().filter(|(_, count)| *count > 1);
        violations.extend(
            twice.map(|(label, count)| format!("{}: {label:?} came {count} times", client.spec.id)),
        );
    }
    violations
}
