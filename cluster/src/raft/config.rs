//! How the groups of a node are kept.

use std::path::PathBuf;
use std::time::Duration;

use cluster_core::NodeId;
use defects::Defect;
use openraft::{Config, SnapshotPolicy};
use storage::raft as log;

use super::driver::HEARTBEAT;
use super::hold::HoldLimits;
use super::replica::COPY_BYTES_PER_S;

/// A leader whom a quorum confirmed less than this ago may answer, and who follows him does not
/// stand for election.
const ELECTION_MS: (u64, u64) = (900, LEASE_MS);
/// How long after a leader was heard nobody votes against it, in milliseconds: two heartbeats, and
/// less than a silent node goes unnoticed. That a process is gone is known within half a second, so
/// this is most of the time for which it is missed.
pub(super) const LEASE_MS: u64 = 1_000;
/// How long a replica leaves the field to whom it has voted for, in milliseconds: an election under
/// way is slower the busier the machine is, and one that begins beside it ends it.
pub(super) const CANDIDACY_MS: u64 = 600;
/// A member that answered less than this ago is spared the heartbeat: it comes with the next one,
/// still before an election.
const SPARED_MS: u64 = 250;
/// Entries that go to a member together; mostly their bytes are the bound.
const APPEND_ENTRIES_MAX: u64 = 4096;
/// Commands that wait for a group's Raft; who proposes more waits.
const COMMANDS_MAX: u64 = 4096;
/// How the groups of a node are kept.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// The folder: the log in `log`, the state of each group in `<name>.redb`.
    pub folder: PathBuf,
    /// This node, whose number no other has or had.
    pub node: NodeId,
    /// How the log is kept.
    pub log: log::Config,
    /// Bytes of pages of each state file in memory.
    pub state_cache_bytes: usize,
    /// A group is flushed once it has applied so many bytes of log since the last time: so much is
    /// applied again at a start.
    pub flush_log_bytes: u64,
    /// A group is flushed at the latest so long after a change.
    pub flush_age: Duration,
    /// How much flushed log is kept for members that are behind. Who is further behind is sent the
    /// whole state.
    pub hold: HoldLimits,
    /// Bytes a second of a state that is sent to another node.
    pub copy_bytes_per_s: u64,
    /// Sabotage: a leader that was started again leads on without an election.
    #[doc(hidden)]
    pub restores_leader: bool,
    /// Sabotage: a voter whose log is gone is filled again by its leader, as if it had promised
    /// nothing. Without it openraft asserts, in a build with assertions.
    #[doc(hidden)]
    pub forgives_lost_logs: bool,
}

impl RaftConfig {
    /// The defaults, for a node.
    #[must_use]
    pub fn new(folder: PathBuf, node: NodeId) -> Self {
        Self {
            folder,
            node,
            log: log::Config::default(),
            state_cache_bytes: 1 << 20,
            flush_log_bytes: 32 << 20,
            flush_age: Duration::from_mins(1),
            hold: HoldLimits::default(),
            copy_bytes_per_s: COPY_BYTES_PER_S,
            restores_leader: false,
            forgives_lost_logs: false,
        }
    }
}

/// Groups neither tick nor compact by themselves: the driver decides.
pub(super) fn raft_config(node: &RaftConfig) -> Config {
    let config = Config {
        cluster_name: "tidewire".to_owned(),
        enable_tick: false,
        enable_pre_vote: Some(true),
        // A restored leader would give ids that others hold to other entries.
        enable_leader_restore: Some(node.restores_leader || defects::is(Defect::LeaderRestored)),
        allow_log_reversion: Some(node.forgives_lost_logs || defects::is(Defect::VoterAfterDamage)),
        heartbeat_interval: HEARTBEAT.as_millis() as u64,
        heartbeat_min_interval: Some(SPARED_MS),
        election_timeout_min: ELECTION_MS.0,
        election_timeout_max: ELECTION_MS.1,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        max_payload_entries: APPEND_ENTRIES_MAX,
        api_channel_size: Some(COMMANDS_MAX),
        ..Config::default()
    };
    config.validate().expect("the timeouts rise")
}
