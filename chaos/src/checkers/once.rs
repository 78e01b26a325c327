//! A message of QoS 2 comes exactly once: not lost, and not twice by the protocol of packet ids.

use super::lost::is_decided;
use super::view::{Message, Seen, View, seconds};
use super::{Observed, Verdict};
use crate::history::{Role, What};

pub(super) fn check(view: &View<'_>, observed: &Observed) -> Verdict {
    let mut verdict = missing(view, observed);
    verdict.excuse(observed.dropped.values().sum());
    for client in &view.clients {
        // What was taken in an earlier session may be taken again in a later one.
        let mut taken = Seen::default();
        for (actor, event) in &client.events {
            match event.what {
                What::Connected {
                    session_present: false,
                } => taken = Seen::default(),
                What::Delivered {
                    publisher,
                    number,
                    packet_id,
                    flags,
                    ..
                } if flags.qos == 2 && !flags.again && !flags.retain => {
                    let message: Message = (publisher, number);
                    match role_of(view, publisher) {
                        // See `wills`.
                        Some(Role::Willing) => continue,
                        // What was under way when its session was started anew, it sends again (docs/adr/009).
                        Some(Role::Resetter) if observed.has_pauses() => continue,
                        _ => {}
                    }
                    verdict.check(taken.insert(message), || {
                        format!(
                            "{} came to {} (actor {actor}) again at {} under packet id {packet_id}",
                            view.name(message),
                            client.id,
                            seconds(event.at_us)
                        )
                    });
                }
                _ => {}
            }
        }
    }
    verdict
}

/// Those that were received by the node and are due at a session with QoS 2.
pub(super) fn missing(view: &View<'_>, observed: &Observed) -> Verdict {
    let mut verdict = Verdict::new("exactly-once");
    for client in view
        .clients
        .iter()
        .filter(|client| is_decided(client, observed))
    {
        let is_due = |filter: u32| !view.is_shared[filter as usize];
        let spans = client
            .spans
            .iter()
            .filter(|span| span.is_open() && span.qos == 2);
        let spans: Vec<_> = spans.filter(|span| is_due(span.filter)).collect();
        if spans.is_empty() {
            continue;
        }
        let seen = Seen::of(client);
        for span in spans {
            for (message, _) in view.promised(span).filter(|(_, one)| one.qos == 2) {
                verdict.check(seen.contains(message), || {
                    format!("{} never came to {}", view.name(message), client.id)
                });
            }
        }
    }
    verdict
}

fn role_of(view: &View<'_>, actor: u32) -> Option<Role> {
    view.history.actors.get(actor as usize).map(|one| one.role)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sketch::Sketch;
    use crate::history::End;

    /// A publisher (0) with one message of QoS 2, and a subscriber (1).
    fn one() -> Sketch {
        let mut sketch = Sketch::default();
        let from = sketch.actor("from", Role::Publisher, 3_600);
        let to = sketch.actor("to", Role::Subscriber, 3_600);
        sketch.connected(to, false).subscribed(to, "t", 2);
        sketch
            .connected(from, false)
            .publishing(from, 0, "t", 2)
            .acked(from, 0);
        sketch
    }

    fn verdict(sketch: &Sketch) -> Verdict {
        check(&View::of(&sketch.history()), &Observed::default())
    }

    #[test]
    fn a_packet_that_comes_again_before_it_is_released_is_one_message() {
        let mut sketch = one();
        sketch
            .delivered(1, 0, 0)
            .ended(1, End::Cut)
            .connected(1, true);
        sketch.delivered_again(1, 0, 0);
        assert_eq!((verdict(&sketch).checked, verdict(&sketch).count), (2, 0));
    }

    #[test]
    fn a_message_that_comes_after_its_release_is_there_twice() {
        let mut sketch = one();
        sketch
            .delivered(1, 0, 0)
            .ended(1, End::Cut)
            .connected(1, true);
        sketch.delivered(1, 0, 0);
        let verdict = verdict(&sketch);
        assert_eq!(verdict.count, 1);
        assert!(verdict.violations[0].contains("again"), "{verdict:?}");
    }

    #[test]
    fn a_message_that_never_comes_is_there_less_than_once() {
        assert_eq!(verdict(&one()).count, 1);
    }
}
