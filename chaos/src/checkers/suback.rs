//! What is published anywhere after a SUBACK reaches the subscriber, also one whose session ends with its connection.
//!
//! Decided are subscriptions of clean sessions, and those that ended with an UNSUBSCRIBE. Such a connection may have
//! been cut off from the others without knowing it, and then its end settles what was for it. So a message counts only
//! if a later one, sent after it was acknowledged and acknowledged soon, came on that connection: queues keep the order,
//! so the earlier one was passed over. Or if it was acknowledged right after the SUBACK, when the node must have had its
//! lease, and anything came from the node well after that.

use super::view::{Client, NEVER, Seen, Span, View, seconds};
use super::{Observed, Verdict};
use crate::history::{Role, What};

/// An acknowledgement that comes so soon waited for no lease and no epoch's end.
const SOON_US: u64 = 2_000_000;

/// A SUBACK leaves under a lease, whose end is 500 ms before the earliest end of the node's epoch: what is acknowledged
/// within this time waited for the node, and was taken there.
const LEASED_US: u64 = 400_000;

/// A node from which something came so long after an acknowledgement has handed out what it had then.
const HANDED_US: u64 = 1_500_000;

pub(super) fn check(view: &View<'_>, observed: &Observed) -> Verdict {
    let mut verdict = Verdict::new("suback");
    let roles = [Role::Clean, Role::Churner];
    for client in view.clients.iter().filter(|one| roles.contains(&one.role)) {
        let decided = client
            .spans
            .iter()
            .filter(|span| client.expiry_s == 0 || !span.is_open());
        for span in decided {
            check_span(view, client, span, &mut verdict);
        }
    }
    verdict.excuse(observed.dropped.values().sum());
    verdict
}

fn check_span(view: &View<'_>, client: &Client<'_>, span: &Span, verdict: &mut Verdict) {
    let until_us = span.until_us.min(span.connection_until_us);
    let first = client
        .events
        .partition_point(|(_, event)| event.at_us < span.from_us);
    let mut seen = Seen::default();
    let mut witness_us = 0;
    let mut heard_us = 0;
    for (actor, event) in &client.events[first..] {
        if *actor != span.actor || event.at_us > span.connection_until_us {
            continue;
        }
        let is_from_node = matches!(event.what, What::Delivered { .. } | What::Ponged);
        if is_from_node && event.at_us < until_us {
            heard_us = event.at_us;
        }
        let What::Delivered {
            publisher,
            number,
            topic,
            flags,
            ..
        } = event.what
        else {
            continue;
        };
        let message = (publisher, number);
        seen.insert(message);
        let Some(published) = view.published(message) else {
            continue;
        };
        let is_witness = event.at_us < until_us
            && flags.qos >= 1
            && !flags.retain
            && view.matches(span.filter, topic)
            && published.acked_us.saturating_sub(published.first_us) <= SOON_US;
        if is_witness {
            witness_us = witness_us.max(published.first_us);
        }
    }
    for (message, published) in view.promised(span) {
        let is_passed_over = published.acked_us < witness_us;
        // What is for a session waits for its shard, however well its node is.
        let is_leased = client.expiry_s == 0
            && published.acked_us <= span.from_us + LEASED_US
            && published.acked_us + HANDED_US <= heard_us;
        if !is_passed_over && !is_leased {
            continue;
        }
        verdict.check(seen.contains(message), || {
            let until = if until_us == NEVER {
                "the end".to_owned()
            } else {
                seconds(until_us)
            };
            format!(
                "{} and acknowledged at {} did not come to {}, which had {} from {} to {until}",
                view.name(message),
                seconds(published.acked_us),
                client.id,
                view.filter(span.filter),
                seconds(span.from_us),
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::checkers::sketch::Sketch;

    fn subscribed() -> Sketch {
        let mut sketch = Sketch::default();
        let from = sketch.actor("from", Role::Publisher, 3_600);
        let to = sketch.actor("to", Role::Clean, 0);
        sketch
            .connected(from, false)
            .connected(to, false)
            .subscribed(to, "t", 1);
        sketch.publishing(from, 0, "t", 1).acked(from, 0);
        sketch.publishing(from, 1, "t", 1).acked(from, 1);
        sketch
    }

    fn verdict(sketch: &Sketch) -> Verdict {
        check(&View::of(&sketch.history()), &Observed::default())
    }

    #[test]
    fn a_message_that_a_later_one_passed_over_is_found() {
        let mut sketch = subscribed();
        sketch.delivered(1, 0, 1);
        assert_eq!((verdict(&sketch).checked, verdict(&sketch).count), (1, 1));
        sketch.delivered(1, 0, 0);
        assert_eq!((verdict(&sketch).checked, verdict(&sketch).count), (1, 0));
    }

    #[test]
    fn nothing_is_known_of_a_connection_on_which_nothing_came_after() {
        let mut sketch = subscribed();
        assert_eq!(verdict(&sketch).checked, 0);
        sketch.delivered(1, 0, 0);
        assert_eq!(verdict(&sketch).checked, 0);
    }

    #[test]
    fn a_message_acknowledged_right_after_suback_was_taken_there() {
        let mut sketch = subscribed();
        sketch
            .pass(Duration::from_micros(HANDED_US))
            .event(1, What::Ponged);
        assert_eq!((verdict(&sketch).checked, verdict(&sketch).count), (2, 2));
        sketch.delivered(1, 0, 0).delivered(1, 0, 1);
        assert_eq!(verdict(&sketch).count, 0);
    }
}
