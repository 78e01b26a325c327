//! One owner per client id, by epoch.
//!
//! What a client can see of it: after the CONNACK of a newer connection an older one of the same client id gets no
//! acknowledgement and no message of QoS 1 or 2 any more, once [`OVERLAP`] has passed (sockets may overlap for at most a
//! lease). And a connection is told 0x8E, or "taken over", only if somebody connected after it, or was still
//! connecting when it was: a delayed CONNECT never unseats a later one.

use std::time::Duration;

use super::view::{Client, Connection, View, seconds};
use super::{Observed, Verdict};
use crate::history::{Event, What};

/// A lease (3 s), and time for what is in the sockets on a busy machine.
pub(super) const OVERLAP: Duration = Duration::from_secs(5);

/// A socket's end and a CONNECT on the way to the same machine may pass each other by as much.
const PASSING: Duration = Duration::from_secs(1);

const TAKEN_OVER: u8 = 0x8E;

pub(super) fn check(view: &View<'_>, observed: &Observed) -> Verdict {
    let mut verdict = Verdict::new("owner");
    for client in &view.clients {
        let connected = client.connections.iter().filter(|one| one.is_connected());
        let mut connected: Vec<&Connection> = connected.collect();
        connected.sort_by_key(|one| one.connected_us);
        for (at, old) in connected.iter().enumerate() {
            if let Some(new) = connected.get(at + 1) {
                check_overlap(client, old, new, &mut verdict);
            }
        }
        for one in connected.iter().filter(|one| one.reason == TAKEN_OVER) {
            check_takeover(client, one, observed, &mut verdict);
        }
    }
    verdict
}

fn check_overlap(client: &Client<'_>, old: &Connection, new: &Connection, verdict: &mut Verdict) {
    if old.actor == new.actor {
        // It has closed the old one before.
        return;
    }
    let until_us = new.connected_us.saturating_add(OVERLAP.as_micros() as u64);
    let late = client.events.iter().find(|(actor, event)| {
        *actor == old.actor
            && event.at_us > until_us
            && event.at_us < old.ended_us
            && is_owners(event)
    });
    verdict.check(late.is_none(), || {
        let (what, at_us) = late.map_or_else(Default::default, |(_, event)| {
            (format!("{:?}", event.what), event.at_us)
        });
        format!(
            "{}: actor {} is connected since {}, and actor {} still got {what} at {}",
            client.id,
            new.actor,
            seconds(new.connected_us),
            old.actor,
            seconds(at_us)
        )
    });
}

/// Whether this goes to the owner of a session only.
fn is_owners(event: &Event) -> bool {
    match event.what {
        What::PubAcked { .. }
        | What::PubReced { .. }
        | What::PubComped { .. }
        | What::Subscribed { .. }
        | What::Unsubscribed { .. } => true,
        What::Delivered { flags, .. } => flags.qos > 0,
        _ => false,
    }
}

fn check_takeover(
    client: &Client<'_>,
    one: &Connection,
    observed: &Observed,
    verdict: &mut Verdict,
) {
    let passing_us = PASSING.as_micros() as u64;
    // A paused process reads afterwards what its clients have long given up.
    let is_explained = observed.has_pauses()
        || client.connections.iter().any(|other| {
            (other.actor, other.number) != (one.actor, one.number)
                && other.dialed_us < one.ended_us
                && other.ended_us.saturating_add(passing_us) >= one.dialed_us
        });
    verdict.check(is_explained, || {
        format!(
            "{}: actor {} connected at {} and was told at {} that another has taken over, but nobody has",
            client.id,
            one.actor,
            seconds(one.connected_us),
            seconds(one.ended_us)
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sketch::Sketch;
    use crate::history::{End, Role};

    fn verdict(sketch: &Sketch) -> Verdict {
        check(&View::of(&sketch.history()), &Observed::default())
    }

    /// Two users of an id; the second has connected over the first, which has a message under way.
    fn taken_over() -> Sketch {
        let mut sketch = Sketch::default();
        let first = sketch.actor("own", Role::Contender, 3_600);
        let second = sketch.actor("own", Role::Contender, 3_600);
        sketch.connected(first, false).publishing(first, 0, "t", 1);
        sketch.connected(second, true);
        sketch
    }

    #[test]
    fn an_old_connection_may_end_a_moment_after_the_new_one_began() {
        let mut sketch = taken_over();
        sketch.acked(0, 0).told(0, TAKEN_OVER);
        assert_eq!((verdict(&sketch).checked, verdict(&sketch).count), (2, 0));
    }

    #[test]
    fn an_acknowledgement_long_after_the_newer_connack_is_found() {
        let mut sketch = taken_over();
        sketch.pass(OVERLAP).acked(0, 0).ended(0, End::Closed);
        let verdict = verdict(&sketch);
        assert_eq!(verdict.count, 1);
        assert!(verdict.violations[0].contains("PubAcked"), "{verdict:?}");
    }

    #[test]
    fn a_takeover_by_nobody_is_found() {
        let mut sketch = Sketch::default();
        let alone = sketch.actor("alone", Role::Subscriber, 3_600);
        sketch.connected(alone, false).ended(alone, End::Slow);
        sketch.pass(Duration::from_secs(2));
        sketch
            .connected(alone, true)
            .pass(Duration::from_secs(1))
            .told(alone, TAKEN_OVER);
        assert_eq!(verdict(&sketch).count, 1);
    }
}
