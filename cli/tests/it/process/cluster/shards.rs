//! One shard, asked for and handed over through any node.

use admin::shard::{ShardDetails, Transferred};

use super::client::Client;
use super::nodes::{Cluster, NODES, Nodes, ctl, json, leads_as_placed};
use crate::process::sessions::DEFAULTS;
use crate::process::wait::until;

#[test]
fn a_shard_is_led_by_the_node_that_is_told_until_its_hold_ends() {
    let cluster = Cluster::new(DEFAULTS);
    let nodes = cluster.start();
    until("leaders to be where they are to be", || {
        let status = nodes.status(0)?;
        leads_as_placed(&status).then_some(())
    });
    let (held, free) = two_of_the_first(&nodes);

    let dry: Transferred = json(&nodes, 2, &transfer(held, "2", &["--dry-run"]));
    assert_eq!(
        (dry.from, dry.to, dry.preferred, dry.dry_run),
        (1, 2, Some(1), true)
    );
    assert_eq!(leader(&nodes, held), Some(1));
    let (code, out, error) = ctl(&nodes, 2, &transfer(held, "2", &["--hold", "1h"]));
    assert_eq!(code, Some(0), "{error}");
    assert!(
        out.contains("returns to node 1") && out.contains("after 1h"),
        "{out}"
    );
    until("its new leader", || {
        (leader(&nodes, held) == Some(2)).then_some(())
    });
    let (code, _, error) = ctl(&nodes, 0, &transfer(free, "2", &["--hold", "0s"]));
    assert_eq!(code, Some(0), "{error}");
    until("the leadership that nothing holds to return", || {
        let status = nodes.status(0)?;
        let group = status
            .groups
            .iter()
            .find(|one| one.group == free.to_string())?;
        // Handing over and back are two terms.
        (group.leader == Some(1) && group.term > 2).then_some(())
    });
    assert_eq!(leader(&nodes, held), Some(2));

    for at in 0..NODES {
        let details: ShardDetails = json(&nodes, at, &["shard", "show", &held.to_string()]);
        assert_eq!((details.answered_by, details.by_leader), (2, true));
        assert_eq!(details.group.leader, Some(2));
    }
    let _client = Client::connect(cluster.mqtt()[0], "c", true);
    let sessions: u64 = (0..shards(&nodes))
        .map(|shard| {
            let details: ShardDetails = json(&nodes, 1, &["shard", "show", &shard.to_string()]);
            details.sessions
        })
        .sum();
    assert_eq!(sessions, 1);

    let (code, _, error) = ctl(&nodes, 0, &transfer(held, "1", &[]));
    assert_eq!(code, Some(0), "{error}");
    until("it to be back", || {
        (leader(&nodes, held) == Some(1)).then_some(())
    });
    let (code, _, error) = ctl(&nodes, 0, &transfer(held, "9", &[]));
    assert!(
        code == Some(1) && error.contains("node 9 has no vote"),
        "{error}"
    );
    let (code, _, error) = ctl(&nodes, 0, &["shard", "show", "999"]);
    assert!(code == Some(1) && error.contains("no shard 999"), "{error}");
}

fn transfer(shard: u16, to: &str, more: &[&str]) -> Vec<String> {
    let shard = shard.to_string();
    let words = ["shard", "transfer-leader", &shard, "--to", to];
    words
        .iter()
        .chain(more)
        .map(|word| (*word).to_owned())
        .collect()
}

fn leader(nodes: &Nodes<'_>, shard: u16) -> Option<u32> {
    let shard = shard.to_string();
    // Between two leaders it is a replica that answers.
    let (_, out, _) = ctl(nodes, 0, &["shard", "show", &shard, "--output", "json"]);
    let details: ShardDetails = serde_json::from_str(&out).ok()?;
    details.group.leader.filter(|_| details.by_leader)
}

/// Shards that node 1 leads, and is to lead.
fn two_of_the_first(nodes: &Nodes<'_>) -> (u16, u16) {
    let status = nodes.status(0).expect("node 1 answers");
    let groups = status.groups.iter().filter(|group| group.leader == Some(1));
    let mut shards = groups.filter_map(|group| group.group.parse().ok());
    let mut next = || shards.next().expect("of 32 shards it leads some");
    (next(), next())
}

fn shards(nodes: &Nodes<'_>) -> u16 {
    let status = nodes.status(0).expect("node 1 answers");
    let shards = status
        .groups
        .iter()
        .filter(|group| group.group.parse::<u16>().is_ok());
    u16::try_from(shards.count()).expect("few shards")
}
