//! What is looked at when somebody asks how the cluster is, and what to do about each finding.

use std::collections::{BTreeMap, BTreeSet};

use admin::health::{Check, State, Vitals};
use cluster::member::MemberStatus;
use cluster_core::{Group, LAG_MAX, NodeId};

use super::stopping::{named, serves};
use super::vitals::Said;
use crate::http::group_name;

/// How far apart wall clocks may be, in milliseconds: beyond it leaders stamp the time before
/// (SEMANTICS, Time). A node may take a second to say what its clock shows.
const CLOCKS_APART_MS: u64 = 2_000;
/// Fewest descriptors that a node is to have, besides one for each client.
const FILES_MIN: u64 = 4_096;

/// Findings of one check.
struct Look {
    about: &'static str,
    of_cluster: bool,
    good: String,
    found: Vec<(State, String, String)>,
}

impl Look {
    /// What is about the cluster, and what is said if nothing is wrong.
    fn cluster(about: &'static str, good: impl Into<String>) -> Self {
        Self {
            about,
            of_cluster: true,
            good: good.into(),
            found: Vec::new(),
        }
    }

    /// The same of the machines and of how they are set up.
    fn machine(about: &'static str, good: impl Into<String>) -> Self {
        Self {
            of_cluster: false,
            ..Self::cluster(about, good)
        }
    }

    fn find(&mut self, state: State, found: impl Into<String>, todo: impl Into<String>) {
        self.found.push((state, found.into(), todo.into()));
    }

    fn checks(self) -> Vec<Check> {
        let check = |state, found, todo| Check {
            about: self.about.to_owned(),
            state,
            of_cluster: self.of_cluster,
            found,
            todo,
        };
        if self.found.is_empty() {
            return vec![check(State::Good, self.good, String::new())];
        }
        let found = self.found.into_iter();
        found
            .map(|(state, found, todo)| check(state, found, todo))
            .collect()
    }
}

/// All findings, by what the cluster knows and by what its members say.
pub(crate) fn of(status: &MemberStatus, said: &Said) -> Vec<Check> {
    let spoken: BTreeMap<NodeId, &Vitals> = said
        .iter()
        .filter_map(|(node, said)| Some((*node, said.as_ref().ok()?)))
        .collect();
    let looks = [
        members(status, said),
        leases(&spoken),
        leaders(status),
        replicas(status, &spoken),
        stuck(&spoken),
        space(&spoken),
        disks(&spoken),
        clocks(&spoken),
        versions(&spoken),
        files(&spoken),
        memory(&spoken),
        restarts(&spoken),
        bridge(&spoken),
        pulls(&spoken),
    ];
    looks.into_iter().flat_map(Look::checks).collect()
}

fn members(status: &MemberStatus, said: &Said) -> Look {
    let count = status.members.len();
    let mut look = Look::cluster("members", format!("{count} of {count} serve"));
    for (node, row) in &status.members {
        let why = match said.get(node) {
            Some(Err(why)) => why.as_str(),
            _ => "the others do not hear it",
        };
        if !serves(row) {
            look.find(
                State::Broken,
                format!("node {} ({}) does not serve", node.0, row.address),
                "start it again, or see why it ends in its log",
            );
        } else if let Some(Err(_)) = said.get(node) {
            look.find(
                State::Warning,
                format!("node {} says nothing about itself: {why}", node.0),
                "ask again; if it stays so, see its log",
            );
        }
    }
    if count == 2 {
        look.find(
            State::Warning,
            "two nodes are no more available than one",
            "add a third: `tidewire serve --join`",
        );
    }
    look
}

fn leases(spoken: &BTreeMap<NodeId, &Vitals>) -> Look {
    let mut look = Look::cluster("leases", "every node that serves may acknowledge");
    for (node, vitals) in spoken {
        if !vitals.has_lease {
            look.find(
                State::Broken,
                format!("node {} has no lease: it acknowledges nothing", node.0),
                "see whether meta is led, and whether the node reaches the others",
            );
        }
    }
    look
}

