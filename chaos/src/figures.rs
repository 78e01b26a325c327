//! What a history says of how long clients waited and who was sent away.

use std::collections::BTreeMap;

use crate::history::{End, Event, History, What};
use crate::waited::{TAKEN_OVER, waits_of};

/// Reason of a DISCONNECT that names another server.
const USE_ANOTHER_SERVER: u8 = 0x9C;
/// Microseconds of a second.
const SECOND_US: u64 = 1_000_000;
/// Connections that ended otherwise than they should and are told.
const TOLD_MAX: usize = 8;

/// Says how long the PUBACKs of messages of QoS 1 were withheld: from the first PUBLISH on, reconnects
/// included, without what the client was away for of its own accord.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Withheld {
    /// Messages acknowledged.
    pub(crate) messages: u64,
    /// Half of them were not longer, in seconds.
    pub(crate) p50_s: f64,
    /// 99 of a hundred were not longer.
    pub(crate) p99_s: f64,
    /// The longest.
    pub(crate) longest_s: f64,
}

impl Withheld {
    /// Looks at messages that were under way at some time between two, in microseconds.
    pub(crate) fn of(history: &History, from_us: u64, until_us: u64) -> Self {
        let actors = history.actors.iter();
        let waits = actors.flat_map(|actor| waits_of(actor, from_us, until_us));
        let mut times: Vec<u64> = waits.map(|wait| wait.us).collect();
        times.sort_unstable();
        let at = |share: f64| {
            let place = (times.len() as f64 * share) as usize;
            let time = times.get(place.min(times.len().saturating_sub(1)));
            time.copied().unwrap_or(0) as f64 / SECOND_US as f64
        };
        Self {
            messages: times.len() as u64,
            p50_s: at(0.5),
            p99_s: at(0.99),
            longest_s: at(1.0),
        }
    }
}

/// Says which connections ended although their clients wanted them to last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    /// By a DISCONNECT that says to use another server.
    pub(crate) sent_away: u64,
    /// The most of these within a second.
    pub(crate) sent_away_per_s: u64,
    /// In any other way but that another connection took the session over.
    pub(crate) otherwise: u64,
    /// The first of those, in words, whose times count from `zero_us` on.
    pub(crate) told: Vec<String>,
}

impl Ends {
    /// Looks at what ended between two times, in microseconds; it is told with its seconds from `zero_us` on.
    pub(crate) fn of(history: &History, from_us: u64, until_us: u64, zero_us: u64) -> Self {
        let mut ends = Self::default();
        let mut seconds: BTreeMap<u64, u64> = BTreeMap::new();
        for actor in &history.actors {
            let (mut connected_us, mut at_node) = (None, 0);
            for Event { at_us, what } in &actor.events {
                let (why, reason) = match what {
                    What::Connecting { node, .. } => {
                        at_node = *node;
                        continue;
                    }
                    What::Connected { .. } => {
                        connected_us = Some(*at_us);
                        continue;
                    }
                    What::Ended { why, reason } => (why, *reason),
                    _ => continue,
                };
                // An attempt that came to nothing has cost nobody a connection.
                let Some(since_us) = connected_us.take() else {
                    continue;
                };
                if !(from_us..=until_us).contains(at_us) {
                    continue;
                }
                match (why, reason) {
                    (End::Told, USE_ANOTHER_SERVER) => {
                        ends.sent_away += 1;
                        *seconds.entry(at_us / SECOND_US).or_default() += 1;
                    }
                    (End::Told, TAKEN_OVER) => {}
                    (End::Told | End::Closed | End::Slow, _) => {
                        ends.otherwise += 1;
                        if ends.told.len() < TOLD_MAX {
                            let at_s = (*at_us as f64 - zero_us as f64) / 1e6;
                            let lasted_s = at_us.saturating_sub(since_us) as f64 / 1e6;
                            ends.told.push(format!(
                                "At {at_s:.1} s the connection of `{}` to node {} ended: {why:?} 0x{reason:02X}, \
                                 {lasted_s:.3} s after its CONNACK.",
                                actor.client_id,
                                at_node + 1
                            ));
                        }
                    }
                    _ => {}
                }
            }
        }
        ends.sent_away_per_s = seconds.into_values().max().unwrap_or(0);
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Actor, Flags, Role};

    fn history(events: Vec<(u64, What)>) -> History {
        let events = events.into_iter();
        History {
            actors: vec![Actor {
                client_id: "a".into(),
                role: Role::Publisher,
                expiry_s: 60,
                events: events.map(|(at_us, what)| Event { at_us, what }).collect(),
            }],
            ..History::default()
        }
    }

    fn sent(number: u32, dup: bool) -> What {
        What::Publishing {
            number,
            topic: 0,
            packet_id: 1,
            flags: Flags {
                qos: 1,
                dup,
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

    #[test]
    fn a_message_is_withheld_from_its_first_publish_on() {
        let history = history(vec![
            (0, sent(0, false)),
            (10_000, acked(0)),
            (20_000, sent(1, false)),
            (1_000_000, sent(1, true)),
            (2_020_000, acked(1)),
            (9_000_000, sent(2, false)),
            (9_500_000, acked(2)),
        ]);
        let withheld = Withheld::of(&history, 0, 5_000_000);
        assert_eq!((withheld.messages, withheld.longest_s), (2, 2.0));
        assert_eq!(Withheld::of(&history, 3_000_000, u64::MAX).longest_s, 0.5);
        assert_eq!(
            Withheld::of(&History::default(), 0, u64::MAX),
            Withheld::default()
        );
    }

    #[test]
    fn who_was_sent_away_is_told_from_who_was_lost() {
        let connected = What::Connected {
            session_present: true,
        };
        let ended = |why, reason| What::Ended { why, reason };
        let ends = [
            (100, End::Told, USE_ANOTHER_SERVER),
            (200, End::Told, USE_ANOTHER_SERVER),
            (1_000_300, End::Told, USE_ANOTHER_SERVER),
            (400, End::Told, TAKEN_OVER),
            (500, End::Closed, 0),
            (600, End::Left, 0),
            (9_000_000, End::Closed, 0),
        ];
        let connecting = What::Connecting {
            connection: 0,
            node: 2,
            clean_start: false,
            will: false,
        };
        let mut events = vec![(0, connecting), (0, ended(End::Closed, 0))];
        for (at_us, why, reason) in ends {
            events.extend([(at_us, connected), (at_us, ended(why, reason))]);
        }
        let history = history(events);
        let ends = Ends::of(&history, 0, 5_000_000, 300);
        let told = "At 0.0 s the connection of `a` to node 3 ended: Closed 0x00, 0.000 s after its CONNACK.";
        assert_eq!(
            ends,
            Ends {
                sent_away: 3,
                sent_away_per_s: 2,
                otherwise: 1,
                told: vec![told.to_owned()],
            }
        );
    }
}
