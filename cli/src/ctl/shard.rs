//! `tidewire ctl shard`.

use std::time::Duration;

use admin::cluster::GroupStatus;
use admin::shard::{
    MoveRequest, Pinned, RecoverRequest, Recovering, ShardDetails, Survivor, Transfer, Transferred,
    UnpinRequest,
};
use clap::Subcommand;

use super::cluster::is_shard;
use super::table::{Facts, Side, Table, bytes, span};
use super::{Done, End, Node, degraded};
use crate::arguments::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Where each shard is, who leads it, where it is being moved; 3 if one has no leader.
    List,
    /// One shard: its replicas, what it holds, what waits; 3 if no leader answers.
    Show {
        /// Its number.
        shard: u16,
    },
    /// Move a replica of a shard to another node. It stays there: the ring makes room for it, until
    /// --unpin, or a drain of one of the shard's nodes, lets it go.
    Move {
        /// Its number.
        shard: u16,
        /// The node that is to give its replica up.
        #[arg(long, value_name = "NODE", required_unless_present = "unpin")]
        from: Option<u32>,
        /// The node that is to have one.
        #[arg(long, value_name = "NODE", required_unless_present = "unpin")]
        to: Option<u32>,
        /// Let the ring place the shard again.
        #[arg(long, conflicts_with_all = ["from", "to"])]
        unpin: bool,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Have a shard that has lost the majority of its voters for good go on with what one replica has.
    /// What the lost ones had acknowledged beyond it is lost; first try to start them again.
    Recover {
        /// Its number.
        shard: u16,
        /// The node of the replica: of those that are left, the one whose log goes furthest.
        #[arg(long, value_name = "NODE", required_unless_present = "dry_run")]
        node: Option<u32>,
        /// Accept that what is not on that node is lost.
        #[arg(long)]
        accept_loss: bool,
        /// Say which replicas are left, how far each goes and what would be lost, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Have another node lead a shard. Leaderships return to their preferred node by themselves.
    TransferLeader {
        /// Its number.
        shard: u16,
        /// The node, one of the shard's voters.
        #[arg(long, value_name = "NODE")]
        to: u32,
        /// Keep it from returning for this time, up to 24h; a start of the new leader forgets that.
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
        hold: Duration,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

pub(super) fn run(node: &Node, verb: &Verb) -> Done {
    match verb {
        Verb::List => {
            let status = node.client.cluster()?;
            let leaderless = status.groups.iter().filter(|group| group.leader.is_none());
            let trouble: Vec<String> = leaderless
                .map(|group| format!("nobody leads {}", named(&group.group)))
                .collect();
            match node.print(&status.groups, |groups| table(groups))? {
                End::Good => degraded(trouble),
                End::Degraded => Ok(End::Degraded),
            }
        }
        Verb::Show { shard } => {
            let details = node.client.shard(*shard)?;
            node.print(&details, details_table)?;
            degraded(trouble(*shard, &details))
        }
        Verb::Move {
            shard,
            from,
            to,
            unpin,
            dry_run,
        } => {
            let dry_run = *dry_run;
            let answer = match (from, to) {
                (Some(from), Some(to)) if !unpin => {
                    let (from, to) = (*from, *to);
                    let request = MoveRequest { from, to, dry_run };
                    node.client.move_shard(*shard, request)?
                }
                _ => node.client.unpin_shard(*shard, UnpinRequest { dry_run })?,
            };
            node.print(&answer, pinned)
        }
        Verb::Recover {
            shard,
            node: survivor,
            accept_loss,
            dry_run,
        } => {
            let request = RecoverRequest {
                node: *survivor,
                accept_loss: *accept_loss,
                dry_run: *dry_run,
            };
            let answer = node.client.recover_shard(*shard, request)?;
            node.print(&answer, recovering)
        }
        Verb::TransferLeader {
            shard,
            to,
            hold,
            dry_run,
        } => {
            let transfer = Transfer {
                to: *to,
                hold_s: hold.as_secs(),
                dry_run: *dry_run,
            };
            let answer = node.client.transfer_leader(*shard, transfer)?;
            node.print(&answer, transferred)
        }
    }
}

fn trouble(shard: u16, details: &ShardDetails) -> Vec<String> {
    let mut trouble = Vec::new();
    if !details.by_leader {
        trouble.push(format!(
            "nobody who leads shard {shard} answers: node {} says what its replica has",
            details.answered_by
        ));
    }
    if details.is_stuck {
        trouble.push(format!(
            "the log of shard {shard} takes nothing from node {}",
            details.answered_by
        ));
    }
    trouble
}

fn details_table(details: &ShardDetails) -> String {
    let group = &details.group;
    let mut facts = Facts::default();
    facts.add("shard", &group.group);
    let leader = group
        .leader
        .map_or_else(|| "nobody".to_owned(), |node| format!("node {node}"));
    facts.add("led by", &format!("{leader}, term {}", group.term));
    let preferred = group
        .voters
        .first()
        .map_or_else(|| "-".to_owned(), u32::to_string);
    facts.add("preferred", &format!("node {preferred}"));
    facts.add("voters", &numbers(&group.voters));
    facts.add("learners", &numbers(&group.learners));
    if let Some(moving_to) = &group.moving_to {
        facts.add("moving to", &numbers(moving_to));
    }
    if let Some(pinned_to) = &group.pinned_to {
        facts.add("pinned to", &numbers(pinned_to));
    }
    let behind = group
        .lags
        .iter()
        .map(|(node, lag)| format!("node {node}: {lag}"));
    let behind: Vec<String> = behind.collect();
    facts.add("behind", &behind.join(", "));
    let by = match details.by_leader {
        true => "",
        false => ", a replica that may be behind",
    };
    let (node, applied) = (details.answered_by, details.applied);
    facts.add(
        "answered by",
        &format!("node {node}{by}; applied up to entry {applied}"),
    );
    let (sessions, connected) = (details.sessions, details.connected);
    facts.add("sessions", &format!("{sessions}, {connected} connected"));
    let (messages, size) = (details.queue_messages, bytes(details.queue_bytes));
    let unflushed = bytes(details.unflushed_bytes);
    facts.add(
        "queued",
        &format!("{messages} messages, {size}; {unflushed} not flushed"),
    );
    let (messages, size) = (details.retained_messages, bytes(details.retained_bytes));
    facts.add("retained", &format!("{messages} messages, {size}"));
    let (groups, members) = (details.groups, details.group_members);
    facts.add("groups", &format!("{groups} with {members} members"));
    facts.add(
        "outbox",
        &format!(
            "{} routes, {} wills, {} memberships",
            details.outbox_routes, details.outbox_wills, details.outbox_memberships
        ),
    );
    let (full, expired) = (details.dropped_full, details.dropped_expired);
    facts.add("dropped", &format!("{full} queue full, {expired} expired"));
    let stuck = if details.is_stuck { ", stuck" } else { "" };
    facts.add(
        "waiting",
        &format!("{} for the log{stuck}", bytes(details.held_bytes)),
    );
    facts.text()
}

fn transferred(answer: &Transferred) -> String {
    let Transferred {
        shard, from, to, ..
    } = answer;
    let done = if answer.dry_run {
        "would lead"
    } else {
        "leads"
    };
    let mut text = format!("node {to} {done} shard {shard}, which node {from} led\n");
    match answer.preferred {
        Some(preferred) if preferred != *to => {
            let when = match answer.hold_s {
                0 => "at once".to_owned(),
                hold_s => format!("after {}", span(hold_s)),
            };
            text += &format!(
                "it returns to node {preferred}, which is to lead it, by itself: {when}, or when node \
                 {to} stops\n"
            );
        }
        _ => {}
    }
    text
}

fn pinned(answer: &Pinned) -> String {
    let Pinned { shard, nodes, .. } = answer;
    let nodes = numbers(nodes);
    match (answer.is_pinned, answer.dry_run) {
        (true, true) => format!("shard {shard} would go to nodes {nodes}, and stay there\n"),
        (true, false) => format!(
            "shard {shard} goes to nodes {nodes}, and stays there; `tidewire ctl shard show {shard}` says how \
             far it is, `tidewire ctl shard move {shard} --unpin` lets it go\n"
        ),
        (false, _) if nodes.is_empty() => format!("nothing holds shard {shard}\n"),
        (false, true) => format!("the ring would place shard {shard}, now held at nodes {nodes}\n"),
        (false, false) => {
            format!("the ring places shard {shard}, which was held at nodes {nodes}\n")
        }
    }
}

fn recovering(answer: &Recovering) -> String {
    let Recovering { shard, node, .. } = answer;
    let mut table = Table::new(&[
        ("node", Side::Right),
        ("votes", Side::Left),
        ("last term", Side::Right),
        ("last entry", Side::Right),
        ("", Side::Left),
    ]);
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    for replica in &answer.replicas {
        let Survivor { node, votes, .. } = replica;
        let is_best = *node == answer.best;
        table.row([
            node.to_string(),
            if *votes { "yes" } else { "no" }.to_owned(),
            number(replica.last_term),
            number(replica.last_index),
            match &replica.silent {
                Some(why) => why.clone(),
                None if is_best => "goes furthest".to_owned(),
                None => String::new(),
            },
        ]);
    }
    let mut text = table.text();
    text += match answer.dry_run {
        true => "lost would be:\n",
        false => "lost is:\n",
    };
    for lost in &answer.loses {
        text += &format!("  {lost}\n");
    }
    text += &match answer.dry_run {
        true => format!(
            "start the others again if that is possible at all; else `tidewire ctl shard recover {shard} --node \
             {node} --accept-loss`\n"
        ),
        false => format!(
            "shard {shard} goes on with what node {node} has, and gets its replicas again; `tidewire ctl shard \
             show {shard}` says how far it is\n"
        ),
    };
    text
}

/// A group's name in a sentence.
pub(super) fn named(group: &str) -> String {
    match is_shard(group) {
        true => format!("shard {group}"),
        false => group.to_owned(),
    }
}

fn table(groups: &[GroupStatus]) -> String {
    let mut table = Table::new(&[
        ("group", Side::Right),
        ("leader", Side::Right),
        ("term", Side::Right),
        ("voters", Side::Left),
        ("learners", Side::Left),
        ("moving to", Side::Left),
        ("pinned to", Side::Left),
        ("behind", Side::Left),
    ]);
    for group in groups {
        let behind = group.lags.iter().filter(|(_, lag)| *lag > 0);
        let behind: Vec<String> = behind.map(|(node, lag)| format!("{node}: {lag}")).collect();
        table.row([
            group.group.clone(),
            group
                .leader
                .map_or_else(|| "-".to_owned(), |node| node.to_string()),
            group.term.to_string(),
            numbers(&group.voters),
            numbers(&group.learners),
            group.moving_to.as_deref().map(numbers).unwrap_or_default(),
            group.pinned_to.as_deref().map(numbers).unwrap_or_default(),
            behind.join(", "),
        ]);
    }
    table.text()
}

pub(super) fn numbers(nodes: &[u32]) -> String {
    let all: Vec<String> = nodes.iter().map(u32::to_string).collect();
    all.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use admin::cluster::ClusterStatus;

    #[test]
    fn a_line_says_where_a_shard_is_and_who_is_behind() {
        let group = GroupStatus {
            group: "7".into(),
            leader: Some(2),
            term: 5,
            voters: vec![2, 1, 3],
            moving_to: Some(vec![2, 1, 4]),
            lags: vec![(1, 0), (3, 12)],
            ..GroupStatus::default()
        };
        let status = ClusterStatus {
            groups: vec![group],
            ..ClusterStatus::default()
        };
        let text = table(&status.groups);
        let line = text.lines().nth(1).expect("a row");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            words,
            ["7", "2", "5", "2", "1", "3", "2", "1", "4", "3:", "12"]
        );
    }
}
