//! Which messages of groups a connection has had, so that no leader's repeat reaches the client.

use std::collections::{BTreeSet, VecDeque};

use mqtt::Filter;

use crate::{Epoch, GroupSeq, Seq};

/// Acknowledged messages of one group that are remembered, the longest acknowledged forgotten
/// first. A leader hands out no more than [`crate::Limits::group_window`] (64) before the
/// acknowledgements of what it handed out are committed, and one that follows it as many again.
const DONE_MAX: usize = 256;

/// Messages of groups that were handed to this connection.
///
/// As many groups as the client is a member of, and those left of which messages are in flight.
#[derive(Debug, Default)]
pub(super) struct SharedSeqs(Vec<OfGroup>);

#[derive(Debug)]
struct OfGroup {
    filter: Filter,
    incarnation: Epoch,
    /// Wait here or are unacknowledged: the group's window bounds them.
    open: BTreeSet<Seq>,
    /// Acknowledged last.
    done: VecDeque<Seq>,
    is_left: bool,
}

/// What is known of a message that a leader hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Had {
    /// Nothing: it is the connection's from now on.
    Not,
    /// It waits, is unacknowledged, or is of a group that has ended.
    Open,
    /// It is acknowledged, though the leader may not know it yet.
    Done,
}

impl SharedSeqs {
    /// Notes a message that is handed over.
    pub(super) fn take(&mut self, of: &GroupSeq) -> Had {
        let Some(at) = self.position(&of.filter) else {
            self.0.push(OfGroup {
                filter: of.filter.clone(),
                incarnation: of.incarnation,
                open: [of.seq].into(),
                done: VecDeque::new(),
                is_left: false,
            });
            return Had::Not;
        };
        let group = &mut self.0[at];
        if of.incarnation < group.incarnation {
            return Had::Open;
        }
        if of.incarnation > group.incarnation {
            group.incarnation = of.incarnation;
            group.open.clear();
            group.done.clear();
        }
        group.is_left = false;
        if group.done.contains(&of.seq) {
            return Had::Done;
        }
        match group.open.insert(of.seq) {
            true => Had::Not,
            false => Had::Open,
        }
    }

    /// A message is acknowledged, or needs no acknowledgement.
    pub(super) fn done(&mut self, of: &GroupSeq) {
        let Some(group) = self.open_group(of) else {
            return;
        };
        if group.done.len() >= DONE_MAX {
            group.done.pop_front();
        }
        group.done.push_back(of.seq);
        self.sweep();
    }

    /// A message is forgotten unsent.
    pub(super) fn forget(&mut self, of: &GroupSeq) {
        self.open_group(of);
    }

    /// The client leaves groups.
    pub(super) fn leave(&mut self, filters: &[Filter]) {
        for group in &mut self.0 {
            group.is_left |= filters.contains(&group.filter);
        }
        self.sweep();
    }

    /// The group of a message that is open no longer.
    fn open_group(&mut self, of: &GroupSeq) -> Option<&mut OfGroup> {
        let at = self.position(&of.filter)?;
        let group = &mut self.0[at];
        let is_its = group.incarnation == of.incarnation && group.open.remove(&of.seq);
        is_its.then_some(group)
    }

    fn sweep(&mut self) {
        self.0
            .retain(|group| !group.is_left || !group.open.is_empty());
    }

    fn position(&self, filter: &Filter) -> Option<usize> {
        self.0.iter().position(|group| group.filter == *filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(filter: &str, incarnation: u64, seq: u64) -> GroupSeq {
        GroupSeq {
            filter: filter.try_into().unwrap(),
            incarnation: Epoch(incarnation),
            seq: Seq(seq),
        }
    }

    const G: &str = "$share/g/a";

    #[test]
    fn a_group_that_begins_anew_counts_anew() {
        let mut seqs = SharedSeqs::default();
        assert_eq!(seqs.take(&seq(G, 1, 7)), Had::Not);
        assert_eq!(seqs.take(&seq(G, 1, 7)), Had::Open);

        assert_eq!(seqs.take(&seq(G, 2, 7)), Had::Not);

        assert_eq!(seqs.take(&seq(G, 1, 8)), Had::Open, "of the ended one");
        seqs.done(&seq(G, 1, 7));
        assert_eq!(seqs.take(&seq(G, 2, 7)), Had::Open);
        seqs.done(&seq(G, 2, 7));
        assert_eq!(seqs.take(&seq(G, 2, 7)), Had::Done);
    }

    #[test]
    fn what_was_forgotten_unsent_is_taken_again() {
        let mut seqs = SharedSeqs::default();
        seqs.take(&seq(G, 1, 7));

        seqs.forget(&seq(G, 1, 7));

        assert_eq!(seqs.take(&seq(G, 1, 7)), Had::Not);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seqs = SharedSeqs::default();
        for n in 0..10_000 {
            seqs.take(&seq(G, 1, n));
            seqs.done(&seq(G, 1, n));
        }
        assert_eq!(seqs.0[0].done.len(), DONE_MAX);
        for n in 0..100 {
            let filter = format!("$share/g/{n}");
            seqs.take(&seq(&filter, 1, 0));
            seqs.done(&seq(&filter, 1, 0));
            seqs.leave(&[filter.as_str().try_into().unwrap()]);
        }
        assert_eq!(seqs.0.len(), 1);

        seqs.take(&seq(G, 1, 10_000));
        seqs.leave(&[G.try_into().unwrap()]);
        assert_eq!(seqs.0.len(), 1, "one is in flight");
        seqs.done(&seq(G, 1, 10_000));
        assert!(seqs.0.is_empty());
    }
}