fn leaders(status: &MemberStatus) -> Look {
    let count = status.groups.len();
    let mut look = Look::cluster("leaders", format!("all {count} groups are led"));
    let unled = status.groups.iter().filter(|(_, row)| row.leader.is_none());
    let unled: Vec<String> = unled.map(|(group, _)| group_name(*group)).collect();
    if !unled.is_empty() {
        look.find(
            State::Broken,
            format!("nobody leads {}", named(&unled)),
            "an election takes seconds; if it stays so, too few of its voters serve: start them",
        );
    }
    for (group, row) in &status.groups {
        let serving = |node: &&NodeId| status.members.get(node).is_some_and(serves);
        let (alive, voters) = (row.voters.iter().filter(serving).count(), row.voters.len());
        // Who led it when the others died still says so.
        if let Group::Shard(shard) = group
            && 2 * alive <= voters
        {
            look.find(
                State::Broken,
                format!("shard {shard} has lost its majority: {alive} of its {voters} voters serve"),
                format!(
                    "start the others; only if their folders are lost for good, `tidewire ctl shard recover \
                     {shard} --dry-run` says with which replica it can go on, and what is lost then"
                ),
            );
        }
    }
    look
}

fn replicas(status: &MemberStatus, spoken: &BTreeMap<NodeId, &Vitals>) -> Look {
    let wanted = status.members.len().min(3);
    let mut look = Look::cluster("replicas", "every group has its replicas, none far behind");
    let few = status
        .groups
        .iter()
        .filter(|(_, row)| row.voters.len() < wanted);
    // Of two nodes one votes and one follows.
    let few = few.filter(|_| status.members.len() > 2);
    let few: Vec<String> = few.map(|(group, _)| group_name(*group)).collect();
    if !few.is_empty() {
        look.find(
            State::Warning,
            format!("{} have less than {wanted} voters", named(&few)),
            "they are being moved; `tidewire ctl shard list` shows how far",
        );
    }
    let mut behind: BTreeMap<u32, (u64, Vec<String>)> = BTreeMap::new();
    for led in spoken.values().flat_map(|vitals| &vitals.led) {
        for (node, lag) in led.lags.iter().filter(|(_, lag)| *lag >= LAG_MAX) {
            let (most, groups) = behind.entry(*node).or_default();
            *most = (*most).max(*lag);
            groups.push(led.group.clone());
        }
    }
    for (node, (lag, groups)) in behind {
        look.find(
            State::Warning,
            format!(
                "node {node} is up to {lag} entries behind in {}",
                named(&groups)
            ),
            "it catches up by itself; if it does not, see its disk and its link",
        );
    }
    look
}

fn stuck(spoken: &BTreeMap<NodeId, &Vitals>) -> Look {
    let mut look = Look::cluster("shards", "every shard takes what it is given");
    for (node, vitals) in spoken {
        if !vitals.stuck.is_empty() {
            let shards: Vec<String> = vitals.stuck.iter().map(u16::to_string).collect();
            look.find(
                State::Broken,
                format!("{} take nothing from node {}", named(&shards), node.0),
                "see whether they are led, and whether the leader's disk is full",
            );
        }
    }
    look
}

/// What to do about a disk.
const ROOM: &str = "make room on the file system of its data folder, or enlarge it";

fn space(spoken: &BTreeMap<NodeId, &Vitals>) -> Look {
    let mut look = Look::cluster("space", "no node waits for space on its disk");
    let full = spoken.iter().filter(|(_, vitals)| vitals.disk_full);
    for (node, _) in full {
        let found = format!("the disk of node {} is full: it keeps nothing more", node.0);
        look.find(State::Broken, found, ROOM);
    }
    look
}

fn disks(spoken: &BTreeMap<NodeId, &Vitals>) -> Look {
    let mut look = Look::machine("disks", "every data folder has room");
    for (node, vitals) in spoken {
        let Some(disk) = vitals.disk else {
            continue;
        };
        let (free, total) = (disk.free_bytes, disk.total_bytes);
        if free < total / 10 {
            let percent = free * 100 / total.max(1);
            let found = format!(
                "the disk of node {} is {percent} % free, {} MiB",
                node.0,
                free >> 20
            );
            look.find(State::Warning, found, ROOM);
        }
    }
    look
}

