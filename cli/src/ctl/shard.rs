//! `tidewire ctl shard`.

use admin::cluster::GroupStatus;
use clap::Subcommand;

use super::cluster::is_shard;
use super::table::{Side, Table};
use super::{Done, End, Node, degraded};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Where each shard is, who leads it, where it is being moved; 3 if one has no leader.
    List,
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
    }
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
            behind.join(", "),
        ]);
    }
    table.text()
}

fn numbers(nodes: &[u32]) -> String {
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
