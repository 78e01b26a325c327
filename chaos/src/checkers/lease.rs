//! A node that is cut off acknowledges nothing once its lease is over.
//!
//! A lease is checked before every CONNACK, SUBACK and settled obligation, and lasts 3 s from the sending of a renewal that a
//! quorum has heard. So a node that has no way to a quorum, or back, for longer says none of these words.

use std::time::Duration;

use super::view::{View, seconds};
use super::{Cut, Observed, Verdict};
use crate::history::What;

/// A lease (3 s), and time for what is in the sockets on a busy machine.
const LEASED: Duration = Duration::from_secs(5);

/// A refusal promises nothing.
const REFUSAL_MIN: u8 = 0x80;

pub(super) fn check(view: &View<'_>, observed: &Observed) -> Verdict {
    let mut verdict = Verdict::new("lease");
    let leased_us = LEASED.as_micros() as u64;
    let cuts: Vec<Cut> = observed
        .cuts
        .iter()
        .map(|cut| Cut {
            from_us: cut.from_us.saturating_add(leased_us),
            ..*cut
        })
        .filter(|cut| cut.from_us < cut.until_us)
        .collect();
    for _ in &cuts {
        verdict.check(true, String::new);
    }
    if cuts.is_empty() {
        return verdict;
    }
    for actor in &view.history.actors {
        let mut at = None;
        for event in &actor.events {
            if let What::Connecting { node, .. } = event.what {
                at = Some(node);
            }
            let Some((node, word)) = at.zip(promise(&event.what)) else {
                continue;
            };
            let is_cut =
                |cut: &&Cut| cut.node == node && (cut.from_us..cut.until_us).contains(&event.at_us);
            let cut = cuts.iter().find(is_cut);
            verdict.check(cut.is_none(), || {
                format!(
                    "{} got a {word} from node {} at {}, which was cut off from {} on, longer than a lease",
                    actor.client_id,
                    node + 1,
                    seconds(event.at_us),
                    seconds(cut.map_or(0, |cut| cut.from_us - leased_us)),
                )
            });
        }
    }
    verdict
}

/// The word of a node that needs its lease.
fn promise(what: &What) -> Option<&'static str> {
    let (word, reason) = match *what {
        What::Connected { .. } => ("CONNACK", 0),
        What::Subscribed { reason, .. } => ("SUBACK", reason),
        What::PubAcked { reason, .. } => ("PUBACK", reason),
        What::PubReced { reason, .. } => ("PUBREC", reason),
        _ => return None,
    };
    (reason < REFUSAL_MIN).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sketch::Sketch;
    use crate::history::Role;

    fn verdict(sketch: &Sketch, until_us: u64) -> Verdict {
        let observed = Observed {
            cuts: vec![Cut {
                node: 0,
                from_us: 0,
                until_us,
            }],
            ..Observed::default()
        };
        check(&View::of(&sketch.history()), &observed)
    }

    fn acknowledged_after(wait: Duration) -> Sketch {
        let mut sketch = Sketch::default();
        let from = sketch.actor("from", Role::Noise, 0);
        sketch.connected(from, false).publishing(from, 0, "t", 1);
        sketch.pass(wait).acked(from, 0);
        sketch
    }

    #[test]
    fn an_acknowledgement_under_the_lease_or_after_the_cut_is_none_of_its_matter() {
        let early = acknowledged_after(Duration::from_secs(2));
        assert_eq!(verdict(&early, 8_000_000).count, 0);
        let late = acknowledged_after(Duration::from_secs(9));
        assert_eq!(verdict(&late, 8_000_000).count, 0);
        assert_eq!(verdict(&late, 4_000_000).checked, 0, "shorter than a lease");
    }

    #[test]
    fn an_acknowledgement_of_a_node_long_cut_off_is_found() {
        let verdict = verdict(&acknowledged_after(Duration::from_secs(7)), 8_000_000);
        assert_eq!(verdict.count, 1);
        assert!(
            verdict.violations[0].contains("PUBACK from node 1"),
            "{verdict:?}"
        );
    }
}
