//! Compares a history with what was promised, in the words of the chapter "What the checkers mean".
//!
//! *Lost* is what was acknowledged, whose subscription's SUBACK was received before the PUBLISH was sent, what no
//! counted policy dropped, and what was not delivered within T after healing; T is the time that
//! [`crate::workload::Workload::finish`] gives. Every checker says how much it has checked: nothing, where the
//! workload had clients for it, is a violation too.

mod lease;
mod liveness;
mod lost;
mod memory;
mod once;
mod order;
mod owner;
mod protocol;
mod replicas;
mod retained;
mod session;
mod shared;
#[cfg(test)]
mod sketch;
mod suback;
mod telemetry;
mod verdict;
mod view;
mod wills;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::{History, Role};
pub use replicas::replicas;
pub use telemetry::telemetry;
pub use verdict::{VIOLATIONS_SHOWN_MAX, Verdict};
use view::View;

/// Is what is known of a run beside what its clients saw. Times are microseconds since the workload's start.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// When something was broken, each until it was healed.
    pub faults: Vec<Window>,
    /// When nodes had no way to a quorum of the others, or none back.
    pub cuts: Vec<Cut>,
    /// Messages of QoS 1 and 2 that nodes dropped by a stated policy, by counter. So many may be missing.
    pub dropped: BTreeMap<String, u64>,
    /// Memory of the nodes now and then.
    pub memory: Vec<MemorySample>,
    /// Bytes that a node may have; `None`: nobody said.
    pub memory_budget_bytes: Option<u64>,
    /// What was seen of the nodes and should not have been: an end that nobody asked for, a node that is not
    /// ready in time.
    pub failures: Vec<String>,
    /// Longest time without any acknowledgement while publishers publish; `None`: any.
    pub silence_max: Option<Duration>,
}

/// Is a time in which something was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it was broken.
    pub from_us: u64,
    /// When it was healed.
    pub until_us: u64,
    /// Whether a process stood still: what it had not read by then it reads afterwards (see `docs/adr/009`).
    pub is_pause: bool,
}

/// Is a time in which a node was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The node, by its place in [`History::nodes`].
    pub node: u16,
    /// When it was cut off.
    pub from_us: u64,
    /// When it was joined again.
    pub until_us: u64,
}

/// Is the memory of a node at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySample {
    /// When.
    pub at_us: u64,
    /// Number of the node.
    pub node: u32,
    /// Its memory.
    pub bytes: u64,
}

impl Observed {
    /// Whether something was broken in this time or up to `after` before it.
    fn is_troubled(&self, from_us: u64, until_us: u64, after: Duration) -> bool {
        let after_us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        let mut faults = self.faults.iter();
        faults
            .any(|one| one.from_us <= until_us && one.until_us.saturating_add(after_us) >= from_us)
    }

    fn has_pauses(&self) -> bool {
        self.faults.iter().any(|one| one.is_pause)
    }
}

/// Looks at everything and returns one verdict of each checker, but those that look into the nodes' folders:
/// [`telemetry`] and [`replicas`].
#[must_use]
pub fn check(history: &History, observed: &Observed) -> Vec<Verdict> {
    let view = View::of(history);
    let mut verdicts = vec![
        lost::check(&view, observed),
        once::check(&view, observed),
        order::check(&view),
        owner::check(&view, observed),
        session::check(&view, observed),
        retained::check(&view, observed),
        wills::check(&view, observed),
        shared::check(&view, observed),
        suback::check(&view, observed),
        lease::check(&view, observed),
        protocol::check(&view),
        memory::check(observed),
        liveness::check(&view, observed),
    ];
    if history.unrecorded > 0 {
        for verdict in &mut verdicts {
            let events = history.unrecorded;
            verdict.find(|| format!("the history lacks {events} events, for which it had no room"));
        }
    }
    for verdict in &mut verdicts {
        verdict.expect_some(view.count(clients_of(verdict.checker)));
    }
    verdicts
}

/// Returns how many acknowledged messages have not come yet, to whomever they were promised.
#[must_use]
pub fn missing(history: &History) -> u64 {
    let view = View::of(history);
    let observed = Observed::default();
    [
        lost::check(&view, &observed),
        once::missing(&view, &observed),
        shared::check(&view, &observed),
        wills::missing(&view),
    ]
    .iter()
    .map(|verdict| verdict.count)
    .sum()
}

/// Whose presence makes a checker that has checked nothing suspicious.
fn clients_of(checker: &str) -> &'static [Role] {
    match checker {
        "lost" | "exactly-once" | "order" => &[Role::Subscriber],
        "owner" => &[Role::Contender],
        "session" => &[Role::Resetter, Role::Expirer],
        "retained" => &[Role::Reader],
        "wills" => &[Role::Willing],
        "shared" => &[Role::Member],
        "suback" => &[Role::Churner],
        "protocol" => &[Role::Publisher],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::sketch::Sketch;

    #[test]
    fn a_checker_that_had_clients_and_checked_nothing_says_so() {
        let mut sketch = Sketch::default();
        sketch.actor("a", Role::Subscriber, 3_600);
        let history = sketch.history();
        let verdicts = check(&history, &Observed::default());
        let lost = verdicts.iter().find(|one| one.checker == "lost").unwrap();
        assert_eq!((lost.checked, lost.count), (0, 1));
        let shared = verdicts.iter().find(|one| one.checker == "shared").unwrap();
        assert_eq!(
            (shared.checked, shared.count),
            (0, 0),
            "nobody was there for it"
        );
    }

    #[test]
    fn an_incomplete_history_passes_nowhere() {
        let history = History {
            unrecorded: 3,
            ..History::default()
        };
        let verdicts = check(&history, &Observed::default());
        assert!(verdicts.iter().all(|one| one.count > 0));
    }
}
