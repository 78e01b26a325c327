//! Which node epochs are current, as one group knows it from meta.

use std::collections::BTreeSet;

use crate::NodeEpoch;

/// The node epochs that meta showed as current at one of its indexes.
///
/// Epochs rise, so whatever was begun by then and is not current has ended. That needs no list of
/// the ended ones: the view is bounded by the members of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochView {
    /// Index in meta's log.
    pub index: u64,
    /// Highest epoch begun by then.
    pub begun: NodeEpoch,
    /// Those that had not ended.
    pub current: BTreeSet<NodeEpoch>,
}

/// What a view knows of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not ended.
    Current,
    /// It has ended: what comes from it is refused.
    Ended,
    /// It begins later than the view.
    Unknown,
}

impl EpochView {
    /// What the view knows of an epoch.
    pub fn standing(&self, epoch: NodeEpoch) -> Standing {
        if self.current.contains(&epoch) {
            Standing::Current
        } else if epoch <= self.begun {
            Standing::Ended
        } else {
            Standing::Unknown
        }
    }

    /// Takes a newer view; says whether it was one. An older one changes nothing, so that an
    /// ended epoch never comes back.
    pub fn renew(&mut self, newer: &Self) -> bool {
        if newer.index <= self.index {
            return false;
        }
        self.clone_from(newer);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(index: u64, begun: u64, current: &[u64]) -> EpochView {
        EpochView {
            index,
            begun: NodeEpoch(begun),
            current: current.iter().copied().map(NodeEpoch).collect(),
        }
    }

    #[test]
    fn what_was_begun_and_is_not_current_has_ended() {
        let view = view(9, 8, &[3, 8]);

        assert_eq!(view.standing(NodeEpoch(3)), Standing::Current);
        assert_eq!(view.standing(NodeEpoch(5)), Standing::Ended);
        assert_eq!(view.standing(NodeEpoch(9)), Standing::Unknown);
    }

    #[test]
    fn an_older_view_brings_no_ended_epoch_back() {
        let mut known = view(9, 8, &[8]);

        assert!(!known.renew(&view(7, 8, &[3, 8])));
        assert_eq!(known.standing(NodeEpoch(3)), Standing::Ended);
    }
}
