//! How much memory the process may use, and what of it goes where.

use std::fs;

/// Memory that is taken for granted where nothing tells.
const UNKNOWN_BYTES: u64 = 1 << 30;

/// What a node without sessions takes, in bytes: the program, the tables of openraft's histograms,
/// buffers. Measured on 2 cores, `docs/bench/memory.md`.
const NODE_BYTES: u64 = 64 << 20;
/// What a Raft group takes once it was busy, in bytes: rings of openraft, which have no setting.
const GROUP_BYTES: u64 = 3 << 20;
/// Groups beside the shards: meta and the routes.
const OTHER_GROUPS: u64 = 2;

/// A queued message without its payload, in bytes: its entry in a queue, its row among payloads.
const MESSAGE_ROW_BYTES: u64 = 80;
/// A persistent session with one subscription, in bytes: its row, its branch in both tries.
const SESSION_ROW_BYTES: u64 = 1_200;

/// Least bytes of a shard's payloads that may wait for a flush.
const UNFLUSHED_BYTES_MIN: u64 = 512 << 10;
/// Most bytes of queued payloads that all shards of a node keep although they are on disk
/// (SEMANTICS).
const CACHE_BYTES_MAX: u64 = 64 << 20;
/// Bounds of the bytes that may be under way to the shards.
const UNDER_WAY_BYTES: (u64, u64) = (4 << 20, 256 << 20);
/// Most bytes that the pages of one state file may occupy.
const STATE_CACHE_BYTES_MAX: u64 = 1 << 20;
/// Fewest of them.
const STATE_CACHE_BYTES_MIN: u64 = 64 << 10;

/// What the parts of a node may occupy, in bytes: shares of what `memory_bytes_limit` leaves beside
/// the program and its groups. Payloads, cached or not yet flushed, get less as the rows of
/// sessions and messages become more: rows cannot leave memory.
///
/// What connections occupy is not in it (`docs/adr/gaps/memory-budget.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    shares: u64,
    shards: u64,
}

/// What a node may use of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    pub(crate) bytes: u64,
    /// Whether the configuration says so.
    pub(crate) is_configured: bool,
    pub(crate) plan: Plan,
}

/// What rows of queued messages and of sessions take, in bytes.
pub(crate) fn rows_bytes(messages: u64, sessions: u64) -> u64 {
    messages * MESSAGE_ROW_BYTES + sessions * SESSION_ROW_BYTES
}

impl Plan {
    /// Of a node that may use so many bytes.
    pub(crate) fn new(memory_bytes: u64, shards: u16) -> Self {
        let shards = u64::from(shards);
        let shares = |fixed| memory_bytes.saturating_sub(fixed).max(memory_bytes / 8);
        let plan = Self { shares: 0, shards };
        Self {
            shares: shares(plan.fixed()),
            ..plan
        }
    }

    /// The program and its groups.
    pub(crate) fn fixed(&self) -> u64 {
        NODE_BYTES + GROUP_BYTES * (self.shards + OTHER_GROUPS)
    }

    /// Messages under way to the shards before publishers are read no more.
    pub(crate) fn under_way(&self) -> u64 {
        let (min, max) = UNDER_WAY_BYTES;
        (self.shares / 20).clamp(min, max)
    }

    /// Payloads of one shard that may wait for a flush while the shard has so many rows.
    pub(crate) fn unflushed(&self, messages: u64, sessions: u64) -> u64 {
        let rows = rows_bytes(messages, sessions);
        let left = (self.shares / self.shards).saturating_sub(rows);
        (left / 8).max(UNFLUSHED_BYTES_MIN)
    }

    /// Payloads of one shard that stay although they are on disk.
    pub(crate) fn cache(&self) -> u64 {
        (self.shares / 32).min(CACHE_BYTES_MAX) / self.shards
    }

    /// Entries that wait for the log's thread.
    pub(crate) fn log_queue(&self) -> u64 {
        self.shares / 16
    }

    /// Entries that the log keeps although they are on disk.
    pub(crate) fn log_cache(&self) -> u64 {
        self.shares / 32
    }

    /// Pages of one state file.
    pub(crate) fn state_cache(&self) -> u64 {
        let each = self.shares / 32 / (self.shards + OTHER_GROUPS);
        each.clamp(STATE_CACHE_BYTES_MIN, STATE_CACHE_BYTES_MAX)
    }

    /// Pages of all state files together.
    pub(crate) fn state_caches(&self) -> u64 {
        self.state_cache() * (self.shards + OTHER_GROUPS)
    }
}

/// Resident memory of this process, in bytes, if the kernel says it.
pub(crate) fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Bytes of memory that machine and cgroup allow.
pub(crate) fn usable() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.as_deref().and_then(total_of);
    let cgroup = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let cgroup = cgroup.and_then(|text| text.trim().parse().ok());
    [machine, cgroup]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(UNKNOWN_BYTES)
}

fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_parts_stay_below_what_is_left() {
        for (mib, shards) in [(512, 32), (1_024, 128), (24 << 10, 8)] {
            let plan = Plan::new(mib * MIB, shards);
            let unflushed = plan.unflushed(0, 0) * u64::from(shards);
            let caches = plan.cache() * u64::from(shards)
                + plan.state_cache() * (u64::from(shards) + OTHER_GROUPS);
            let log = plan.log_queue() + plan.log_cache();
            let parts = unflushed + caches + log + plan.under_way();
            assert!(parts < plan.shares * 4 / 10, "{mib} MiB: {parts}");
            assert!(plan.shares < mib * MIB);
        }
    }

    #[test]
    fn payloads_make_room_for_rows() {
        let plan = Plan::new(512 * MIB, 32);
        let (empty, full) = (plan.unflushed(0, 0), plan.unflushed(31_250, 3_125));
        let rows = 31_250 * MESSAGE_ROW_BYTES + 3_125 * SESSION_ROW_BYTES;
        assert_eq!(empty - full, rows / 8);
        assert_eq!(plan.unflushed(1 << 30, 0), UNFLUSHED_BYTES_MIN);
    }

    #[test]
    fn a_small_limit_leaves_something() {
        let plan = Plan::new(16 * MIB, 32);
        assert_eq!(plan.shares, 2 * MIB);
        assert!(plan.under_way() > 0 && plan.state_cache() > 0);
    }

    #[test]
    fn the_total_is_found_among_other_lines() {
        let text = "MemFree: 1 kB\nMemTotal:       24601232 kB\n";
        assert_eq!(total_of(text), Some(24_601_232 * 1024));
        assert_eq!(total_of("MemTotal: many"), None);
    }
}
