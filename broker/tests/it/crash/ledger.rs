//! What the clients of a run were told, and what they got.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use tokio::sync::Notify;

use super::world::Stage;

/// A message: who published it, and its number there.
pub(super) type Id = (&'static str, u64);

/// A message that came, and over which topic.
pub(super) struct Got {
    pub(super) id: Id,
    pub(super) topic: String,
}

/// Shared by all clients of a run.
#[derive(Default)]
pub(super) struct Ledger {
    kept: Mutex<Kept>,
    changed: Notify,
}

#[derive(Default)]
pub(super) struct Kept {
    /// Numbers of each publisher that were acknowledged (PUBACK, PUBREC).
    pub(super) acknowledged: BTreeMap<&'static str, BTreeSet<u64>>,
    /// What each subscriber got, in order.
    pub(super) got: BTreeMap<&'static str, Vec<Got>>,
    /// Subscribers whose SUBACK came.
    pub(super) ready: BTreeSet<&'static str>,
    /// Publishers, and up to which stage nothing of them is under way.
    pub(super) rested: BTreeMap<&'static str, Stage>,
    /// Connections whose wills are due: they were cut.
    pub(super) cut: BTreeSet<String>,
    /// Wills that came.
    pub(super) wills: Vec<String>,
    /// PUBLISH and PUBREL that were sent again over another connection.
    pub(super) repeated: u64,
    /// Promises that do not hold, as clients saw them.
    pub(super) broken: Vec<String>,
}

impl Ledger {
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut Kept) -> R) -> R {
        let result = change(&mut self.kept.lock().expect("no client panicked"));
        self.changed.notify_waiters();
        result
    }

    /// Waits until what is kept fits.
    pub(super) async fn until(&self, fits: impl Fn(&Kept) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if fits(&self.kept.lock().expect("no client panicked")) {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn broken(&self, what: String) {
        self.with(|kept| kept.broken.push(what));
    }
}

impl Kept {
    pub(super) fn acknowledged_total(&self) -> usize {
        self.acknowledged.values().map(BTreeSet::len).sum()
    }

    /// The first acknowledged message of these publishers that none of these subscribers got.
    pub(super) fn lost(&self, publishers: &[&'static str], subscribers: &[&str]) -> Option<Id> {
        let got = subscribers.iter().filter_map(|one| self.got.get(one));
        let got: BTreeSet<Id> = got.flatten().map(|one| one.id).collect();
        let all = publishers.iter().flat_map(|publisher| {
            let numbers = self.acknowledged.get(publisher);
            let numbers = numbers.into_iter().flatten();
            numbers.map(|number| (*publisher, *number))
        });
        let mut all = all;
        all.find(|id| !got.contains(id))
    }

    /// Says what a subscriber got out of order of a publisher and a topic, apart from what came
    /// before; and, of publishers of QoS 2, what came twice.
    pub(super) fn disorder(&self, subscriber: &str, qos_2: &[&str]) -> Option<String> {
        let mut seen: BTreeMap<(&str, &str), BTreeSet<u64>> = BTreeMap::new();
        for Got { id, topic } in self.got.get(subscriber)? {
            let (publisher, number) = id;
            let seen = seen.entry((publisher, topic)).or_default();
            let last = seen.last().copied();
            if !seen.insert(*number) {
                if qos_2.contains(publisher) {
                    return Some(format!("{subscriber} got {number} of {publisher} twice"));
                }
            } else if let Some(last) = last.filter(|last| last > number) {
                return Some(format!(
                    "{subscriber} got {number} of {publisher} after {last}"
                ));
            }
        }
        None
    }
}
