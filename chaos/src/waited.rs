//! Which messages waited longest for their PUBACK, and what happened to their clients meanwhile.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::history::{Actor, End, Event, History, What};

/// Messages that are told of, at most one of each client.
const MESSAGES_MAX: usize = 5;
/// Steps of a client that are told.
const STEPS_MAX: usize = 16;
/// Reason of a DISCONNECT that says nothing of the node: another connection of the same client.
pub(crate) const TAKEN_OVER: u8 = 0x8E;

/// Is a message of QoS 1 that waited long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waited {
    /// Who published it.
    pub client_id: String,
    /// Where to.
    pub topic: String,
    /// When it was published first, in seconds from the beginning of the faults on; before, negative.
    pub at_s: f64,
    /// From then until its PUBACK, in seconds, without what the client was away for of its own accord.
    pub seconds: f64,
    /// What happened to its client meanwhile, each step with its seconds since the first PUBLISH.
    pub meanwhile: String,
}

/// Is a message of QoS 1 between its first PUBLISH and its PUBACK.
pub(crate) struct Wait {
    number: u32,
    /// Places of both among the events of its actor.
    from: usize,
    until: usize,
    /// How long the nodes withheld the PUBACK, in microseconds: what the client was away for of its own
    /// accord does not count, since nobody could have told it.
    pub(crate) us: u64,
}

/// Gives an actor's messages of QoS 1 that were acknowledged and under way at some time between two, in
/// microseconds.
pub(crate) fn waits_of(actor: &Actor, from_us: u64, until_us: u64) -> Vec<Wait> {
    let mut first: HashMap<u32, (usize, u64)> = HashMap::new();
    let mut waits = Vec::new();
    // All that it was away for until now, and since when it is.
    let (mut away_us, mut gone_us) = (0, None);
    for (place, Event { at_us, what }) in actor.events.iter().enumerate() {
        match what {
            What::Ended { why, reason } if is_own_wish(*why, *reason) => gone_us = Some(*at_us),
            What::Connecting { .. } => {
                away_us += gone_us.take().map_or(0, |gone| at_us.saturating_sub(gone));
            }
            What::Publishing { number, flags, .. } if flags.qos == 1 => {
                first.entry(*number).or_insert((place, away_us));
            }
            What::PubAcked { number, .. } => {
                let Some((from, away_before_us)) = first.remove(number) else {
                    continue;
                };
                let begin_us = actor.events[from].at_us;
                if *at_us < from_us || begin_us > until_us {
                    continue;
                }
                let away_us = away_us - away_before_us;
                waits.push(Wait {
                    number: *number,
                    from,
                    until: place,
                    us: at_us.saturating_sub(begin_us).saturating_sub(away_us),
                });
            }
            _ => {}
        }
    }
    waits
}

/// Whether it was the client that wanted to go, or another under its name.
fn is_own_wish(why: End, reason: u8) -> bool {
    match why {
        End::Left | End::LeftUnseen | End::Cut => true,
        End::Told => reason == TAKEN_OVER,
        End::Unreachable | End::Closed | End::Slow | End::Malformed => false,
    }
}

/// Gives the messages whose PUBACK was withheld longest of those that were under way at some time between
/// two, in microseconds, the longest first. Their times count from `zero_us` on.
pub(crate) fn longest(history: &History, from_us: u64, until_us: u64, zero_us: u64) -> Vec<Waited> {
    let of_each = history.actors.iter().filter_map(|actor| {
        let waits = waits_of(actor, from_us, until_us).into_iter();
        let longest = waits.max_by_key(|wait| wait.us)?;
        Some((actor, longest))
    });
    let mut waits: Vec<(&Actor, Wait)> = of_each.collect();
    waits.sort_by_key(|(_, wait)| Reverse(wait.us));
    waits.truncate(MESSAGES_MAX);
    let told = waits
        .iter()
        .map(|(actor, wait)| told(actor, wait, history, zero_us));
    told.collect()
}

