//! What is healed goes on: no node ends by itself or stays away, and acknowledgements never fail to come for too long.

use super::view::{View, seconds};
use super::{Observed, Verdict};
use crate::history::What;

pub(super) fn check(view: &View<'_>, observed: &Observed) -> Verdict {
    let mut verdict = Verdict::new("liveness");
    for failure in &observed.failures {
        verdict.find(|| failure.clone());
    }
    let Some(silence_max) = observed.silence_max else {
        return verdict;
    };
    let silence_max_us = u64::try_from(silence_max.as_micros()).unwrap_or(u64::MAX);
    let until_us = view.history.drained_us.unwrap_or(view.history.taken_us);
    let Some(first_us) = view.all_published().map(|(_, one)| one.first_us).min() else {
        return verdict;
    };
    let mut before_us = first_us;
    for at_us in acknowledgements(view).into_iter().chain([until_us]) {
        // Those of the drain come when they come.
        let at_us = at_us.min(until_us);
        verdict.check(at_us.saturating_sub(before_us) <= silence_max_us, || {
            format!(
                "no acknowledgement came from {} to {}",
                seconds(before_us),
                seconds(at_us)
            )
        });
        before_us = at_us.max(before_us);
    }
    verdict
}

fn acknowledgements(view: &View<'_>) -> Vec<u64> {
    let events = view.history.actors.iter().flat_map(|actor| &actor.events);
    let acks =
        events.filter(|event| matches!(event.what, What::PubAcked { .. } | What::PubReced { .. }));
    let mut at_us: Vec<u64> = acks.map(|event| event.at_us).collect();
    at_us.sort_unstable();
    at_us
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::checkers::sketch::Sketch;
    use crate::history::Role;

    #[test]
    fn a_long_silence_and_what_the_runner_saw_are_found() {
        let mut sketch = Sketch::default();
        let one = sketch.actor("one", Role::Publisher, 3_600);
        sketch
            .connected(one, false)
            .publishing(one, 0, "t", 1)
            .acked(one, 0);
        sketch
            .publishing(one, 1, "t", 1)
            .pass(Duration::from_secs(9))
            .acked(one, 1);
        let count = |observed: &Observed| check(&View::of(&sketch.history()), observed).count;
        let mut observed = Observed {
            silence_max: Some(Duration::from_secs(10)),
            ..Observed::default()
        };
        assert_eq!(count(&observed), 0);
        observed.silence_max = Some(Duration::from_secs(8));
        assert_eq!(count(&observed), 1);
        observed.failures.push("node 2 ended".to_owned());
        assert_eq!(count(&observed), 2);
    }
}
