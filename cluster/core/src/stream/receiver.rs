//! The receiving end of numbered streams, a part of a replicated state.

use std::collections::BTreeMap;

use crate::{EpochView, NodeEpoch, Standing};

/// The next number of each node epoch's stream to this shard (or node).
///
/// Bounded by the node epochs that are current, and those begun since the last view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receiver {
    next: BTreeMap<NodeEpoch, u64>,
    epochs: EpochView,
}

/// What is to become of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is the next one: apply it.
    New,
    /// It was applied before: change nothing, and answer as the first was answered, from what the
    /// state remembers of it.
    Repeat,
    /// One before it is missing: change nothing, the sender goes back.
    Gap {
        /// The number that is wanted.
        next: u64,
    },
    /// Its node's epoch has ended: change nothing, ever.
    Ended,
}

impl Receiver {
    /// Decides on item `n` of a node epoch. With [`Admission::New`] the item counts as taken.
    pub fn admit(&mut self, epoch: NodeEpoch, n: u64) -> Admission {
        if self.epochs.standing(epoch) == Standing::Ended {
            return Admission::Ended;
        }
        let known = self.next.get(&epoch).copied().unwrap_or(0);
        match n {
            n if n < known => Admission::Repeat,
            n if n > known => Admission::Gap { next: known },
            _ => {
                self.next.insert(epoch, known + 1);
                Admission::New
            }
        }
    }

    /// Takes the view of meta; streams of ended epochs are forgotten and refused. Returns the
    /// epochs that had a stream and have ended. An older view changes nothing.
    pub fn renew_epochs(&mut self, view: &EpochView) -> Vec<NodeEpoch> {
        self.epochs.renew(view);
        let epochs = &self.epochs;
        let is_ended = |epoch: &&NodeEpoch| epochs.standing(**epoch) == Standing::Ended;
        let ended: Vec<NodeEpoch> = self.next.keys().filter(is_ended).copied().collect();
        for epoch in &ended {
            self.next.remove(epoch);
        }
        ended
    }

    /// The epochs of the streams that are known, for a leader that compares them with meta.
    pub fn sources(&self) -> impl Iterator<Item = NodeEpoch> {
        self.next.keys().copied()
    }

    /// The view that was taken last.
    pub fn epochs(&self) -> &EpochView {
        &self.epochs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeEpoch = NodeEpoch(5);

    #[test]
    fn a_gap_is_refused_and_a_repeat_is_told_apart() {
        let mut receiver = Receiver::default();

        assert_eq!(receiver.admit(NODE, 1), Admission::Gap { next: 0 });
        assert_eq!(receiver.admit(NODE, 0), Admission::New);
        assert_eq!(receiver.admit(NODE, 2), Admission::Gap { next: 1 });
        assert_eq!(receiver.admit(NODE, 1), Admission::New);
        assert_eq!(receiver.admit(NODE, 0), Admission::Repeat);
        assert_eq!(receiver.admit(NodeEpoch(6), 0), Admission::New);
    }

    #[test]
    fn the_stream_of_an_ended_epoch_is_refused_for_ever() {
        let mut receiver = Receiver::default();
        receiver.admit(NODE, 0);
        let view = |index, current: &[u64]| EpochView {
            index,
            begun: NodeEpoch(8),
            current: current.iter().copied().map(NodeEpoch).collect(),
        };

        assert_eq!(receiver.renew_epochs(&view(20, &[8])), [NODE]);
        assert_eq!(receiver.renew_epochs(&view(10, &[5, 8])), []);

        assert_eq!(receiver.admit(NODE, 0), Admission::Ended);
        assert_eq!(receiver.admit(NODE, 1), Admission::Ended);
        assert_eq!(receiver.admit(NodeEpoch(8), 0), Admission::New);
        assert_eq!(receiver.admit(NodeEpoch(9), 0), Admission::New);
        assert_eq!(receiver.sources().count(), 2);
    }
}
