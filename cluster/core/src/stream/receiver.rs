//! The receiving end of numbered streams, a part of a replicated state.

use std::collections::BTreeMap;

use defects::Defect;

use super::Attempt;
use crate::{EpochView, NodeEpoch, Standing};

/// The next number of each node epoch's stream to this shard (or node).
///
/// Bounded by the node epochs that are current, and those begun since the last view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receiver {
    next: BTreeMap<NodeEpoch, Next>,
    epochs: EpochView,
}

/// How far a node epoch's stream has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// The number that is wanted.
    pub n: u64,
    /// The latest sending that was seen.
    pub attempt: Attempt,
}

/// What is to become of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is the next one: apply it.
    New,
    /// It was applied before: change nothing, and answer as the first was answered, from what the
    /// state remembers of it.
    Repeat,
    /// One before it is missing, or its sending is over: change nothing, the sender goes back.
    Gap {
        /// The number that is wanted.
        next: u64,
    },
    /// Its node's epoch has ended: change nothing, ever.
    Ended,
}

impl Receiver {
    /// The state that [`Self::streams`] and [`Self::epochs`] gave.
    pub fn restore(
        streams: impl IntoIterator<Item = (NodeEpoch, Next)>,
        epochs: EpochView,
    ) -> Self {
        Self {
            next: streams.into_iter().collect(),
            epochs,
        }
    }

    /// Decides on item `n` of a node epoch. With [`Admission::New`] the item counts as taken.
    ///
    /// Once a sending is seen, nothing new is taken of an earlier one: the same number may stand
    /// for an item there and for [`super::Body::Nop`] here, and an item whose predecessor was
    /// taken as nothing would overtake it when that is published again.
    pub fn admit(&mut self, epoch: NodeEpoch, attempt: Attempt, n: u64) -> Admission {
        if self.epochs.standing(epoch) == Standing::Ended {
            return Admission::Ended;
        }
        let known = self.next.get(&epoch).copied().unwrap_or_default();
        let is_current = attempt >= known.attempt;
        let admission = match n {
            n if n < known.n => Admission::Repeat,
            n if n == known.n && is_current => Admission::New,
            _ if defects::is(Defect::NoGapRefusal) => Admission::New,
            _ => Admission::Gap { next: known.n },
        };
        let next = Next {
            n: match admission {
                Admission::New => n + 1,
                _ => known.n,
            },
            attempt: attempt.max(known.attempt),
        };
        self.next.insert(epoch, next);
        admission
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

    /// How far each known stream has come, in order of the epochs.
    pub fn streams(&self) -> impl Iterator<Item = (NodeEpoch, Next)> {
        self.next.iter().map(|(epoch, next)| (*epoch, *next))
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
    const FIRST: Attempt = Attempt(0);

    #[test]
    fn a_gap_is_refused_and_a_repeat_is_told_apart() {
        let mut receiver = Receiver::default();

        assert_eq!(receiver.admit(NODE, FIRST, 1), Admission::Gap { next: 0 });
        assert_eq!(receiver.admit(NODE, FIRST, 0), Admission::New);
        assert_eq!(receiver.admit(NODE, FIRST, 2), Admission::Gap { next: 1 });
        assert_eq!(receiver.admit(NODE, FIRST, 1), Admission::New);
        assert_eq!(receiver.admit(NODE, FIRST, 0), Admission::Repeat);
        assert_eq!(receiver.admit(NodeEpoch(6), FIRST, 0), Admission::New);
    }

    #[test]
    fn an_item_of_an_earlier_sending_does_not_follow_one_of_a_later() {
        let mut receiver = Receiver::default();
        // Sent first: 0 and 1, of which the link kept 1. Sent again: 0, as nothing.
        assert_eq!(receiver.admit(NODE, Attempt(1), 0), Admission::New);

        let late = receiver.admit(NODE, FIRST, 1);

        assert_eq!(late, Admission::Gap { next: 1 });
        assert_eq!(receiver.admit(NODE, FIRST, 0), Admission::Repeat);
        assert_eq!(receiver.admit(NODE, Attempt(1), 1), Admission::New);
    }

    #[test]
    fn a_restored_receiver_goes_on_as_the_one_before() {
        let mut receiver = Receiver::default();
        receiver.admit(NODE, Attempt(3), 0);
        receiver.renew_epochs(&EpochView {
            index: 7,
            begun: NODE,
            current: [NODE].into(),
        });

        let mut restored = Receiver::restore(receiver.streams(), receiver.epochs().clone());

        assert_eq!(restored, receiver);
        let late = restored.admit(NODE, FIRST, 1);
        assert_eq!(late, Admission::Gap { next: 1 });
        assert_eq!(restored.admit(NodeEpoch(4), FIRST, 0), Admission::Ended);
    }

    #[test]
    fn the_stream_of_an_ended_epoch_is_refused_for_ever() {
        let mut receiver = Receiver::default();
        receiver.admit(NODE, FIRST, 0);
        let view = |index, current: &[u64]| EpochView {
            index,
            begun: NodeEpoch(8),
            current: current.iter().copied().map(NodeEpoch).collect(),
        };

        assert_eq!(receiver.renew_epochs(&view(20, &[8])), [NODE]);
        assert_eq!(receiver.renew_epochs(&view(10, &[5, 8])), []);

        assert_eq!(receiver.admit(NODE, FIRST, 0), Admission::Ended);
        assert_eq!(receiver.admit(NODE, FIRST, 1), Admission::Ended);
        assert_eq!(receiver.admit(NodeEpoch(8), FIRST, 0), Admission::New);
        assert_eq!(receiver.admit(NodeEpoch(9), FIRST, 0), Admission::New);
        assert_eq!(receiver.sources().count(), 2);
    }
}
