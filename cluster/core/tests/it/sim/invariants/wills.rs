//! A will is published once if its connection broke, and never while its connection lasts.

use super::super::client::Label;
use super::Seen;

pub(super) fn check(seen: &Seen<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    for subscriber in seen.clients.iter().filter(|c| c.spec.id.starts_with("sub")) {
        for (client, publisher) in seen.clients.iter().enumerate() {
            if !publisher.spec.has_will {
                continue;
            }
            for (&ordinal, past) in &publisher.past {
                let label = Label::Will { client, ordinal };
                let count = subscriber.got.iter().filter(|g| g.label == label).count();
                let lasts = ordinal == publisher.ordinal;
                if lasts && count > 0 {
                    violations.push(format!("{label:?} came although its connection lasts"));
                }
                // As a retained message it comes once more with a subscription.
                let is_heard = past.connected.is_some() && past.connected > subscriber.subscribed;
                if count > 1 && is_heard {
                    violations.push(format!("{label:?} came {count} times"));
                }
                if count == 0 && is_heard && !past.clean && !lasts {
                    violations.push(format!("{}: {label:?} is lost", subscriber.spec.id));
                }
            }
        }
    }
    violations
}
