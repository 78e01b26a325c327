//! Whether a node may be stopped without anybody but its own clients noticing.

use std::collections::{BTreeMap, BTreeSet};

use admin::health::SafeToStop;
use cluster::member::{GroupRow, MemberRow, MemberStatus};
use cluster_core::{Group, LAG_MAX, NodeId};

use super::vitals::Said;
use crate::http::group_name;

/// What speaks against it, by what the cluster knows and by what its members say.
pub(crate) fn safe_to_stop(node: NodeId, status: &MemberStatus, said: &Said) -> SafeToStop {
    let lags = lags(said);
    let mut reasons = Vec::new();
    // Who has just gone is silent before the others miss it.
    let speaks = |node: &NodeId| said.get(node).is_some_and(Result::is_ok);
    let members = status.members.iter();
    let serving: BTreeSet<NodeId> = members
        .filter(|(other, row)| serves(row) && speaks(other))
        .map(|(other, _)| *other)
        .collect();
    let others = status.members.keys().filter(|other| **other != node);
    for other in others.filter(|other| !serving.contains(other)) {
        reasons.push(format!("node {} is away already", other.0));
    }
    let mut lost: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (group, row) in &status.groups {
        let name = group_name(*group);
        if row.leader.is_none() {
            let why = "nobody leads it".to_owned();
            lost.entry(why).or_default().push(name);
        } else if let Some(why) = why_lost(node, *group, row, &serving, &lags) {
            lost.entry(why).or_default().push(name);
        }
    }
    for (why, groups) in lost {
        reasons.push(format!("{}: {why}", named(&groups)));
    }
    let mut notes = Vec::new();
    match said.get(&node) {
        Some(Ok(vitals)) => {
            let others = vitals.unread.iter();
            let others = others.filter(|(owner, records)| *owner != node.0 && *records > 0);
            for (owner, records) in others {
                reasons.push(format!(
                    "its log has {records} records that node {owner} has not read: they would wait for \
                     its return"
                ));
            }
            if vitals.spooled > 0 {
                reasons.push(format!(
                    "its spool has {} records that Kafka has not confirmed: they would wait for its \
                     return",
                    vitals.spooled
                ));
            }
            if vitals.buckets_with_rows > 0 {
                notes.push(format!(
                    "rows of {} buckets are on node {} alone: queries for their devices are partial \
                     until it is back",
                    vitals.buckets_with_rows, node.0
                ));
            }
            let clients = vitals.report.connections;
            if clients > 0 {
                notes.push(format!("{clients} clients have to connect elsewhere"));
            }
        }
        Some(Err(why)) => {
            reasons.push(format!("node {} does not say what it holds: {why}", node.0));
        }
        None => reasons.push(format!("node {} was not asked", node.0)),
    }
    SafeToStop {
        node: node.0,
        safe: reasons.is_empty(),
        reasons,
        notes,
    }
}

/// Why a group would not go on without a node, if it would not.
fn why_lost(
    node: NodeId,
    group: Group,
    row: &GroupRow,
    serving: &BTreeSet<NodeId>,
    lags: &BTreeMap<(String, u32), u64>,
) -> Option<String> {
    if row.moving.is_some() && (row.voters.contains(&node) || row.leader == Some(node)) {
        return Some("it is being moved; wait for the end of that".to_owned());
    }
    if !row.voters.contains(&node) {
        return None;
    }
    let left: Vec<NodeId> = row
        .voters
        .iter()
        .copied()
        .filter(|one| *one != node)
        .collect();
    let serve = |one: &&NodeId| serving.contains(one);
    let count = left.iter().filter(serve).count();
    if 2 * count <= row.voters.len() {
        let (needed, voters) = (row.voters.len() / 2 + 1, row.voters.len());
        return Some(format!(
            "without node {} {count} of {voters} voters are left, {needed} are needed",
            node.0
        ));
    }
    let name = group_name(group);
    let lag_of = |one: &NodeId| lags.get(&(name.clone(), one.0)).copied().unwrap_or(0);
    let close = left
        .iter()
        .filter(serve)
        .filter(|one| lag_of(one) < LAG_MAX);
    if 2 * close.count() <= row.voters.len() {
        let furthest = left.iter().max_by_key(|one| lag_of(one))?;
        return Some(format!(
            "node {} is {} entries behind; wait until it has caught up",
            furthest.0,
            lag_of(furthest)
        ));
    }
    None
}

/// How far replicas are behind, by group and node, as leaders say.
fn lags(said: &Said) -> BTreeMap<(String, u32), u64> {
    let all = said.values().filter_map(|said| said.as_ref().ok());
    let led = all.flat_map(|vitals| &vitals.led);
    led.flat_map(|led| {
        let lags = led.lags.iter();
        lags.map(|(node, lag)| ((led.group.clone(), *node), *lag))
    })
    .collect()
}

/// Whether a member has an epoch, and is heard, as far as one node knows.
pub(crate) fn serves(row: &MemberRow) -> bool {
    row.epoch.is_some() && row.is_heard && !row.is_suspected
}

/// Groups in a sentence.
pub(super) fn named(groups: &[String]) -> String {
    let (shards, others): (Vec<&String>, Vec<&String>) = groups
        .iter()
        .partition(|group| group.parse::<u16>().is_ok());
    let mut numbers: Vec<u16> = shards.iter().filter_map(|one| one.parse().ok()).collect();
    numbers.sort_unstable();
    let mut words: Vec<String> = others.into_iter().cloned().collect();
    match numbers.as_slice() {
        [] => {}
        [one] => words.push(format!("shard {one}")),
        all => words.push(format!("shards {}", ranges(all))),
    }
    words.join(", ")
}

/// Numbers in ascending order; three and more that follow each other by the first and the last.
fn ranges(numbers: &[u16]) -> String {
    let runs = numbers.chunk_by(|a, b| *b == a + 1);
    let words = runs.flat_map(|run| match run {
        [first, .., last] if run.len() > 2 => vec![format!("{first}-{last}")],
        few => few.iter().map(u16::to_string).collect(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[path = "stopping_test.rs"]
mod stopping_test;
