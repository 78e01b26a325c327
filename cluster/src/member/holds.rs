//! Leaderships that an operator keeps from going back to their preferred node.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use cluster_core::{BootMs, Group};

/// Until when each is kept. Holds a row for each group that was asked for; it is in memory, so a
/// start forgets them.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<BTreeMap<Group, BootMs>>);

impl Holds {
    /// Keeps a group until then; a moment that is past lets it go.
    pub(super) fn hold(&self, group: Group, until: BootMs) {
        let mut holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holds.insert(group, until);
    }

    /// Whether a group is kept.
    pub(super) fn is_held(&self, group: Group, now: BootMs) -> bool {
        let holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holds.get(&group).is_some_and(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_kept_until_its_time_or_until_it_is_let_go() {
        let holds = Holds::default();
        holds.hold(Group::Meta, BootMs(10));
        assert!(holds.is_held(Group::Meta, BootMs(9)));
        assert!(!holds.is_held(Group::Meta, BootMs(10)));
        assert!(!holds.is_held(Group::Routes, BootMs(9)));
        holds.hold(Group::Meta, BootMs(5));
        assert!(!holds.is_held(Group::Meta, BootMs(9)));
    }
}
