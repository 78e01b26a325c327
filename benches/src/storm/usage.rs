//! Memory and CPU time of the nodes, looked at often.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::StormError;
use super::report::NodeUse;
use crate::load::usage;
use crate::sessions::probe::pause;

/// Time between two looks at the nodes' memory.
const LOOK: Duration = Duration::from_millis(50);

/// What the nodes used at one moment.
pub(super) struct Moment {
    pids: Vec<u32>,
    used: Vec<crate::load::Usage>,
    all_cpu_s: f64,
}

impl Moment {
    pub(super) fn now(pids: &[u32]) -> Result<Self, StormError> {
        let used = pids.iter().map(|pid| usage(*pid));
        Ok(Self {
            used: used.collect::<Result<_, _>>()?,
            pids: pids.to_vec(),
            all_cpu_s: usage(std::process::id())?.cpu_s,
        })
    }

    /// What each node used since, and the generator: this process and its other children. A node that
    /// has ended is left out.
    pub(super) fn until_now(&self, peaks: &[u64]) -> Result<(Vec<NodeUse>, f64), StormError> {
        let all_cpu_s = usage(std::process::id())?.cpu_s - self.all_cpu_s;
        let mut nodes = Vec::new();
        let pairs = self.pids.iter().zip(&self.used).zip(peaks);
        for (at, ((pid, before), peak)) in pairs.enumerate() {
            let Ok(now) = usage(*pid) else { continue };
            nodes.push(NodeUse {
                node: at as u32 + 1,
                rss_before_bytes: before.rss_bytes,
                rss_peak_bytes: (*peak).max(now.rss_bytes),
                cpu_s: now.cpu_s - before.cpu_s,
            });
        }
        let of_nodes: f64 = nodes.iter().map(|node| node.cpu_s).sum();
        Ok((nodes, (all_cpu_s - of_nodes).max(0.0)))
    }
}

/// Looks at the memory of the nodes while `work` is done; its result, and the most of each.
pub(super) fn watched<T>(pids: &[u32], work: impl FnOnce() -> T) -> (T, Vec<u64>) {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut peaks = vec![0; pids.len()];
            loop {
                let is_last = is_done.load(Ordering::Relaxed);
                for (peak, pid) in peaks.iter_mut().zip(pids) {
                    *peak = resident_bytes(*pid).unwrap_or(0).max(*peak);
                }
                if is_last {
                    return peaks;
                }
                pause(LOOK);
            }
        });
        let result = work();
        is_done.store(true, Ordering::Relaxed);
        let peaks = looking.join().unwrap_or_else(|_| vec![0; pids.len()]);
        (result, peaks)
    })
}

/// Pages that are resident, cheaper to ask for than the exact sum.
fn resident_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_seen_while_something_is_done() {
        let this = std::process::id();
        let (seven, peaks) = watched(&[this, u32::MAX], || 7);
        assert_eq!(seven, 7);
        assert!(peaks[0] > 100_000 && peaks[1] == 0, "{peaks:?}");
    }
}