fn clocks(spoken: &BTreeMap<NodeId, &Vitals>) -> Look {
    let mut walls: Vec<u64> = spoken.values().map(|of| of.report.wall_ms).collect();
    walls.sort_unstable();
    let median = walls.get(walls.len() / 2).copied().unwrap_or_default();
    let mut look = Look::machine("clocks", "wall clocks agree within 2 s");
    for (node, vitals) in spoken {
        let apart = vitals.report.wall_ms.abs_diff(median);
        if apart > CLOCKS_APART_MS {
            look.find(
                State::Warning,
                format!(
                    "the clock of node {} is {apart} ms from the others'",
                    node.0
                ),
                "have chrony or another NTP client keep it; expiry intervals stand still meanwhile",
            );
        }
    }
    look
}

fn versions(spoken: &BTreeMap<NodeId, &Vitals>) -> Look {
    let version = |vitals: &&&Vitals| vitals.report.node.version.clone();
    let all: BTreeSet<String> = spoken.values().map(|of| version(&of)).collect();
    let all: Vec<String> = all.into_iter().collect();
    let mut look = Look::machine("versions", format!("all run {}", all.join(", ")));
    if all.len() > 1 {
        look.find(
            State::Warning,
            format!("nodes run different versions: {}", all.join(", ")),
            "end the upgrade: one node after the other, as `cluster safe-to-stop` allows",
        );
    }
    look
}

fn files(spoken: &BTreeMap<NodeId, &Vitals>) -> Look {
    let mut look = Look::machine("descriptors", "every node may open enough files");
    for (node, vitals) in spoken {
        let Some(limit) = vitals.files_limit else {
            continue;
        };
        let clients = vitals.report.connections;
        let todo = "raise the limit before the start: `ulimit -n`, or LimitNOFILE= of systemd";
        if limit < FILES_MIN {
            let found = format!("node {} may open {limit} files: that is few", node.0);
            look.find(State::Warning, found, todo);
        } else if clients > limit / 5 * 4 {
            let found = format!(
                "node {} has {clients} clients and may open {limit} files",
                node.0
            );
            look.find(State::Warning, found, todo);
        }
    }
    look
}

fn memory(spoken: &BTreeMap<NodeId, &Vitals>) -> Look {
    let mut look = Look::machine("memory", "every node is within memory_bytes_limit");
    for (node, vitals) in spoken {
        let Some(resident) = vitals.report.resident_bytes else {
            continue;
        };
        let limit = vitals.memory_limit_bytes;
        if resident > limit {
            look.find(
                State::Warning,
                format!(
                    "node {} holds {} MiB, its memory_bytes_limit is {} MiB",
                    node.0,
                    resident >> 20,
                    limit >> 20
                ),
                format!(
                    "see `tidewire ctl node memory` of node {}; connections are in no share",
                    node.0
                ),
            );
        }
    }
    look
}

fn restarts(spoken: &BTreeMap<NodeId, &Vitals>) -> Look {
    let mut look = Look::machine("actors", "none was started again");
    for (node, vitals) in spoken {
        let Some(last) = &vitals.report.last_restart else {
            continue;
        };
        let (count, child, reason) = (vitals.report.restarts, &last.child, &last.reason);
        look.find(
            State::Warning,
            format!(
                "node {} started actors again {count} times, last {child}: {reason}",
                node.0
            ),
            "report it with the node's log: an actor that fails is a bug",
        );
    }
    look
}

fn bridge(spoken: &BTreeMap<NodeId, &Vitals>) -> Look {
    let mut look = Look::machine("bridge", "telemetry leaves every node");
    for (node, vitals) in spoken {
        for trouble in &vitals.bridge {
            let todo = "`tidewire ctl bridge status` of that node; docs/bridge.md says what each state asks";
            look.find(State::Warning, format!("node {}: {trouble}", node.0), todo);
        }
    }
    look
}

fn pulls(spoken: &BTreeMap<NodeId, &Vitals>) -> Look {
    let mut look = Look::machine(
        "stores",
        "every owner of buckets reads the logs of all nodes",
    );
    for (node, vitals) in spoken {
        for (of, why) in &vitals.unpulled {
            look.find(
                State::Warning,
                format!("node {} cannot read the log of node {of}: {why}", node.0),
                "see whether both serve and reach each other",
            );
        }
    }
    look
}

#[cfg(test)]
#[path = "checks_test.rs"]
mod checks_test;
