//! Messages of one publisher, topic and QoS come in the order in which they were sent, where they come for the
//! first time.

use std::collections::HashMap;

use super::Verdict;
use super::view::{Client, Seen, View, seconds};
use crate::history::What;

pub(super) fn check(view: &View<'_>) -> Verdict {
    let mut verdict = Verdict::new("order");
    for client in &view.clients {
        check_client(view, client, &mut verdict);
    }
    verdict
}

fn check_client(view: &View<'_>, client: &Client<'_>, verdict: &mut Verdict) {
    let mut seen = Seen::default();
    // The last of each receiving actor, publisher, topic and QoS. Two users of a session read their sockets in
    // no order, so each is looked at by itself. With QoS 0 also of each of the publisher's connections: a node
    // that stood still reads what came on an old one after the client has gone on at another node, and nothing
    // ties the two together.
    let mut last: HashMap<(u32, u32, u32, u8, Option<u32>), u32> = HashMap::new();
    for (actor, event) in &client.events {
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
        // A retained message is no delivery of what was published.
        if flags.retain || !seen.insert((publisher, number)) {
            continue;
        }
        let Some(published) = view.published((publisher, number)) else {
            continue;
        };
        // It was on its way through a slow network when its client threw the session away and went on elsewhere:
        // nothing ties the two sessions together.
        if published.is_given_up {
            continue;
        }
        // What was sent before SUBACK may have missed the subscription at first, and met it when it was sent again.
        let spans = client.spans.iter().rev().filter(|span| {
            !view.is_shared[span.filter as usize] && view.matches(span.filter, topic)
        });
        let mut spans = spans.skip_while(|span| span.from_us > event.at_us);
        // And when that session is over, the next one's subscription may have begun at any time before its SUBACK.
        let is_promised = spans
            .next()
            .is_some_and(|span| span.from_us < published.first_us && event.at_us <= span.until_us);
        if !is_promised {
            continue;
        }
        let connection = (published.qos == 0).then_some(published.connection);
        let key = (*actor, publisher, topic, published.qos, connection);
        let before = last.insert(key, number);
        verdict.check(before.is_none_or(|before| before < number), || {
            format!(
                "{} came to {} at {} for the first time, after number {}",
                view.name((publisher, number)),
                client.id,
                seconds(event.at_us),
                before.unwrap_or_default()
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sketch::Sketch;
    use crate::history::{End, Role};

    fn sent<const N: usize>(qos: [u8; N]) -> Sketch {
        let mut sketch = Sketch::default();
        let from = sketch.actor("from", Role::Publisher, 3_600);
        let to = sketch.actor("to", Role::Subscriber, 3_600);
        sketch.connected(to, false).subscribed(to, "t", 2);
        sketch.connected(from, false);
        for (number, qos) in (0..).zip(qos) {
            sketch.publishing(from, number, "t", qos);
        }
        sketch
    }

    fn verdict(sketch: &Sketch) -> Verdict {
        check(&View::of(&sketch.history()))
    }

    #[test]
    fn repeats_and_gaps_are_in_order_and_each_qos_counts_by_itself() {
        let mut sketch = sent([1, 1, 1]);
        sketch
            .delivered(1, 0, 0)
            .delivered(1, 0, 2)
            .delivered(1, 0, 0);
        assert_eq!((verdict(&sketch).checked, verdict(&sketch).count), (2, 0));

        let mut sketch = sent([1, 2, 1]);
        sketch
            .delivered(1, 0, 1)
            .delivered(1, 0, 0)
            .delivered(1, 0, 2);
        assert_eq!((verdict(&sketch).checked, verdict(&sketch).count), (3, 0));
    }

    #[test]
    fn a_session_that_began_anew_has_no_order_before_its_suback() {
        let mut sketch = sent([1, 1]);
        sketch.ended(1, End::Closed).connected(1, false);
        // It was sent again, and met the subscription whose SUBACK is still to come.
        sketch.delivered(1, 0, 1).delivered(1, 0, 0);
        assert_eq!((verdict(&sketch).checked, verdict(&sketch).count), (0, 0));
    }

    #[test]
    fn a_message_that_comes_first_after_a_later_one_is_out_of_order() {
        let mut sketch = sent([1, 1, 1]);
        sketch
            .delivered(1, 0, 0)
            .delivered(1, 0, 2)
            .delivered(1, 0, 1);
        let verdict = verdict(&sketch);
        assert_eq!(verdict.count, 1);
        assert!(verdict.violations[0].contains("message 1"), "{verdict:?}");
    }

    #[test]
    fn qos_0_of_an_earlier_connection_may_be_read_late_and_no_other() {
        let checked = |qos, reconnects| {
            let mut sketch = sent([qos]);
            if reconnects {
                sketch.ended(0, End::Cut).connected(0, false);
            }
            sketch.publishing(0, 1, "t", qos);
            sketch.delivered(1, 0, 1).delivered(1, 0, 0);
            verdict(&sketch).count
        };

        assert_eq!(
            [checked(0, true), checked(0, false), checked(1, true)],
            [0, 1, 1]
        );
    }

    #[test]
    fn what_was_given_up_with_its_session_may_come_late() {
        let checked = |is_given_up| {
            let mut sketch = sent([1]);
            sketch.ended(0, End::Cut).connected(0, false);
            if is_given_up {
                sketch.event(0, What::GivenUp { number: 0 });
            }
            sketch.publishing(0, 1, "t", 1);
            sketch.delivered(1, 0, 1).delivered(1, 0, 0);
            verdict(&sketch).count
        };

        assert_eq!([checked(true), checked(false)], [0, 1]);
    }

    #[test]
    fn what_was_sent_before_suback_is_in_no_order() {
        let mut sketch = Sketch::default();
        let from = sketch.actor("from", Role::Publisher, 3_600);
        let to = sketch.actor("to", Role::Clean, 0);
        sketch.connected(from, false).publishing(from, 0, "t", 1);
        sketch.connected(to, false).subscribed(to, "t", 1);
        sketch.publishing(from, 1, "t", 1);
        sketch.delivered(to, 0, 1).delivered(to, 0, 0);
        assert_eq!((verdict(&sketch).checked, verdict(&sketch).count), (1, 0));
    }

    #[test]
    fn an_earlier_subscription_promises_nothing_for_a_later_one() {
        let mut sketch = Sketch::default();
        let from = sketch.actor("from", Role::Publisher, 3_600);
        let to = sketch.actor("to", Role::Clean, 0);
        sketch
            .connected(to, false)
            .subscribed(to, "t", 1)
            .ended(to, End::Cut);
        sketch.connected(from, false).publishing(from, 0, "t", 1);
        sketch.connected(to, false).subscribed(to, "t", 1);
        sketch.publishing(from, 1, "t", 1);
        sketch.delivered(to, from, 1).delivered(to, from, 0);
        assert_eq!((verdict(&sketch).checked, verdict(&sketch).count), (1, 0));
    }
}
