//! What threads have used of a processor, as the kernel counts it; other programs do not disturb it.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Returns what the calling thread has used, nanoseconds. The kernel brings it up to date at each
/// of its ticks only, so differences below some milliseconds mean nothing.
///
/// # Errors
/// When the kernel does not say.
pub fn thread_ns() -> io::Result<u64> {
    used_ns("/proc/thread-self/schedstat")
}

/// Returns what each thread of a process has used, nanoseconds, by name; threads of one name are
/// added up, and threads that have ended are missing.
///
/// # Errors
/// When there is no such process, or it belongs to somebody else.
pub fn threads_ns(pid: u32) -> io::Result<BTreeMap<String, u64>> {
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let folder = entry?.path();
        let name = fs::read_to_string(folder.join("comm"));
        let used = used_ns(folder.join("schedstat"));
        // A thread may end between the two.
        if let (Ok(name), Ok(used)) = (name, used) {
            *threads.entry(name.trim_end().to_owned()).or_default() += used;
        }
    }
    Ok(threads)
}

fn used_ns(path: impl AsRef<std::path::Path>) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let first = text.split_whitespace().next();
    let parsed = first.and_then(|number| number.parse().ok());
    parsed.ok_or_else(|| io::Error::other(format!("schedstat says {text:?}")))
}

/// Returns the bytes that a process has caused to be written to a disk.
///
/// # Errors
/// When there is no such process, or it belongs to somebody else.
pub fn written_bytes(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes:"));
    let parsed = line.and_then(|number| number.trim().parse().ok());
    parsed.ok_or_else(|| io::Error::other(format!("/proc/{pid}/io says {text:?}")))
}

/// Returns the cores that the calling thread may use.
///
/// # Errors
/// When the kernel does not say.
pub fn cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&core| set.is_set(core))
        .collect())
}

/// Lets the calling thread, and the threads and processes that it starts, use these cores only.
///
/// # Errors
/// When the kernel refuses.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}
