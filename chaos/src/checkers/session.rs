//! A resume finds the session and its subscriptions; a clean start finds none.
//!
//! The subscriptions that a resume finds are what `lost` relies on. Here: Session Present, and that after a clean start
//! nothing comes that only an earlier incarnation has subscribed to.

use std::collections::BTreeSet;

use super::view::{Client, Connection, View, seconds};
use super::{Observed, Verdict};
use crate::history::What;

/// Less than this before its expiry a session may be gone.
const EXPIRY_MARGIN_US: u64 = 1_000_000;

pub(super) fn check(view: &View<'_>, observed: &Observed) -> Verdict {
    let mut verdict = Verdict::new("session");
    for client in &view.clients {
        check_presence(client, &mut verdict);
        // A CONNECT with clean start that a paused process reads late ends what came after it (docs/adr/009).
        if !observed.has_pauses() {
            check_strangers(view, client, &mut verdict);
        }
    }
    verdict
}

fn check_presence(client: &Client<'_>, verdict: &mut Verdict) {
    let connected = client.connections.iter().filter(|one| one.is_connected());
    let mut connected: Vec<&Connection> = connected.collect();
    connected.sort_by_key(|one| one.connected_us);
    for (at, one) in connected.iter().enumerate() {
        let is_present = one.session_present;
        let words = |what: &str| {
            format!(
                "{}: actor {} connected at {} {what}",
                client.id,
                one.actor,
                seconds(one.connected_us)
            )
        };
        //# [MQTT-3.2.2-2] If the Server accepts a connection with Clean Start set to 1, the Server MUST set Session
        //# Present to 0 in the CONNACK packet
        if one.clean_start {
            verdict.check(!is_present, || {
                words("with clean start and found a session")
            });
            continue;
        }
        if is_kept(client, &connected[..at], one) {
            verdict.check(is_present, || {
                words("and did not find the session that it had")
            });
        } else if is_first(client, one) {
            verdict.check(!is_present, || {
                words("for the first time and found a session")
            });
        }
    }
}

/// Whether a session was there and cannot have expired.
fn is_kept(client: &Client<'_>, before: &[&Connection], one: &Connection) -> bool {
    let expiry_us = u64::from(client.expiry_s) * 1_000_000;
    let last_end_us = before.iter().map(|other| other.ended_us).max();
    last_end_us.is_some_and(|end_us| {
        let absent_us = one.connected_us.saturating_sub(end_us);
        absent_us + EXPIRY_MARGIN_US < expiry_us
    })
}

/// Whether nobody has tried to connect under this id before.
fn is_first(client: &Client<'_>, one: &Connection) -> bool {
    let mut others = client.connections.iter();
    others.all(|other| other.dialed_us >= one.dialed_us)
}

/// After a clean start, deliveries of what only the session before it had subscribed to.
fn check_strangers(view: &View<'_>, client: &Client<'_>, verdict: &mut Verdict) {
    let starts = client.connections.iter();
    let mut starts = starts.filter(|one| one.clean_start && one.is_connected());
    if client.expiry_s == 0 || starts.next().is_none() {
        return;
    }
    let mut is_new = false;
    let mut is_clean_start = false;
    let mut filters = BTreeSet::new();
    for (_, event) in &client.events {
        match event.what {
            What::Connecting { clean_start, .. } => is_clean_start = clean_start,
            What::Connected { .. } if is_clean_start => {
                is_new = true;
                filters.clear();
            }
            What::Subscribing { filter, .. } => {
                filters.insert(filter);
            }
            What::Delivered {
                publisher,
                number,
                topic,
                ..
            } if is_new => {
                let is_wanted = filters.iter().any(|filter| view.matches(*filter, topic));
                verdict.check(is_wanted, || {
                    format!(
                        "{} came to {} at {}, which has started clean and not subscribed to that",
                        view.name((publisher, number)),
                        client.id,
                        seconds(event.at_us)
                    )
                });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::checkers::sketch::Sketch;
    use crate::history::{End, Role};

    fn verdict(sketch: &Sketch) -> Verdict {
        check(&View::of(&sketch.history()), &Observed::default())
    }

    fn connected_once(expiry_s: u32) -> Sketch {
        let mut sketch = Sketch::default();
        let one = sketch.actor("one", Role::Resetter, expiry_s);
        sketch.connected(one, false).ended(one, End::Cut);
        sketch
    }

    #[test]
    fn a_session_is_found_again_and_may_expire() {
        let mut sketch = connected_once(3);
        sketch.connected(0, true).ended(0, End::Cut);
        sketch
            .pass(Duration::from_millis(2_500))
            .connected(0, false);
        assert_eq!((verdict(&sketch).checked, verdict(&sketch).count), (2, 0));
    }

    #[test]
    fn a_session_that_is_gone_too_early_is_found() {
        let mut sketch = connected_once(3_600);
        sketch.connected(0, false);
        assert_eq!(verdict(&sketch).count, 1);
    }

    #[test]
    fn a_session_found_by_the_first_connect_or_a_clean_start_is_found() {
        let mut sketch = Sketch::default();
        let one = sketch.actor("one", Role::Resetter, 3_600);
        sketch.connected(one, true).ended(one, End::Cut);
        sketch.started_clean(one, true);
        assert_eq!(verdict(&sketch).count, 2);
    }

    #[test]
    fn what_only_the_session_before_a_clean_start_wanted_must_not_come() {
        let mut sketch = connected_once(3_600);
        let from = sketch.actor("from", Role::Publisher, 3_600);
        sketch
            .connected(0, true)
            .subscribed(0, "a", 1)
            .ended(0, End::Cut);
        sketch
            .connected(from, false)
            .publishing(from, 0, "a", 1)
            .publishing(from, 1, "b", 1);
        sketch.started_clean(0, false).subscribed(0, "b", 1);
        sketch.delivered(0, from, 1);
        assert_eq!(verdict(&sketch).count, 0);
        sketch.delivered(0, from, 0);
        assert_eq!(verdict(&sketch).count, 1);
    }
}
