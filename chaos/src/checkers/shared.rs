//! Each message to a shared group comes to one of its members at least once.

use std::collections::BTreeMap;

use super::view::{Client, Seen, Span, View};
use super::{Observed, Verdict};

pub(super) fn check(view: &View<'_>, observed: &Observed) -> Verdict {
    let mut verdict = Verdict::new("shared");
    let mut groups: BTreeMap<u32, Vec<(&Client<'_>, &Span)>> = BTreeMap::new();
    for client in view.clients.iter().filter(|client| client.expiry_s > 0) {
        for span in client
            .spans
            .iter()
            .filter(|span| view.is_shared[span.filter as usize])
        {
            groups.entry(span.filter).or_default().push((client, span));
        }
    }
    for (filter, members) in groups {
        let mut seen = Seen::default();
        for (client, _) in &members {
            seen.add(client);
        }
        // Since the first of those that are members to the end there was always one.
        let open = members
            .iter()
            .map(|(_, span)| *span)
            .filter(|span| span.is_open());
        let Some(first) = open.min_by_key(|span| span.from_us) else {
            continue;
        };
        for (message, _) in view.promised(first) {
            verdict.check(seen.contains(message), || {
                format!(
                    "{} never came to any of the {} members of {}",
                    view.name(message),
                    members.len(),
                    view.filter(filter)
                )
            });
        }
    }
    verdict.excuse(observed.dropped.values().sum());
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sketch::Sketch;
    use crate::history::Role;

    fn group() -> Sketch {
        let mut sketch = Sketch::default();
        let from = sketch.actor("from", Role::Publisher, 3_600);
        for member in ["one", "other"] {
            let member = sketch.actor(member, Role::Member, 3_600);
            sketch
                .connected(member, false)
                .subscribed(member, "$share/g/t", 1);
        }
        sketch
            .connected(from, false)
            .publishing(from, 0, "t", 1)
            .publishing(from, 1, "t", 1);
        sketch.acked(from, 0).acked(from, 1);
        sketch
    }

    fn verdict(sketch: &Sketch) -> Verdict {
        check(&View::of(&sketch.history()), &Observed::default())
    }

    #[test]
    fn any_member_will_do_and_a_message_may_come_to_both() {
        let mut sketch = group();
        sketch
            .delivered(1, 0, 0)
            .delivered(2, 0, 1)
            .delivered(1, 0, 1);
        assert_eq!((verdict(&sketch).checked, verdict(&sketch).count), (2, 0));
    }

    #[test]
    fn a_message_that_no_member_got_is_lost() {
        let mut sketch = group();
        sketch.delivered(2, 0, 1);
        assert_eq!(verdict(&sketch).count, 1);
    }
}
