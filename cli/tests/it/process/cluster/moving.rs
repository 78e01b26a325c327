//! What an operator moves: one replica, and a whole member's.

use admin::cluster::GroupStatus;
use admin::shard::Pinned;

use super::client::Client;
use super::history::assert_one_history;
use super::nodes::{Cluster, Nodes, ctl, json};
use crate::process::node::Place;
use crate::process::sessions::DEFAULTS;
use crate::process::sessions::crowd::Crowd;
use crate::process::sessions::homes::Homes;
use crate::process::wait::until;

/// Publishers, and as many subscribers.
const CLIENTS: usize = 9;

#[test]
fn a_replica_that_an_operator_moves_stays_until_it_is_let_go_and_nothing_is_lost() {
    let cluster = Cluster::new(DEFAULTS);
    let mut nodes = cluster.start();
    let fourth = joining(&cluster, 4);
    let running = Crowd::spread(&cluster.mqtt(), CLIENTS).run(Homes::of(&cluster.mqtt()), None);
    running.take(100);
    let joined = fourth.start();
    running.take_until("the fourth node to have its share", || shared(&nodes, 24));
    // One that it has none of, and a replica of it that does not lead.
    let shard = shards(&nodes)
        .into_iter()
        .find(|shard| !shard.voters.contains(&4))
        .expect("a quarter of the shards is elsewhere");
    let (from, name) = (shard.voters[1].to_string(), shard.group.as_str());
    let moves = |words: &[&str]| {
        let all = ["shard", "move", name];
        let all = all.iter().chain(words).copied();
        all.map(str::to_owned).collect::<Vec<String>>()
    };

    let dry: Pinned = json(
        &nodes,
        1,
        &moves(&["--from", &from, "--to", "4", "--dry-run"]),
    );
    assert!(dry.dry_run && dry.is_pinned && dry.nodes.contains(&4));
    assert_eq!(of(&nodes, name).pinned_to, None);
    let refused = |nodes: &Nodes<'_>, words: &[&str], why: &str| {
        let (code, _, error) = ctl(nodes, 0, &moves(words));
        assert!(code == Some(1) && error.contains(why), "{error}");
    };
    let held = shard.voters[0].to_string();
    refused(&nodes, &["--from", &from, "--to", &held], "has a replica");
    refused(&nodes, &["--from", "4", "--to", &from], "has no replica");
    refused(
        &nodes,
        &["--from", &from, "--to", "9"],
        "node 9 is no member",
    );
    let (code, _, error) = ctl(&nodes, 0, &moves(&["--from", &from]));
    assert!(code == Some(2) && error.contains("--to"), "{error}");

    let pinned: Pinned = json(&nodes, 2, &moves(&["--from", &from, "--to", "4"]));
    assert_eq!((&pinned.nodes, pinned.dry_run), (&dry.nodes, false));
    running.take_until("the shard to be where it is to be", || {
        let group = of(&nodes, name);
        let mut voters = group.voters.clone();
        voters.sort_unstable();
        voters == pinned.nodes && group.pinned_to == Some(pinned.nodes.clone())
    });
    running.take_until("the others to make room for it", || shared(&nodes, 24));
    let (_, out, _) = ctl(&nodes, 0, &["cluster", "status"]);
    assert!(
        out.contains(&format!("shard {name} stays at nodes")),
        "{out}"
    );
    let (_, out, _) = ctl(&nodes, 0, &["shard", "show", name]);
    assert!(out.contains("pinned to"), "{out}");
    // It is no matter of one run of the planner: who leads meta now leads it no more then.
    let leader = running.during(|| nodes.leader("meta"));
    let status = running.during(|| nodes.stop(leader));
    assert!(status.success());
    nodes.spawn(leader);
    running.take_until("the cluster to be whole", || shared(&nodes, 24));
    let voters = of(&nodes, name).voters;
    assert!(pinned.nodes.iter().all(|node| voters.contains(node)));

    let (code, out, error) = running.during(|| ctl(&nodes, 0, &["cluster", "drain", "4"]));
    assert_eq!(code, Some(0), "{out}{error}");
    running.take_until("the drain to let it go", || {
        let group = of(&nodes, name);
        group.pinned_to.is_none() && !group.voters.contains(&4)
    });
    refused(&nodes, &["--from", &held, "--to", "4"], "undrain 4");
    let free: Pinned = json(&nodes, 0, &moves(&["--unpin"]));
    assert_eq!((free.is_pinned, free.nodes), (false, Vec::new()));
    running.take_until("three nodes to have everything", || {
        shards(&nodes)
            .iter()
            .all(|shard| shard.moving_to.is_none() && !shard.voters.contains(&4))
    });
    joined.terminate();
    assert!(joined.ended().success());
    running.take_until("the cluster to forget the node", || {
        ctl(&nodes, 0, &["cluster", "forget", "4"]).0 == Some(0)
    });
    assert_one_history(&cluster, &mut nodes, running);
}

