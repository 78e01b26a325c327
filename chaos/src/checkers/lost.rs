//! Nothing acknowledged is lost to a session that outlives its connections.

use super::view::{Client, Seen, View, seconds};
use super::{Observed, Verdict};
use crate::history::Role;

pub(super) fn check(view: &View<'_>, observed: &Observed) -> Verdict {
    let mut verdict = Verdict::new("lost");
    for client in view
        .clients
        .iter()
        .filter(|client| is_decided(client, observed))
    {
        let spans = client.spans.iter().filter(|span| {
            // A group's messages go to one of its members, see `shared`.
            span.is_open() && !view.is_shared[span.filter as usize]
        });
        let spans: Vec<_> = spans.collect();
        if spans.is_empty() {
            continue;
        }
        let seen = Seen::of(client);
        for span in spans {
            for (message, _) in view.promised(span) {
                verdict.check(seen.contains(message), || {
                    format!(
                        "{} never came to {}, which has {} since {}",
                        view.name(message),
                        client.id,
                        view.filter(span.filter),
                        seconds(span.from_us)
                    )
                });
            }
        }
    }
    verdict.excuse(observed.dropped.values().sum());
    verdict
}

/// Whether a client's session outlives connections, and nobody can have started it anew by a CONNECT that a paused process
/// read late (docs/adr/009).
pub(super) fn is_decided(client: &Client<'_>, observed: &Observed) -> bool {
    client.expiry_s > 0 && !(client.role == Role::Resetter && observed.has_pauses())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sketch::Sketch;
    use crate::history::End;

    fn verdict(sketch: &Sketch, observed: &Observed) -> Verdict {
        check(&View::of(&sketch.history()), observed)
    }

    /// A publisher (0) with three messages of which the last is not acknowledged, and a subscriber (1).
    fn three() -> Sketch {
        let mut sketch = Sketch::default();
        let from = sketch.actor("from", Role::Publisher, 3_600);
        let to = sketch.actor("to", Role::Subscriber, 3_600);
        sketch.connected(to, false).subscribed(to, "t", 1);
        sketch.connected(from, false);
        for number in 0..3 {
            sketch.publishing(from, number, "t", 1);
        }
        sketch.acked(from, 0).acked(from, 1);
        sketch
    }

    #[test]
    fn what_came_to_a_session_in_whatever_order_is_not_lost() {
        let mut sketch = three();
        sketch.delivered(1, 0, 1).delivered(1, 0, 0);
        let verdict = verdict(&sketch, &Observed::default());
        assert_eq!(
            (verdict.checked, verdict.count),
            (2, 0),
            "the third may come or not"
        );
    }

    #[test]
    fn an_acknowledged_message_that_did_not_come_is_lost() {
        let mut sketch = three();
        sketch.delivered(1, 0, 1);
        let verdict = verdict(&sketch, &Observed::default());
        assert_eq!((verdict.checked, verdict.count), (2, 1));
        assert!(
            verdict.violations[0].contains("message 0 of from"),
            "{verdict:?}"
        );
    }

    #[test]
    fn what_was_sent_before_suback_is_not_promised() {
        let mut sketch = Sketch::default();
        let from = sketch.actor("from", Role::Publisher, 3_600);
        let to = sketch.actor("to", Role::Subscriber, 3_600);
        sketch.connected(from, false).connected(to, false);
        sketch.publishing(from, 0, "t", 1);
        sketch.subscribed(to, "t", 1);
        sketch.acked(from, 0);
        assert_eq!(verdict(&sketch, &Observed::default()).checked, 0);
    }

    #[test]
    fn a_session_keeps_its_promise_over_connections_and_a_clean_start_ends_it() {
        let mut sketch = three();
        sketch.ended(1, End::Cut).connected(1, true);
        assert_eq!(verdict(&sketch, &Observed::default()).count, 2);
        sketch.ended(1, End::Cut).started_clean(1, false);
        assert_eq!(verdict(&sketch, &Observed::default()).checked, 0);
    }

    #[test]
    fn what_a_counted_policy_dropped_is_told_apart() {
        let mut sketch = three();
        sketch.delivered(1, 0, 1);
        let observed = Observed {
            dropped: [("queue_dropped_full_total".to_owned(), 1)].into(),
            ..Observed::default()
        };
        let verdict = verdict(&sketch, &observed);
        assert_eq!((verdict.checked, verdict.count, verdict.excused), (2, 0, 1));
    }
}