fn told(actor: &Actor, wait: &Wait, history: &History, zero_us: u64) -> Waited {
    let events = &actor.events;
    let begin_us = events[wait.from].at_us;
    let (mut meanwhile, mut topic, mut steps) = (String::new(), 0, 0);
    for Event { at_us, what } in &events[wait.from..wait.until] {
        let step = match what {
            What::Publishing {
                number, topic: to, ..
            } if *number == wait.number => {
                topic = *to;
                "PUBLISH".to_owned()
            }
            What::Connecting { node, .. } => format!("CONNECT to node {}", node + 1),
            What::Connected { session_present } => {
                format!("CONNACK, session present {session_present}")
            }
            What::Refused { reason } => format!("refused, reason 0x{reason:02X}"),
            What::Ended { why, reason } => format!("ended: {why:?} 0x{reason:02X}"),
            _ => continue,
        };
        steps += 1;
        if steps > STEPS_MAX {
            continue;
        }
        let comma = if meanwhile.is_empty() { "" } else { ", " };
        let after_s = at_us.saturating_sub(begin_us) as f64 / 1e6;
        write!(meanwhile, "{comma}+{after_s:.3} {step}").expect("a String takes any text");
    }
    if steps > STEPS_MAX {
        let more = steps - STEPS_MAX;
        write!(meanwhile, ", and {more} more").expect("a String takes any text");
    }
    Waited {
        client_id: actor.client_id.clone(),
        topic: history.topics[topic as usize].clone(),
        at_s: (begin_us as f64 - zero_us as f64) / 1e6,
        seconds: wait.us as f64 / 1e6,
        meanwhile,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Flags, Role};

    fn sent(number: u32) -> What {
        What::Publishing {
            number,
            topic: 1,
            packet_id: 1,
            flags: Flags {
                qos: 1,
                ..Flags::default()
            },
        }
    }

    fn acked(number: u32) -> What {
        What::PubAcked {
            number,
            packet_id: 1,
            reason: 0,
        }
    }

    fn actor(client_id: &str, events: Vec<(u64, What)>) -> Actor {
        let events = events.into_iter();
        Actor {
            client_id: client_id.into(),
            role: Role::Publisher,
            expiry_s: 60,
            events: events.map(|(at_us, what)| Event { at_us, what }).collect(),
        }
    }

    #[test]
    fn the_longest_wait_of_each_client_is_told_with_its_steps() {
        let closed = What::Ended {
            why: End::Closed,
            reason: 0,
        };
        let connecting = What::Connecting {
            connection: 1,
            node: 2,
            clean_start: false,
            will: false,
        };
        let connected = What::Connected {
            session_present: true,
        };
        let refused = What::Refused { reason: 0x88 };
        let history = History {
            topics: vec!["a/0".into(), "a/1".into()],
            actors: vec![
                actor("quick", vec![(0, sent(0)), (5_000, acked(0))]),
                actor(
                    "slow",
                    vec![
                        (1_000_000, sent(0)),
                        (1_100_000, acked(0)),
                        (2_000_000, sent(1)),
                        (2_250_000, closed),
                        (2_300_000, connecting),
                        (2_400_000, refused),
                        (2_500_000, connecting),
                        (2_600_000, connected),
                        (2_700_000, sent(1)),
                        (4_500_000, acked(1)),
                        (9_000_000, sent(2)),
                        (19_000_000, acked(2)),
                    ],
                ),
            ],
            ..History::default()
        };
        let told = longest(&history, 0, 5_000_000, 1_500_000);
        let clients: Vec<&str> = told.iter().map(|one| one.client_id.as_str()).collect();
        assert_eq!(clients, ["slow", "quick"]);
        assert_eq!(told[0].topic, "a/1");
        assert_eq!((told[0].at_s, told[0].seconds), (0.5, 2.5));
        assert_eq!(
            told[0].meanwhile,
            "+0.000 PUBLISH, +0.250 ended: Closed 0x00, +0.300 CONNECT to node 3, \
             +0.400 refused, reason 0x88, +0.500 CONNECT to node 3, \
             +0.600 CONNACK, session present true, +0.700 PUBLISH"
        );
    }

    #[test]
    fn what_a_client_is_away_for_of_its_own_accord_is_not_withheld() {
        let ended = |why, reason| What::Ended { why, reason };
        let connecting = What::Connecting {
            connection: 1,
            node: 0,
            clean_start: false,
            will: false,
        };
        let events = |end| {
            vec![
                (1_000_000, sent(0)),
                (1_100_000, end),
                (4_100_000, connecting),
                (4_200_000, ended(End::Unreachable, 0)),
                (4_700_000, connecting),
                (4_800_000, sent(0)),
                (5_000_000, acked(0)),
            ]
        };
        let us = |end| waits_of(&actor("a", events(end)), 0, u64::MAX)[0].us;
        for gone in [
            ended(End::Left, 0),
            ended(End::Cut, 0),
            ended(End::Told, TAKEN_OVER),
        ] {
            assert_eq!(us(gone), 1_000_000, "{gone:?}");
        }
        for sent_away in [
            ended(End::Closed, 0),
            ended(End::Slow, 0),
            ended(End::Told, 0x9C),
        ] {
            assert_eq!(us(sent_away), 4_000_000, "{sent_away:?}");
        }
    }
}
