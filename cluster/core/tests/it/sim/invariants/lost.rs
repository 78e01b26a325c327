//! What was acknowledged after a SUBACK reached the subscriber.

use std::collections::BTreeSet;

use super::super::client::Label;
use super::Seen;

pub(super) fn check(seen: &Seen<'_>) -> Vec<String> {
    let mut lost = Vec::new();
    for subscriber in seen.clients {
        let Some(since) = subscriber.subscribed.filter(|_| !subscriber.spec.shares()) else {
            continue;
        };
        let got: BTreeSet<Label> = subscriber.got.iter().map(|got| got.label).collect();
        for (client, publisher) in seen.clients.iter().enumerate() {
            for (&n, sent) in &publisher.sent {
                let matched = subscriber.spec.filters.iter().any(|filter| {
                    let filter: mqtt::Filter = (*filter).try_into().expect("a filter");
                    filter.matches(&sent.topic.as_str().try_into().expect("a topic"))
                });
                let is_owed = matched && sent.acked_on.is_some() && sent.at > Some(since);
                if is_owed && !got.contains(&Label::Publish { client, n }) {
                    lost.push(format!(
                        "{}: {} {n} ({}) is lost",
                        subscriber.spec.id, publisher.spec.id, sent.topic
                    ));
                }
            }
        }
    }
    lost
}
