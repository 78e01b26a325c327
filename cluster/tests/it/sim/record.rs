//! What was seen in a run, and what of it must not be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster_core::RaftId;

use super::ledger::Owner;
use super::net::address;
use super::trace::Trace;

/// Violations that are kept; a run that has more has said enough.
const VIOLATIONS_MAX: usize = 20;

/// Shared by everything in a run.
#[derive(Clone)]
pub(crate) struct Record(Arc<Mutex<Seen>>);

/// A proposal that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) group: u32,
    pub(crate) index: u64,
    pub(crate) value: u64,
}

pub(crate) struct Seen {
    pub(crate) trace: Trace,
    pub(crate) violations: Vec<String>,
    pub(crate) acknowledged: Vec<Acknowledged>,
    pub(crate) applied: u64,
    pub(crate) delivered_bytes: u64,
    /// Of each group and index the value that was applied there first.
    history: BTreeMap<(u32, u64), u64>,
    /// Of each group and term who led.
    leaders: BTreeMap<(u32, u64, RaftId), u32>,
    /// The highest term that a replica was in.
    terms: BTreeMap<(u32, u32, RaftId), u64>,
    /// Directions in which nothing gets through.
    cut: BTreeSet<(String, String)>,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Seen {
            trace: Trace::new(),
            violations: Vec::new(),
            acknowledged: Vec::new(),
            applied: 0,
            delivered_bytes: 0,
            history: BTreeMap::new(),
            leaders: BTreeMap::new(),
            terms: BTreeMap::new(),
            cut: BTreeSet::new(),
        })))
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn violated(&self, what: String) {
        self.seen().violated(what);
    }

    pub(crate) fn delivered(&self, node: u32, bytes: &[u8]) {
        let mut seen = self.seen();
        seen.delivered_bytes += bytes.len() as u64;
        seen.trace.note(1, node.into(), bytes);
    }

    /// A node applied an entry: no other value may ever have been there.
    pub(crate) fn applied(&self, owner: &Owner, index: u64, value: u64) {
        let mut seen = self.seen();
        seen.applied += 1;
        let of = u64::from(owner.node) << 32 | u64::from(owner.group);
        let bytes = [index.to_le_bytes(), value.to_le_bytes()].concat();
        seen.trace.note(2, of, &bytes);
        seen.stands(owner, index, value);
    }

    /// A node made its state of rows.
    pub(crate) fn restored(&self, owner: &Owner, values: &BTreeMap<u64, u64>) {
        let mut seen = self.seen();
        for (index, value) in values {
            seen.stands(owner, *index, *value);
        }
    }

    pub(crate) fn acknowledged(&self, acknowledged: Acknowledged) {
        let mut seen = self.seen();
        let bytes = [
            acknowledged.index.to_le_bytes(),
            acknowledged.value.to_le_bytes(),
        ];
        seen.trace
            .note(3, acknowledged.group.into(), &bytes.concat());
        seen.acknowledged.push(acknowledged);
    }

    /// A node says that it leads with this replica: no other node may in this term. Another replica
    /// may, and follows it: votes are ordered by term and replica (`leader_id_adv` of openraft).
    pub(crate) fn leads(&self, node: u32, group: u32, term: u64, replica: RaftId) {
        let mut seen = self.seen();
        let leader = *seen.leaders.entry((group, term, replica)).or_insert(node);
        if leader != node {
            seen.violated(format!(
                "nodes {leader} and {node} both lead group {group} in term {term} as {replica:?}"
            ));
        }
    }

    /// A replica is in a term: it may never be in an earlier one again.
    pub(crate) fn is_in_term(&self, node: u32, group: u32, replica: RaftId, term: u64) {
        let mut seen = self.seen();
        let last = seen.terms.entry((node, group, replica)).or_insert(term);
        let before = *last;
        *last = term.max(before);
        if term < before {
            seen.violated(format!(
                "{replica} of group {group} at node {node} went back from term {before} to {term}"
            ));
        }
    }

    pub(crate) fn set_cut(&self, from: u32, to: u32, cut: bool) {
        let way = (address(from), address(to));
        let ways = &mut self.seen().cut;
        let _ = if cut {
            ways.insert(way)
        } else {
            ways.remove(&way)
        };
    }

    pub(crate) fn is_cut(&self, node: u32, to: &str) -> bool {
        let ways = &self.seen().cut;
        let (here, there) = (address(node), to.to_owned());
        ways.contains(&(here.clone(), there.clone())) || ways.contains(&(there, here))
    }

    /// What must hold of the states in the end, by group and node: they are the same, nothing
    /// acknowledged is missing, and nothing is there twice.
    pub(crate) fn check_end(&self, ledgers: &BTreeMap<u32, BTreeMap<u32, BTreeMap<u64, u64>>>) {
        let mut seen = self.seen();
        for (group, nodes) in ledgers {
            let Some((first, ledger)) = nodes.first_key_value() else {
                continue;
            };
            for (node, other) in nodes {
                if other != ledger {
                    seen.violated(format!(
                        "group {group}: nodes {first} and {node} have different states"
                    ));
                }
            }
            let mut places = BTreeMap::new();
            for (index, value) in ledger {
                if let Some(before) = places.insert(value, index) {
                    seen.violated(format!(
                        "group {group}: value {value:#x} stands at {before} and at {index}"
                    ));
                }
            }
        }
        for Acknowledged {
            group,
            index,
            value,
        } in seen.acknowledged.clone()
        {
            for (node, ledger) in &ledgers[&group] {
                if ledger.get(&index) != Some(&value) {
                    seen.violated(format!(
                        "group {group}: value {value:#x}, acknowledged at {index}, is lost at node {node}"
                    ));
                }
            }
        }
    }
}

impl Seen {
    fn violated(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX && !self.violations.contains(&what) {
            self.violations.push(what);
        }
    }

    fn stands(&mut self, owner: &Owner, index: u64, value: u64) {
        let key = (owner.group, index);
        let first = *self.history.entry(key).or_insert(value);
        if first != value {
            self.violated(format!(
                "group {}: node {} applied {value:#x} at {index}, another {first:#x}",
                owner.group, owner.node
            ));
        }
    }
}
