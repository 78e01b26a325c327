//! A retained message is the last acknowledged one of its topic, or a later one that is not acknowledged.
//!
//! Each topic has one writer, so its numbers rise. A reader that subscribes anew has to get, of every topic with an
//! acknowledged message, one that is not older than the last acknowledged before its SUBSCRIBE.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::view::{Client, Message, NEVER, View, seconds};
use super::{Observed, Verdict};
use crate::history::{Role, What};

/// A reader that stays connected for so long after its SUBACK has to have everything.
const PATIENCE: Duration = Duration::from_secs(9);

/// What was broken so shortly before may keep a shard from being led, and its messages from being replayed.
const AFTERMATH: Duration = Duration::from_secs(10);

pub(super) fn check(view: &View<'_>, observed: &Observed) -> Verdict {
    let mut verdict = Verdict::new("retained");
    let acknowledged = Acknowledged::of(view);
    let readers = view.clients.iter().filter(|one| one.role == Role::Reader);
    for client in readers {
        let mut reader = Reader {
            view,
            client,
            observed,
            acknowledged: &acknowledged,
            round: None,
            before: None,
        };
        reader.read(&mut verdict);
    }
    verdict
}

/// By topic: when which number was the last that was acknowledged.
#[derive(Debug)]
struct Acknowledged(BTreeMap<u32, Vec<(u64, Message)>>);

impl Acknowledged {
    fn of(view: &View<'_>) -> Self {
        let mut all: BTreeMap<u32, Vec<(u64, Message)>> = BTreeMap::new();
        for (message, published) in view.all_published() {
            let actor = view.history.actors.get(message.0 as usize);
            let is_writers = actor.is_some_and(|one| one.role == Role::Writer);
            if is_writers && published.is_acked() {
                let of = all.entry(published.topic).or_default();
                of.push((published.acked_us, message));
            }
        }
        for of in all.values_mut() {
            of.sort_unstable();
            let mut last = (0, 0);
            for (_, message) in of {
                last = last.max(*message);
                *message = last;
            }
        }
        Self(all)
    }

    /// The last message of a topic that was acknowledged before.
    fn last(&self, topic: u32, before_us: u64) -> Option<Message> {
        let of = self.0.get(&topic)?;
        let at = of.partition_point(|(acked_us, _)| *acked_us < before_us);
        of.get(at.checked_sub(1)?).map(|(_, message)| *message)
    }
}

/// From SUBSCRIBE to UNSUBSCRIBE or the end of the connection.
#[derive(Clone, Debug)]
struct Round {
    filter: u32,
    sent_us: u64,
    /// SUBACK; [`NEVER`].
    granted_us: u64,
    came: BTreeSet<u32>,
}

struct Reader<'a> {
    view: &'a View<'a>,
    client: &'a Client<'a>,
    observed: &'a Observed,
    acknowledged: &'a Acknowledged,
    round: Option<Round>,
    /// When the round before this one subscribed, if something of it may still be in the queue of a session.
    before: Option<u64>,
}

impl Reader<'_> {
    fn read(&mut self, verdict: &mut Verdict) {
        for (_, event) in &self.client.events {
            match event.what {
                What::Subscribing { filter, .. } => {
                    self.round = Some(Round {
                        filter,
                        sent_us: event.at_us,
                        granted_us: NEVER,
                        came: BTreeSet::new(),
                    });
                }
                What::Subscribed { reason, .. } if reason < 0x80 => {
                    if let Some(round) = &mut self.round {
                        round.granted_us = event.at_us;
                    }
                }
                What::Delivered {
                    publisher,
                    number,
                    topic,
                    flags,
                    ..
                } if flags.retain && !flags.dup => {
                    self.take((publisher, number), topic, event.at_us, verdict);
                }
                What::Unsubscribing { .. } | What::Ended { .. } => self.end(event.at_us, verdict),
                _ => {}
            }
        }
        self.end(self.view.history.taken_us, verdict);
    }

    fn take(&mut self, message: Message, topic: u32, at_us: u64, verdict: &mut Verdict) {
        let Some(round) = &mut self.round else {
            return;
        };
        round.came.insert(topic);
        let asked_us = self.before.unwrap_or(round.sent_us).min(round.sent_us);
        let last = self.acknowledged.last(topic, asked_us);
        let is_good = last.is_none_or(|last| message >= last);
        verdict.check(is_good, || {
            format!(
                "{} came retained to {} at {}, which subscribed at {}, after {} was acknowledged",
                self.view.name(message),
                self.client.id,
                seconds(at_us),
                seconds(asked_us),
                last.map_or_else(String::new, |last| self.view.name(last))
            )
        });
    }

    fn end(&mut self, at_us: u64, verdict: &mut Verdict) {
        let Some(round) = self.round.take() else {
            return;
        };
        let topics = &self.view.matching[round.filter as usize];
        let asked_us = round.sent_us;
        let missing: Vec<Message> = topics
            .iter()
            .filter(|topic| !round.came.contains(topic))
            .filter_map(|topic| self.acknowledged.last(*topic, asked_us))
            .collect();
        self.before = (self.client.expiry_s > 0 && !missing.is_empty()).then_some(asked_us);
        let is_long = round.granted_us != NEVER
            && at_us.saturating_sub(round.granted_us) >= PATIENCE.as_micros() as u64;
        if !is_long || self.observed.is_troubled(asked_us, at_us, AFTERMATH) {
            return;
        }
        for message in missing {
            verdict.find(|| {
                format!(
                    "{} was acknowledged and did not come retained to {}, which subscribed at {} and waited until {}",
                    self.view.name(message),
                    self.client.id,
                    seconds(asked_us),
                    seconds(at_us)
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sketch::Sketch;
    use crate::history::End;

    fn verdict(sketch: &Sketch) -> Verdict {
        check(&View::of(&sketch.history()), &Observed::default())
    }

    /// A writer (0) with two acknowledged messages and one that is not, and a reader (1).
    fn written() -> Sketch {
        let mut sketch = Sketch::default();
        let from = sketch.actor("from", Role::Writer, 3_600);
        let to = sketch.actor("to", Role::Reader, 0);
        sketch.connected(from, false).connected(to, false);
        for number in 0..3 {
            sketch.publishing(from, number, "kept", 1);
        }
        sketch.acked(from, 0).acked(from, 1);
        sketch
    }

    #[test]
    fn the_last_acknowledged_and_a_later_one_are_good() {
        for number in [1, 2] {
            let mut sketch = written();
            sketch.subscribed(1, "kept", 1).retained(1, 0, number);
            assert_eq!((verdict(&sketch).checked, verdict(&sketch).count), (1, 0));
        }
    }

    #[test]
    fn an_older_one_is_stale() {
        let mut sketch = written();
        sketch.subscribed(1, "kept", 1).retained(1, 0, 0);
        assert_eq!(verdict(&sketch).count, 1);
    }

    #[test]
    fn none_at_all_is_lost_for_a_reader_that_waited() {
        let mut sketch = written();
        sketch
            .subscribed(1, "kept", 1)
            .pass(PATIENCE)
            .ended(1, End::Cut);
        assert_eq!(verdict(&sketch).count, 1);

        let mut sketch = written();
        sketch.subscribed(1, "kept", 1).ended(1, End::Cut);
        assert_eq!(verdict(&sketch).count, 0, "it did not wait");
    }
}