#[test]
fn a_member_that_is_lost_for_good_is_replaced_by_one_that_has_joined() {
    let cluster = Cluster::new(DEFAULTS);
    let mut nodes = cluster.start();
    let mut kept = Client::connect(cluster.places[0].mqtt, "kept", true);
    kept.subscribe("kept", 1);
    kept.disconnect();
    nodes.kill_9(2);
    std::fs::remove_dir_all(cluster.places[2].data()).expect("the node is dead");
    let replace = |more: &[&str]| {
        let words = ["cluster", "replace", "3", "4"].iter().chain(more);
        words
            .map(|word| (*word).to_owned())
            .collect::<Vec<String>>()
    };
    let (code, _, error) = ctl(&nodes, 0, &replace(&[]));
    assert!(
        code == Some(1) && error.contains("node 4 is no member"),
        "{error}"
    );

    let fourth = joining(&cluster, 4);
    let _joined = fourth.start();
    let (code, out, error) = ctl(&nodes, 0, &replace(&["--dry-run"]));
    assert!(
        code == Some(0) && out.contains("would take"),
        "{out}{error}"
    );
    let status = nodes.status(0).expect("node 1 answers");
    assert!(status.members.iter().all(|member| !member.is_leaving));
    let (code, out, error) = ctl(&nodes, 0, &replace(&["--wait", "2m"]));
    assert_eq!(code, Some(0), "{out}{error}");
    assert!(out.contains("is no member any more"), "{out}");

    let status = until("the member to be gone", || {
        let status = nodes.status(0)?;
        let members: Vec<u32> = status.members.iter().map(|member| member.node).collect();
        (members == [1, 2, 4]).then_some(status)
    });
    for group in &status.groups {
        let mut voters = group.voters.clone();
        voters.sort_unstable();
        assert_eq!(voters, [1, 2, 4], "{}", group.group);
    }
    // The new one counts: with it two of three are left.
    nodes.kill_9(1);
    until("two of three to lead everything", || {
        let status = nodes.status(0)?;
        let is_led = |group: &GroupStatus| matches!(group.leader, Some(1 | 4));
        (status.has_lease && status.groups.iter().all(is_led)).then_some(())
    });
    let mut publisher = Client::connect(cluster.places[0].mqtt, "teller", false);
    publisher.publish("kept", 1, "found");
    let mut kept = Client::connect(fourth.mqtt, "kept", true);
    assert!(kept.is_resumed);
    assert_eq!(kept.next().payload, "found");
}

#[test]
fn taking_a_member_out_can_be_rehearsed() {
    let cluster = Cluster::new(DEFAULTS);
    let nodes = cluster.start();
    let run = |words: &[&str]| ctl(&nodes, 1, words);

    let (code, out, _) = run(&["cluster", "drain", "3", "--dry-run"]);
    assert!(
        code == Some(0) && out.contains("holds 34 replicas"),
        "{out}"
    );
    let (code, out, _) = run(&["cluster", "undrain", "3", "--dry-run"]);
    assert!(code == Some(0) && out.contains("would keep"), "{out}");
    let (code, _, error) = run(&["cluster", "forget", "3", "--dry-run"]);
    assert!(code == Some(1) && error.contains("still runs"), "{error}");
    let (code, _, error) = run(&["cluster", "drain", "9", "--dry-run"]);
    assert!(code == Some(1) && error.contains("no member"), "{error}");
    let (code, _, error) = run(&["cluster", "drain", "3", "--watch"]);
    assert!(code == Some(2) && error.contains("only look"), "{error}");

    let status = nodes.status(1).expect("node 2 answers");
    assert_eq!(status.members.len(), 3);
    assert!(status.members.iter().all(|member| !member.is_leaving));
}

fn joining(cluster: &Cluster, number: u32) -> Place {
    let join = [cluster.places[0].cluster];
    Place::of_cluster(&join)
        .numbered(number)
        .with_config(DEFAULTS)
}

fn shards(nodes: &Nodes<'_>) -> Vec<GroupStatus> {
    let status = until("a node that answers", || {
        nodes.status(1).or(nodes.status(0))
    });
    let groups = status.groups.into_iter();
    groups
        .filter(|group| group.group.parse::<u16>().is_ok())
        .collect()
}

fn of(nodes: &Nodes<'_>, shard: &str) -> GroupStatus {
    let mut all = shards(nodes).into_iter();
    all.find(|group| group.group == shard).expect("it is there")
}

/// Whether every shard is led, nothing moves, and nobody holds more than so many replicas, of four nodes.
fn shared(nodes: &Nodes<'_>, most: usize) -> bool {
    let Some(status) = nodes.status(0) else {
        return false;
    };
    let shards = shards(nodes);
    let held = |node: u32| {
        let held = shards.iter().filter(|shard| shard.voters.contains(&node));
        held.count()
    };
    status.members.len() == 4
        && shards
            .iter()
            .all(|shard| shard.moving_to.is_none() && shard.leader.is_some())
        && (1..=4).all(|node| held(node) <= most)
}
