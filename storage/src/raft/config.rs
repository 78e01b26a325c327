//! How the log is cut and bounded, and how it is broken on purpose.

/// How the log is cut and bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// A segment is closed when it has grown to this many bytes.
    pub segment_bytes: u32,
    /// Bytes waiting for the writer thread, above which appends find no room.
    pub queue_bytes_limit: usize,
    /// Bytes of the newest entries of all groups kept in memory, beside those not fsynced yet.
    pub cache_bytes_limit: usize,
    /// Bytes of frames kept that were read back from disk.
    pub read_cache_bytes_limit: usize,
    /// A group with at most this many entries in the oldest segment does not hold it: they are
    /// copied forward.
    pub copy_entries_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            queue_bytes_limit: 64 << 20,
            cache_bytes_limit: 64 << 20,
            read_cache_bytes_limit: 4 << 20,
            copy_entries_max: 32,
        }
    }
}

/// Mistakes to make on purpose, so that the crash tests can show that they would be found. No
/// configuration file reaches them; the default makes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Defects {
    /// Completes appends and votes before the fsync.
    pub acknowledge_before_fsync: bool,
    /// Begins a segment without the votes of the groups.
    pub votes_not_copied: bool,
    /// Truncates in memory only.
    pub truncation_not_recorded: bool,
    /// Drops the oldest segment without copying the little that is live there.
    pub copies_not_written: bool,
}
