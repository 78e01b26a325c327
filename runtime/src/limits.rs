//! What the machine allows.

use std::num::NonZeroUsize;

/// How many descriptors the process may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// The limit in force.
    pub soft: u64,
    /// What the soft limit may be raised to, with `ulimit -n` before the start.
    pub hard: u64,
}

/// Reads the limit of open descriptors from `/proc/self/limits`; `None` where there is none.
pub fn descriptor_limit() -> Option<DescriptorLimit> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    let mut numbers = line.split_whitespace().skip(3);
    let mut limit = || {
        let word = numbers.next()?;
        if word == "unlimited" {
            Some(u64::MAX)
        } else {
            word.parse().ok()
        }
    };
    Some(DescriptorLimit {
        soft: limit()?,
        hard: limit()?,
    })
}

/// Room on a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Free for who is not root.
    pub free_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
}

/// Reads how much room the file system of a folder has; `None` where there is no such folder. May
/// block on a disk that is away.
pub fn disk_space(folder: &std::path::Path) -> Option<DiskSpace> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(DiskSpace {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// Number of processors this process may use, at least 1.
pub fn usable_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_of_a_disk_is_read() {
        let space = disk_space(std::path::Path::new("/")).expect("there is a root");
        assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
        assert_eq!(disk_space(std::path::Path::new("/no/such/folder")), None);
    }

    #[test]
    fn the_descriptor_limit_is_read() {
        let limit = descriptor_limit().expect("this system has one");
        assert!(limit.soft > 0 && limit.soft <= limit.hard);
    }
}
