//! Nothing came that MQTT or the workload does not explain: no negative acknowledgement (trouble that may pass gets
//! none), no acknowledgement of nothing, no packet id in use, no payload that nobody has sent. And nothing that was
//! confirmed on a connection is unknown there later.

use std::collections::BTreeSet;

use super::Verdict;
use super::view::{View, seconds};
use crate::history::{Actor, End, What};

/// Reasons with which a node may refuse a CONNECT for a while: unavailable, busy, shutting down, use another server,
/// server moved, connection rate exceeded, quota exceeded.
const REFUSALS: [u8; 7] = [0x88, 0x89, 0x8B, 0x9C, 0x9D, 0x9F, 0x97];

/// Reasons with which it may end a connection: the same, keep alive timeout, session taken over, administrative action.
const ENDS: [u8; 8] = [0x88, 0x89, 0x8B, 0x8D, 0x8E, 0x98, 0x9C, 0x9D];

/// Packet identifier not found (PUBCOMP).
const NOT_FOUND: u8 = 0x92;
/// No subscription existed (UNSUBACK).
const NO_SUBSCRIPTION: u8 = 0x11;

pub(super) fn check(view: &View<'_>) -> Verdict {
    let mut verdict = Verdict::new("protocol");
    for client in &view.clients {
        for (actor, event) in &client.events {
            let is_good = match event.what {
                What::PubAcked { reason, .. }
                | What::PubReced { reason, .. }
                | What::Subscribed { reason, .. }
                | What::Unsubscribed { reason, .. } => reason < 0x80,
                // The answer to PUBREL once PUBCOMP was lost; see below.
                What::PubComped { reason, .. } => reason < 0x80 || reason == NOT_FOUND,
                What::Refused { reason } => REFUSALS.contains(&reason),
                What::Ended {
                    why: End::Told,
                    reason,
                } => ENDS.contains(&reason),
                What::Ended { why, .. } => why != End::Malformed,
                What::Delivered {
                    publisher, number, ..
                } => is_sent(view, publisher, number),
                What::Stray { .. } => false,
                _ => continue,
            };
            verdict.check(is_good, || {
                format!(
                    "{} (actor {actor}) at {}: {:?}",
                    client.id,
                    seconds(event.at_us),
                    event.what
                )
            });
        }
    }
    for actor in &view.history.actors {
        check_known(view, actor, &mut verdict);
    }
    verdict
}

/// What a connection was confirmed: exchanges by PUBREC, subscriptions by SUBACK.
#[derive(Default)]
struct Confirmed {
    received: BTreeSet<u32>,
    subscribed: BTreeSet<u32>,
    /// Subscriptions of which the end is asked for.
    ending: BTreeSet<u32>,
}

/// The end of an exchange or a subscription is not answered with "there was none" on the connection where its
/// beginning was confirmed: a repeat within the cluster is answered as the first was.
fn check_known(view: &View<'_>, actor: &Actor, verdict: &mut Verdict) {
    let mut confirmed = Confirmed::default();
    for event in &actor.events {
        let is_known = match event.what {
            What::Connecting { .. } => {
                confirmed = Confirmed::default();
                continue;
            }
            What::PubReced { number, .. } => {
                confirmed.received.insert(number);
                continue;
            }
            What::Subscribed { filter, .. } => {
                confirmed.subscribed.insert(filter);
                continue;
            }
            What::Unsubscribing { filter } => {
                if confirmed.subscribed.remove(&filter) {
                    confirmed.ending.insert(filter);
                }
                continue;
            }
            What::PubComped { number, reason, .. } => {
                !confirmed.received.remove(&number) || reason != NOT_FOUND
            }
            What::Unsubscribed { filter, reason } => {
                !confirmed.ending.remove(&filter) || reason != NO_SUBSCRIPTION
            }
            _ => continue,
        };
        verdict.check(is_known, || {
            format!(
                "{} at {}, of what was confirmed on the same connection: {:?}{}",
                actor.client_id,
                seconds(event.at_us),
                event.what,
                match event.what {
                    What::Unsubscribed { filter, .. } => format!(", {}", view.filter(filter)),
                    _ => String::new(),
                }
            )
        });
    }
}

/// Whether the message was sent, or is the will of a connection that was tried.
fn is_sent(view: &View<'_>, publisher: u32, number: u32) -> bool {
    let is_published = view.published((publisher, number)).is_some();
    is_published
        || view.history.actors.get(publisher as usize).is_some_and(|actor| {
            actor.events.iter().any(|event| {
                matches!(event.what, What::Connecting { connection, will: true, .. } if connection == number)
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sketch::Sketch;
    use crate::history::{Role, Stray};

    fn verdict(sketch: &Sketch) -> Verdict {
        check(&View::of(&sketch.history()))
    }

    #[test]
    fn passing_trouble_is_told_and_everything_else_is_found() {
        let mut sketch = Sketch::default();
        let one = sketch.actor("one", Role::Publisher, 3_600);
        sketch.connected(one, false).told(one, 0x8B);
        assert_eq!(verdict(&sketch).count, 0);
        sketch.connected(one, true).told(one, 0x82);
        assert_eq!(verdict(&sketch).count, 1);
        sketch.event(
            one,
            What::Stray {
                stray: Stray::Payload,
                detail: 0,
            },
        );
        assert_eq!(verdict(&sketch).count, 2);
    }

    fn completed(reason: u8, is_same_connection: bool) -> Verdict {
        let mut sketch = Sketch::default();
        let one = sketch.actor("one", Role::Publisher, 3_600);
        sketch
            .connected(one, false)
            .publishing(one, 0, "t", 2)
            .acked(one, 0);
        if !is_same_connection {
            sketch.ended(one, End::Closed).connected(one, true);
        }
        sketch.event(
            one,
            What::PubComped {
                number: 0,
                packet_id: 1,
                reason,
            },
        );
        verdict(&sketch)
    }

    #[test]
    fn an_exchange_is_known_where_its_pubrec_came() {
        assert_eq!(completed(0, true).count, 0);
        assert_eq!(completed(NOT_FOUND, false).count, 0, "its PUBCOMP was lost");
        assert_eq!(completed(NOT_FOUND, true).count, 1);
    }

    #[test]
    fn a_subscription_is_known_where_its_suback_came() {
        let mut sketch = Sketch::default();
        let one = sketch.actor("one", Role::Churner, 3_600);
        sketch.connected(one, false);
        for reason in [0, NO_SUBSCRIPTION] {
            let filter = 0;
            sketch.subscribed(one, "t", 1);
            sketch.event(one, What::Unsubscribing { filter });
            sketch.event(one, What::Unsubscribed { filter, reason });
        }
        assert_eq!(verdict(&sketch).count, 1);
        let filter = 0;
        sketch.event(one, What::Unsubscribing { filter });
        let reason = NO_SUBSCRIPTION;
        sketch.event(one, What::Unsubscribed { filter, reason });
        assert_eq!(verdict(&sketch).count, 1, "it was gone already");
    }

    #[test]
    fn a_negative_acknowledgement_and_a_message_that_nobody_sent_are_found() {
        let mut sketch = Sketch::default();
        let one = sketch.actor("one", Role::Publisher, 3_600);
        sketch.connected(one, false).publishing(one, 0, "t", 1);
        sketch.event(
            one,
            What::PubAcked {
                number: 0,
                packet_id: 1,
                reason: 0x97,
            },
        );
        assert_eq!(verdict(&sketch).count, 1);
        sketch.will(one, one, 7);
        assert_eq!(verdict(&sketch).count, 2);
    }
}
