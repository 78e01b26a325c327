//! What lies between the nodes, and namespaces in which it can be broken without rights beyond them.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use crate::Error;

/// How a process gets network and mounts of its own: as root, or as a user who is root in a namespace.
const WAYS: [&[&str]; 2] = [
    &["--net", "--mount"],
    &["--map-root-user", "--net", "--mount"],
];
/// What begins in the namespaces.
const FIRST: &str = "ip link set lo up && exec \"$0\" \"$@\"";
/// The same for a program that does not outlive the one that began it.
const FIRST_WITH_PARENT: &str = "ip link set lo up && exec setpriv --pdeathsig TERM \"$0\" \"$@\"";
/// What has to be possible there.
const TRIAL: &str = "ip link set lo up && nft add table inet tidewire && mount -t tmpfs none /mnt";
/// Where packets that came are dropped. What is sent is not: its sender would be told.
const TABLE: &str = "\
add table inet tidewire
add chain inet tidewire links { type filter hook input priority 0; }
flush chain inet tidewire links
";

/// Returns the words that begin a program in namespaces of its own, which last as long as its processes;
/// `None` where that is not possible. The program's path and its words follow.
#[must_use]
pub(crate) fn namespaces() -> Option<Vec<String>> {
    let way = WAYS.into_iter().find(|way| is_possible(way))?;
    let first = match has_with_parent() {
        true => FIRST_WITH_PARENT,
        false => FIRST,
    };
    let words = [&["unshare"], way, &["sh", "-c", first]].concat();
    Some(words.into_iter().map(str::to_owned).collect())
}

/// Begins a program that gets the signal whose name follows when the one that began it ends, whatever
/// ends that.
pub(crate) const WITH_PARENT: [&str; 2] = ["setpriv", "--pdeathsig"];

/// Returns whether there is such a program.
#[must_use]
pub(crate) fn has_with_parent() -> bool {
    let tried = Command::new(WITH_PARENT[0])
        .args(&WITH_PARENT[1..])
        .args(["KILL", "true"])
        .stdin(Stdio::null())
        .output();
    tried.is_ok_and(|output| output.status.success())
}

fn is_possible(way: &[&str]) -> bool {
    let tried = Command::new("unshare")
        .args(way)
        .args(["sh", "-c", TRIAL])
        .stdin(Stdio::null())
        .output();
    tried.is_ok_and(|output| output.status.success())
}

/// Returns the address of the node at this place in a namespace: one for each, so that packets say
/// between whom they go. 127.0.0.1 is the clients'.
#[must_use]
pub(crate) fn address(at: usize) -> IpAddr {
    let last = u8::try_from(at + 2).unwrap_or(u8::MAX);
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// Is what is broken between the nodes of a namespace, and breaks it.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// Ways that are cut, from node to node, by places; with how many faults have cut each.
    cut: Vec<(usize, usize)>,
    /// Packets of a hundred that are lost, by each fault that says so.
    loss: Vec<u32>,
    /// Packets dropped by rules that are gone.
    dropped_before: u64,
    nodes: usize,
}

impl Network {
    /// Creates a whole network of so many nodes.
    #[must_use]
    pub(crate) fn of(nodes: usize) -> Self {
        Self {
            nodes,
            ..Self::default()
        }
    }

    /// Cuts ways, each from one node to another, in addition to those that are cut.
    ///
    /// # Errors
    /// [`Error::Failed`] with the words of `nft`.
    pub(crate) fn cut(&mut self, ways: &[(usize, usize)]) -> Result<(), Error> {
        self.cut.extend(ways);
        self.apply()
    }

    /// Takes back what [`Self::cut`] did with the same ways.
    ///
    /// # Errors
    /// [`Error::Failed`] with the words of `nft`.
    pub(crate) fn join(&mut self, ways: &[(usize, usize)]) -> Result<(), Error> {
        for way in ways {
            if let Some(place) = self.cut.iter().position(|one| one == way) {
                self.cut.swap_remove(place);
            }
        }
        self.apply()
    }

