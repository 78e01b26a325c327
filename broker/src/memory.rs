//! How much memory the process may use.

use std::fs;

/// Memory that is taken for granted where nothing tells.
const UNKNOWN_BYTES: u64 = 1 << 30;

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

    #[test]
    fn the_total_is_found_among_other_lines() {
        let text = "MemFree: 1 kB\nMemTotal:       24601232 kB\n";
        assert_eq!(total_of(text), Some(24_601_232 * 1024));
        assert_eq!(total_of("MemTotal: many"), None);
    }
}
