//! Defects that the invariants have to find.

/// A bug built into a run on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    None,
    /// A replica that lost its log and its vote comes back empty under its old Raft id, as a voter,
    /// and not as a learner under a new one. (The leader is made not to notice: with assertions
    /// openraft would end it.)
    VoterAfterDamage,
    /// A leader that was started again leads on without an election, and gives log ids that it had
    /// not synced, and others hold, to other entries.
    LeaderRestored,
}
