//! A shard that goes on with one replica, after a person has accepted that the two others are lost.

use admin::cluster::{ClusterStatus, GroupStatus};
use admin::shard::{Recovering, ShardDetails};

use super::client::Client;
use super::nodes::{Cluster, ctl, json};
use crate::process::node::Place;
use crate::process::wait::until;

/// Sessions with a message each: more than there are shards.
const SESSIONS: usize = 48;

/// A publish to a shard that waits is held for as long as this test takes.
const PATIENT: &str = "[mqtt]\nsettle_deadline = \"600s\"\n";

#[test]
fn shards_that_lost_two_of_three_go_on_with_the_third_once_somebody_accepts_the_loss() {
    let cluster = Cluster::new(PATIENT);
    let nodes = cluster.start();
    let places = [4, 5].map(|number| {
        let join = [cluster.places[0].cluster];
        let place = Place::of_cluster(&join);
        place.numbered(number).with_config(PATIENT)
    });
    let joined = places.each_ref().map(Place::start);
    let shared = until("five nodes to share the shards", || {
        nodes.status(0).filter(is_shared)
    });
    let at_first = cluster.places[0].mqtt;
    let mut teller = Client::connect(at_first, "teller", false);
    for (id, topic) in sessions() {
        let mut kept = Client::connect(at_first, &id, true);
        kept.subscribe(&topic, 1);
        kept.disconnect();
        teller.publish(&topic, 1, &id);
    }
    let shared = doomed(&shared);
    for shard in &shared {
        until("the survivor to have everything", || {
            let details: ShardDetails = json(&nodes, 0, &["shard", "show", shard]);
            let lags = &details.group.lags;
            (details.by_leader && lags.iter().all(|(_, lag)| *lag == 0)).then_some(())
        });
    }
    let (code, _, error) = ctl(&nodes, 0, &["shard", "recover", &shared[0], "--dry-run"]);
    assert!(
        code == Some(1) && error.contains("nothing is lost"),
        "{error}"
    );

    let mut holder = Client::connect(at_first, "holder", false);
    let [fourth, fifth] = joined;
    fourth.kill_9();
    fifth.kill_9();
    std::fs::remove_dir_all(places[1].data()).expect("the node is dead");
    // They wait, and whoever asks how the cluster is hears what can be done.
    let dead = until("the shards to wait", || {
        let status = nodes.status(1)?;
        let are_dead = status
            .members
            .iter()
            .filter(|member| member.epoch.is_none());
        let are_two = are_dead.count() == 2;
        are_two.then_some(status)
    });
    let doomed = doomed(&dead);
    let shard = doomed[0].as_str();
    let held = std::thread::spawn(move || {
        sessions().for_each(|(_, topic)| holder.publish(&topic, 1, "held"));
    });
    let (_, out, _) = ctl(&nodes, 1, &["doctor"]);
    let named = format!("tidewire ctl shard recover {shard} --dry-run");
    assert!(out.contains(&named), "{out}");
    let dry: Recovering = json(&nodes, 1, &["shard", "recover", shard, "--dry-run"]);
    let survivor = dry.node.to_string();
    assert!(
        dry.dry_run && dry.node == dry.best && dry.node <= 3,
        "{dry:?}"
    );
    let left = dry.replicas.iter().filter(|one| one.last_index.is_some());
    assert_eq!((dry.replicas.len(), left.count()), (3, 1), "{dry:?}");
    let recover = |more: &[&str]| {
        let all = ["shard", "recover", shard];
        let words: Vec<&str> = all.iter().chain(more).copied().collect();
        ctl(&nodes, 2, &words)
    };
    let (code, _, error) = recover(&["--node", &survivor]);
    assert!(
        code == Some(1) && error.contains("--accept-loss"),
        "{error}"
    );
    let (code, _, error) = recover(&["--node", "4", "--accept-loss"]);
    let hint = format!("take --node {survivor}");
    assert!(code == Some(1) && error.contains(&hint), "{error}");
    let (code, _, error) = recover(&["--accept-loss"]);
    assert!(code == Some(2) && error.contains("--node"), "{error}");

    assert!(!held.is_finished(), "some sessions are in shards that wait");
    let (code, out, error) = recover(&["--node", &survivor, "--accept-loss"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("goes furthest"), "{out}");
    for shard in &doomed[1..] {
        let dry: Recovering = json(&nodes, 0, &["shard", "recover", shard, "--dry-run"]);
        let node = dry.node.to_string();
        let words = ["shard", "recover", shard, "--node", &node, "--accept-loss"];
        let done: Recovering = json(&nodes, 0, &words);
        assert_eq!(done.incarnation, Some(1));
    }
    until("three live nodes to have each of them", || {
        let groups = nodes.status(0)?.groups.into_iter();
        let mut recovered = groups.filter(|group| doomed.contains(&group.group));
        let is_whole = |group: GroupStatus| {
            let mut voters = group.voters;
            voters.sort_unstable();
            group.leader.is_some() && group.moving_to.is_none() && voters == [1, 2, 3]
        };
        recovered.all(is_whole).then_some(())
    });
    held.join()
        .expect("every held publish is acknowledged in the end");
    for (id, _) in sessions() {
        let mut kept = Client::connect(cluster.places[2].mqtt, &id, true);
        assert!(kept.is_resumed, "{id}");
        assert_eq!(kept.next().payload, id);
        assert_eq!(kept.next().payload, "held", "{id}");
        kept.disconnect();
    }

    // New messages find the sessions: what they want was told the routes again.
    let mut teller = Client::connect(cluster.places[1].mqtt, "teller", false);
    for (id, topic) in sessions() {
        teller.publish(&topic, 1, "again");
        let mut kept = Client::connect(at_first, &id, true);
        assert_eq!(kept.next().payload, "again");
        kept.disconnect();
    }
    // One of the lost comes back after all: what it had of them is deleted.
    let _fourth = places[0].start();
    until("it to have deleted what it had", || {
        let status = nodes.status(0)?;
        let fourth = status.members.iter().find(|member| member.node == 4)?;
        (fourth.epoch.is_some() && fourth.leftovers == 0).then_some(())
    });
    let mut kept = Client::connect(at_first, "kept0", true);
    teller.publish("kept/0", 1, "last");
    assert_eq!(kept.next().payload, "last");
}

/// Ids of clients, and what each wants.
fn sessions() -> impl Iterator<Item = (String, String)> {
    (0..SESSIONS).map(|n| (format!("kept{n}"), format!("kept/{n}")))
}

/// Whether five nodes share the shards, and nothing is to be moved any more.
fn is_shared(status: &ClusterStatus) -> bool {
    let groups = &status.groups;
    let is_calm = |group: &GroupStatus| group.moving_to.is_none() && group.leader.is_some();
    let held = |node: u32| {
        let shards = groups.iter().filter(|group| is_shard(&group.group));
        shards.filter(|group| group.voters.contains(&node)).count()
    };
    let is_fair = (1..=5).all(|node| (1..=20).contains(&held(node)));
    status.members.len() == 5 && is_fair && groups.iter().all(is_calm)
}

/// The shards that nodes 4 and 5 both have. Meta and the routes have their voters on the first three.
fn doomed(status: &ClusterStatus) -> Vec<String> {
    let both = status.groups.iter();
    let both = both.filter(|group| group.voters.contains(&4) && group.voters.contains(&5));
    let doomed: Vec<String> = both.map(|group| group.group.clone()).collect();
    assert!(
        !doomed.is_empty(),
        "of so many shards two nodes have some both"
    );
    assert!(doomed.iter().all(|group| is_shard(group)), "{doomed:?}");
    doomed
}

fn is_shard(group: &str) -> bool {
    group.parse::<u16>().is_ok()
}
