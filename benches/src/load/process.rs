//! What a process and its children use, from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::time::Instant;

use serde::Serialize;

use super::LoadError;
use super::cases::Load;

/// CPU time and memory of a process and its children, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// CPU seconds since its start, in steps of the kernel's tick (10 ms).
    pub cpu_s: f64,
    /// Resident bytes.
    pub rss_bytes: u64,
}

/// Reads what a process and its children use.
///
/// # Errors
/// [`LoadError::Process`] when there is no such process.
pub fn usage(pid: u32) -> Result<Usage, LoadError> {
    let failed = |error: String| LoadError::Process { pid, error };
    let root = stat(pid).map_err(failed)?;
    let mut usage = Usage {
        // Children that ended count for their parent.
        cpu_s: root.ticks + root.ended_ticks,
        rss_bytes: rss_bytes(pid).map_err(failed)?,
    };
    for child in descendants(pid) {
        // One that ends meanwhile is counted at its parent the next time.
        if let (Ok(stat), Ok(rss_bytes)) = (stat(child), rss_bytes(child)) {
            usage.cpu_s += stat.ticks + stat.ended_ticks;
            usage.rss_bytes += rss_bytes;
        }
    }
    usage.cpu_s /= rustix::param::clock_ticks_per_second() as f64;
    Ok(usage)
}

/// What processes used over a time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Spent {
    /// The time, seconds.
    pub seconds: f64,
    /// CPU seconds of each node's process.
    pub nodes_s: Vec<f64>,
    /// CPU seconds of this process and its other children: the generator.
    pub generator_s: f64,
}

/// CPU time of several nodes, which are children of this process, and of everything else here.
pub(super) struct Moment {
    at: Instant,
    nodes_s: Vec<f64>,
    all_s: f64,
}

impl Moment {
    /// Reads the clocks of several nodes; `None` of one alone.
    pub(super) fn now(load: &Load) -> Result<Option<Self>, LoadError> {
        (!load.others.is_empty())
            .then(|| Self::read(load))
            .transpose()
    }

    fn read(load: &Load) -> Result<Self, LoadError> {
        let nodes = load.pids().map(|pid| Ok(usage(pid)?.cpu_s));
        Ok(Self {
            at: Instant::now(),
            nodes_s: nodes.collect::<Result<_, LoadError>>()?,
            all_s: usage(std::process::id())?.cpu_s,
        })
    }

    /// Returns what was used since.
    pub(super) fn until_now(&self, load: &Load) -> Result<Spent, LoadError> {
        let now = Self::read(load)?;
        let pairs = now.nodes_s.iter().zip(&self.nodes_s);
        let nodes_s: Vec<f64> = pairs.map(|(now, then)| now - then).collect();
        let of_nodes: f64 = nodes_s.iter().sum();
        Ok(Spent {
            seconds: (now.at - self.at).as_secs_f64(),
            generator_s: (now.all_s - self.all_s - of_nodes).max(0.0),
            nodes_s,
        })
    }
}

struct Stat {
    parent: u32,
    ticks: f64,
    ended_ticks: f64,
}

fn stat(pid: u32) -> Result<Stat, String> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| error.to_string())?;
    parse_stat(&text).ok_or_else(|| format!("its stat is not one: {text}"))
}

/// The name in brackets may hold anything, brackets and blanks too.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        ticks: number(11)? + number(12)?,
        ended_ticks: number(13)? + number(14)?,
    })
}

fn rss_bytes(pid: u32) -> Result<u64, String> {
    // The rollup counts pages; `status` may lag behind by what each thread keeps for itself.
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .or_else(|_| fs::read_to_string(format!("/proc/{pid}/status")))
        .map_err(|error| error.to_string())?;
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("Rss:").or(line.strip_prefix("VmRSS:")))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes
        .map(|kilobytes| kilobytes * 1_024)
        .ok_or_else(|| "its resident size is not told".to_owned())
}

fn descendants(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        if let Some(child) = name.to_str().and_then(|name| name.parse().ok())
            && let Ok(stat) = stat(child)
        {
            children.entry(stat.parent).or_default().push(child);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        // Taken out, so that a number used again cannot make a circle.
        for child in children.remove(&parent).unwrap_or_default() {
            found.push(child);
            open.push(child);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_move_the_fields() {
        let line = "7 (a) b) (c) S 3 7 7 0 -1 4194560 1 2 3 4 50 25 4 1 20 0 1 0 9 1 1";
        let stat = parse_stat(line).expect("it is one");
        assert_eq!((stat.parent, stat.ticks, stat.ended_ticks), (3, 75.0, 5.0));
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = usage(std::process::id()).expect("it runs");
        assert!(usage.rss_bytes > 100_000, "{usage:?}");
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(matches!(usage(u32::MAX), Err(LoadError::Process { .. })));
    }
}