    /// Lets so many packets of a hundred get lost between any two nodes.
    ///
    /// # Errors
    /// [`Error::Failed`] with the words of `nft`.
    pub(crate) fn lose(&mut self, percent: u32) -> Result<(), Error> {
        self.loss.push(percent);
        self.apply()
    }

    /// Takes back what [`Self::lose`] did.
    ///
    /// # Errors
    /// [`Error::Failed`] with the words of `nft`.
    pub(crate) fn keep(&mut self, percent: u32) -> Result<(), Error> {
        if let Some(place) = self.loss.iter().position(|one| *one == percent) {
            self.loss.swap_remove(place);
        }
        self.apply()
    }

    /// Takes back everything.
    ///
    /// # Errors
    /// [`Error::Failed`] with the words of `nft`.
    pub(crate) fn heal(&mut self) -> Result<(), Error> {
        self.cut.clear();
        self.loss.clear();
        self.apply()
    }

    /// Returns how many packets were dropped so far.
    ///
    /// # Errors
    /// [`Error::Failed`] with the words of `nft`.
    pub(crate) fn dropped(&self) -> Result<u64, Error> {
        Ok(self.dropped_before + listed()?)
    }

    fn apply(&mut self) -> Result<(), Error> {
        // The rules' own counters go with them.
        self.dropped_before += listed().unwrap_or(0);
        nft(&self.script())
    }

    /// All rules anew.
    fn script(&self) -> String {
        let mut script = TABLE.to_owned();
        let rule = |from: usize, to: usize, what: &str| {
            let (from, to) = (address(from), address(to));
            format!("add rule inet tidewire links ip saddr {from} ip daddr {to} {what}\n")
        };
        let cut: BTreeSet<(usize, usize)> = self.cut.iter().copied().collect();
        for (from, to) in &cut {
            script += &rule(*from, *to, "counter drop");
        }
        let Some(percent) = self.loss.iter().max() else {
            return script;
        };
        let lost = format!("numgen random mod 100 < {percent} counter drop");
        let all = (0..self.nodes).flat_map(|from| (0..self.nodes).map(move |to| (from, to)));
        for (from, to) in all.filter(|(from, to)| from != to) {
            script += &rule(from, to, &lost);
        }
        script
    }
}

/// Returns the ways between two sets of nodes, from the first to the second.
#[must_use]
pub(crate) fn ways(from: &[usize], to: &[usize]) -> Vec<(usize, usize)> {
    let pairs = from
        .iter()
        .flat_map(|one| to.iter().map(|other| (*one, *other)));
    pairs.filter(|(one, other)| one != other).collect()
}

/// Packets that the present rules have dropped.
fn listed() -> Result<u64, Error> {
    let listed = Command::new("nft")
        .args(["list", "chain", "inet", "tidewire", "links"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::Failed(format!("nft: {error}")))?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let counts = text.split("counter packets ").skip(1);
    Ok(counts
        .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
        .sum())
}

fn nft(script: &str) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::Failed(format!("nft: {error}"));
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Failed(format!("nft: {}: {said}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(network: &Network) -> Vec<String> {
        let script = network.script();
        let rules = script.lines().filter(|line| line.starts_with("add rule"));
        rules.map(str::to_owned).collect()
    }

    #[test]
    fn a_way_that_is_cut_is_a_rule_and_the_way_back_another() {
        let mut network = Network::of(3);
        network.cut.extend(ways(&[0], &[1]));
        assert_eq!(
            rules(&network),
            ["add rule inet tidewire links ip saddr 127.0.0.2 ip daddr 127.0.0.3 counter drop"]
        );
        network.cut.extend(ways(&[1], &[0]));
        assert_eq!(rules(&network).len(), 2);
    }

    #[test]
    fn the_greatest_loss_counts_between_any_two() {
        let mut network = Network::of(3);
        network.loss.extend([5, 20]);
        let rules = rules(&network);
        assert_eq!(rules.len(), 6);
        assert!(rules.iter().all(|rule| rule.contains("mod 100 < 20 ")));
    }

    #[test]
    fn nobody_is_cut_from_itself() {
        assert_eq!(ways(&[0, 1], &[1, 2]), [(0, 1), (0, 2), (1, 2)]);
    }
}
