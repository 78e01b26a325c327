//! What was acknowledged while a group had a member came to one of its members.

use std::collections::BTreeSet;

use super::super::client::Label;
use super::Seen;

pub(super) fn check(seen: &Seen<'_>) -> Vec<String> {
    let members = || seen.clients.iter().filter(|client| client.spec.shares());
    // Members whose sessions end leave the group; one that stays keeps it.
    let stay = members().filter(|client| !client.spec.cleans);
    let since = stay.filter_map(|client| client.subscribed).min();
    let Some(since) = since else {
        return Vec::new();
    };
    let got: BTreeSet<Label> = members()
        .flat_map(|client| client.got.iter().map(|got| got.label))
        .collect();
    let mut lost = Vec::new();
    for (client, publisher) in seen.clients.iter().enumerate() {
        for (&n, sent) in &publisher.sent {
            let matched = sent.topic.starts_with("t/");
            let is_owed = matched && sent.acked_on.is_some() && sent.at > Some(since);
            if is_owed && !got.contains(&Label::Publish { client, n }) {
                lost.push(format!(
                    "{} {n} ({}) came to no member",
                    publisher.spec.id, sent.topic
                ));
            }
        }
    }
    lost
}
