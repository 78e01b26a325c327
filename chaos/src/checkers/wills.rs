//! A will is published once when its connection ends without a DISCONNECT, and never after one.
//!
//! Each connection's will carries the connection's number. Whether a DISCONNECT was read, the client sees by the node
//! closing the connection; that it is on the disk it does not see, so a fault shortly after excuses a will.

use std::collections::HashMap;
use std::time::Duration;

use super::view::{Client, Connection, Message, View, seconds};
use super::{Observed, Verdict};
use crate::history::{End, Role, What};

/// What breaks so soon after a DISCONNECT, or shortly before, may undo it.
const SETTLING: Duration = Duration::from_secs(10);

pub(super) fn check(view: &View<'_>, observed: &Observed) -> Verdict {
    judge(view, observed, true)
}

/// Only wills that are due and have not come.
pub(super) fn missing(view: &View<'_>) -> Verdict {
    judge(view, &Observed::default(), false)
}

fn judge(view: &View<'_>, observed: &Observed, with_too_many: bool) -> Verdict {
    let mut verdict = Verdict::new("wills");
    let willing = view.clients.iter().filter(|one| one.role == Role::Willing);
    let willing: Vec<&Client<'_>> = willing.collect();
    for observer in view.clients.iter().filter(|one| one.role == Role::Observer) {
        let Some(from_us) = observer
            .spans
            .iter()
            .find(|one| one.is_open())
            .map(|one| one.from_us)
        else {
            continue;
        };
        let came = count(observer);
        for client in &willing {
            for one in &client.connections {
                let count = came.get(&(one.actor, one.number)).copied().unwrap_or(0);
                let (least, most) = expected(one, observed);
                let least = if one.connected_us > from_us { least } else { 0 };
                if !with_too_many {
                    verdict.check(count >= least, String::new);
                    continue;
                }
                verdict.check((least..=most).contains(&count), || {
                    format!(
                        "the will of connection {} of {} ({} to {}, ended {:?} {:#04x}) came {count} times to {}, due are {least} to {most}",
                        one.number,
                        client.id,
                        seconds(one.connected_us),
                        seconds(one.ended_us),
                        one.end,
                        one.reason,
                        observer.id,
                    )
                });
            }
        }
    }
    verdict
}

/// How often each will came to an observer. What is marked as sent again is no message of its own.
fn count(observer: &Client<'_>) -> HashMap<Message, u32> {
    let mut came = HashMap::new();
    for (_, event) in &observer.events {
        if let What::Delivered {
            publisher,
            number,
            flags,
            ..
        } = event.what
        {
            let is_repeat = flags.again || (flags.qos < 2 && flags.dup);
            *came.entry((publisher, number)).or_default() += u32::from(!is_repeat);
        }
    }
    // A message that only came marked as sent again was sent before to a connection that broke.
    for (_, event) in &observer.events {
        if let What::Delivered {
            publisher, number, ..
        } = event.what
        {
            let count: &mut u32 = came.entry((publisher, number)).or_default();
            *count = (*count).max(1);
        }
    }
    came
}

/// How often the will of a connection may come.
fn expected(one: &Connection, observed: &Observed) -> (u32, u32) {
    let Some(end) = one.end else {
        // It is connected.
        return (0, 0);
    };
    match end {
        _ if end == End::Unreachable => (0, 0),
        // The node may have read CONNECT, and more than that is not known. Nor after a refusal: the `Open` that it waited
        // for may be in the shard's log, and ends with the node's epoch as that of any other connection.
        _ if !one.is_connected() => (0, 1),
        End::Left => {
            let about_us = one.ended_us.saturating_sub(1_000_000);
            let until_us = one.ended_us.saturating_add(SETTLING.as_micros() as u64);
            let is_troubled = observed.is_troubled(about_us, until_us, SETTLING);
            (0, u32::from(is_troubled))
        }
        End::LeftUnseen | End::Told => (0, 1),
        End::Cut | End::Closed | End::Slow | End::Malformed | End::Unreachable => (1, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::Window;
    use crate::checkers::sketch::Sketch;

    /// A willing client (0) whose connection has ended so, and an observer (1).
    fn ended(end: End) -> Sketch {
        let mut sketch = Sketch::default();
        let willing = sketch.actor("willing", Role::Willing, 0);
        let observer = sketch.actor("observer", Role::Observer, 3_600);
        sketch
            .connected(observer, false)
            .subscribed(observer, "will/+", 2);
        sketch.connected(willing, false).ended(willing, end);
        sketch
    }

    fn count_of(sketch: &Sketch) -> u64 {
        check(&View::of(&sketch.history()), &Observed::default()).count
    }

    #[test]
    fn a_connection_that_broke_has_its_will_once() {
        let mut sketch = ended(End::Cut);
        assert_eq!(count_of(&sketch), 1, "it is missing");
        sketch.will(1, 0, 0);
        assert_eq!(count_of(&sketch), 0);
        sketch.will(1, 0, 0);
        assert_eq!(count_of(&sketch), 1, "it came twice");
    }

    #[test]
    fn no_will_follows_a_disconnect_unless_something_broke() {
        let mut sketch = ended(End::Left);
        assert_eq!(count_of(&sketch), 0);
        sketch.will(1, 0, 0);
        assert_eq!(count_of(&sketch), 1);
        let observed = Observed {
            faults: vec![Window {
                from_us: 0,
                until_us: 1_000,
                is_pause: false,
            }],
            ..Observed::default()
        };
        assert_eq!(check(&View::of(&sketch.history()), &observed).count, 0);
    }
}
