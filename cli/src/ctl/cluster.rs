//! `tidewire ctl cluster`.

use admin::cluster::{BucketMove, ClusterStatus, Members};
use clap::Subcommand;

use super::drain::{self, Drain, Replace, Told};
use super::table::{Side, Table};
use super::{Done, End, Node, degraded};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Members, their epochs, and who leads meta and the routes; 3 if something is wrong.
    Status,
    /// What each member says about itself; 3 if one says nothing.
    Members,
    /// Have a member give up what it holds, so that it can be stopped for good: clients go elsewhere,
    /// replicas and buckets move to the others.
    Drain(Drain),
    /// Have a member that is being drained keep what it still holds, and take clients again.
    Undrain(Told),
    /// Have the cluster forget a member that was drained and stopped.
    Forget(Told),
    /// Have a member that has joined take the place of another, which is retired or lost for good: what
    /// that one holds goes to the members with room, and it is forgotten.
    Replace(Replace),
    /// Send MQTT 5 clients to the nodes that lead their shards, at a rate; their sessions go on there.
    Rebalance(super::rebalance::Ask),
    /// What is wrong, one line a finding; 3 if anything is.
    Health,
    /// Whether a node may be stopped without anybody but its own clients noticing; 3 if not.
    SafeToStop {
        /// Its number [default: the node that is asked].
        node: Option<u32>,
    },
}

impl Verb {
    /// Whether it changes nothing.
    pub(super) fn looks_only(&self) -> bool {
        !matches!(
            self,
            Self::Drain(_)
                | Self::Undrain(_)
                | Self::Forget(_)
                | Self::Replace(_)
                | Self::Rebalance(_)
        )
    }
}

pub(super) fn run(node: &Node, verb: &Verb) -> Done {
    match verb {
        Verb::Status => {
            let status = node.client.cluster()?;
            match node.print(&status, table)? {
                End::Good => degraded(trouble(&status)),
                End::Degraded => Ok(End::Degraded),
            }
        }
        Verb::Drain(asked) => drain::drain(node, asked),
        Verb::Undrain(told) => drain::undrain(node, told),
        Verb::Forget(told) => drain::forget(node, told),
        Verb::Replace(asked) => drain::replace(node, asked),
        Verb::Rebalance(asked) => super::rebalance::run(node, asked),
        Verb::Health => super::health::health(node),
        Verb::SafeToStop { node: which } => super::health::safe_to_stop(node, *which),
        Verb::Members => {
            let members = node.client.members()?;
            node.print(&members, members_table)?;
            degraded(members.members.iter().filter_map(|member| {
                let why = member.silent.as_ref()?;
                Some(format!("node {} says nothing: {why}", member.node))
            }))
        }
    }
}

fn table(status: &ClusterStatus) -> String {
    let mut members = Table::new(&[
        ("node", Side::Right),
        ("address", Side::Left),
        ("epoch", Side::Right),
        ("heard", Side::Left),
        ("leads", Side::Right),
        ("buckets", Side::Right),
        ("state", Side::Left),
    ]);
    for member in &status.members {
        let state = match member {
            member if member.is_leaving => "leaving",
            // Stopped or dead, meta knows; nobody suspects it any more.
            member if member.epoch.is_none() => "away",
            member if member.is_suspected => "suspected",
            _ => "serving",
        };
        members.row([
            member.node.to_string(),
            member.address.clone(),
            member
                .epoch
                .map_or_else(|| "-".to_owned(), |e| e.to_string()),
            yes_or_no(member.is_heard).to_owned(),
            member.leads.to_string(),
            member.buckets.to_string(),
            state.to_owned(),
        ]);
    }
    let lease = match (status.has_lease, status.lease_ms) {
        (false, _) => "none".to_owned(),
        (true, None) => "held, without end".to_owned(),
        (true, Some(left)) => format!("held, {left} ms left"),
    };
    let mut text = format!("node {}   lease {lease}\n\n", status.node) + &members.text();
    let shards = status.groups.iter().filter(|group| is_shard(&group.group));
    let (all, led) = shards.fold((0, 0), |(all, led), group| {
        (all + 1, led + usize::from(group.leader.is_some()))
    });
    text += &format!("\nshards {all}, led {led}");
    for group in status.groups.iter().filter(|group| !is_shard(&group.group)) {
        let leader = group
            .leader
            .map_or_else(|| "nobody".to_owned(), |n| n.to_string());
        text += &format!("   {} led by {leader}", group.group);
    }
    text += "\n";
    for group in status.groups.iter().filter(|one| one.pinned_to.is_some()) {
        text += &format!(
            "{} stays at nodes {}: an operator moved it there\n",
            super::shard::named(&group.group),
            super::shard::numbers(group.pinned_to.as_deref().unwrap_or_default())
        );
    }
    for moved in &status.bucket_moves {
        let BucketMove { bucket, from, to } = moved;
        text += &format!("bucket {bucket} is being moved from node {from} to node {to}\n");
    }
    text
}

fn members_table(members: &Members) -> String {
    let mut table = Table::new(&[
        ("node", Side::Right),
        ("address", Side::Left),
        ("version", Side::Left),
        ("mqtt", Side::Left),
        ("admin", Side::Left),
        ("up", Side::Right),
        ("clients", Side::Right),
        ("memory", Side::Right),
        ("restarts", Side::Right),
        ("last of them", Side::Left),
    ]);
    for member in &members.members {
        let mut row = vec![member.node.to_string(), member.address.clone()];
        match &member.report {
            None => row.resize(10, "-".to_owned()),
            Some(report) => row.extend([
                report.node.version.clone(),
                report.node.mqtt.clone(),
                report.node.admin.clone(),
                format!("{} s", report.uptime_s),
                report.connections.to_string(),
                report
                    .resident_bytes
                    .map_or_else(|| "-".to_owned(), |bytes| format!("{} MiB", bytes >> 20)),
                report.restarts.to_string(),
                report.last_restart.as_ref().map_or_else(
                    || "-".to_owned(),
                    |last| format!("{}: {}", last.child, last.reason),
                ),
            ]),
        }
        let row: [String; 10] = row.try_into().expect("a row has ten cells");
        table.row(row);
    }
    table.text()
}

/// What an operator has to know.
fn trouble(status: &ClusterStatus) -> Vec<String> {
    let mut trouble = Vec::new();
    if !status.has_lease {
        trouble.push(format!(
            "node {} has no lease: it acknowledges nothing",
            status.node
        ));
    }
    for member in &status.members {
        if member.epoch.is_none() || member.is_suspected {
            trouble.push(format!("node {} does not serve", member.node));
        }
    }
    for group in status.groups.iter().filter(|group| group.leader.is_none()) {
        trouble.push(format!(
            "nobody leads {}",
            super::shard::named(&group.group)
        ));
    }
    if status.members.len() == 2 {
        trouble.push("two nodes are no more available than one: a third is missing".to_owned());
    }
    trouble
}

pub(super) fn is_shard(group: &str) -> bool {
    group.parse::<u16>().is_ok()
}

fn yes_or_no(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}
