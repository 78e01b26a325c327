//! The retained message of a topic is the last acknowledged one, or a later one.

use super::super::client::Label;
use super::super::owned::home;
use super::Seen;

pub(super) fn check(seen: &Seen<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    for publisher in seen.clients.iter().filter(|c| c.spec.has_will) {
        let topic = format!("r/{}", publisher.spec.id);
        let of_topic = publisher.sent.iter().filter(|(_, s)| s.topic == topic);
        let acked = of_topic.filter_map(|(n, s)| Some((*n, s.acked_on?)));
        let Some((last, acked_on)) = acked.max() else {
            continue;
        };
        let filter: mqtt::Filter = topic.as_str().try_into().expect("a filter");
        let name = topic.as_str().try_into().expect("a topic");
        let home = home(seen.templates, &name, seen.shards.len().max(1));
        let Some(durable) = seen.shards.get(home) else {
            continue;
        };
        let kept = durable.retained_matching(&filter, 1, seen.now);
        let label = kept.first().map(|message| Label::parse(&message.payload));
        let is_right = match label {
            Some(Label::Publish { n, .. }) => n >= last,
            Some(Label::Will { ordinal, .. }) => ordinal >= acked_on,
            None => false,
        };
        if !is_right {
            violations.push(format!(
                "{topic} keeps {label:?}, but {last} was acknowledged on connection {acked_on}"
            ));
        }
    }
    violations
}
