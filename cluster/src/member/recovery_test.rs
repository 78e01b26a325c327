//! Two of a shard's three replicas are lost for good, and a person has it go on with the third.

use std::collections::BTreeSet;

use cluster_core::{
    Group as GroupName, Incarnation, MetaAnswer, MetaCommand, NodeId, RecoverShard, Refusal,
    ShardId,
};

use super::test_cluster::*;
use super::test_node::*;
use super::*;

const SHARDS: u16 = 10;

/// A shard, its survivor and the two others: without these meta and the routes keep their majority.
fn victim(cluster: &Cluster) -> (ShardId, u32, [u32; 2]) {
    let meta = meta_of(cluster.node(1));
    let system = [GroupName::Meta, GroupName::Routes];
    let voters = |group| meta.placement(group).unwrap().placement.voters.clone();
    for shard in (0..SHARDS).map(ShardId) {
        let of_shard = voters(GroupName::Shard(shard));
        for survivor in &of_shard {
            let lost: Vec<NodeId> = of_shard.iter().copied().filter(|n| n != survivor).collect();
            let is_spared = |group| voters(group).iter().filter(|n| lost.contains(n)).count() < 2;
            if system.into_iter().all(is_spared) {
                return (shard, survivor.0, [lost[0].0, lost[1].0]);
            }
        }
    }
    panic!("of {SHARDS} shards on five nodes one is spread so");
}

fn tally(cluster: &Cluster, node: u32, group: GroupName) -> Option<u64> {
    let tallies = cluster.node(node).tallies.lock().unwrap();
    let tally = tallies.get(&group)?;
    Some(tally.with(|tally| tally.count))
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_lost_two_of_three_goes_on_with_the_third_and_gets_three_again() {
    let mut cluster = Cluster::of_three(SHARDS).await;
    cluster.join(4).await;
    cluster.join(5).await;
    cluster.settle().await;
    let (shard, survivor, lost) = victim(&cluster);
    let group = GroupName::Shard(shard);
    cluster
        .until("the shard is led", |cluster| {
            !cluster.leaders_of(group).is_empty()
        })
        .await;
    let leader = cluster.leaders_of(group)[0];
    let led = cluster
        .node(leader)
        .tallies
        .lock()
        .unwrap()
        .get(&group)
        .cloned();
    let led = led.expect("its node has started it");
    for _ in 0..7 {
        led.propose("one".into()).await.unwrap();
    }
    cluster
        .until("the survivor has all", |cluster| {
            tally(cluster, survivor, group) == Some(7)
        })
        .await;
    let row = meta_of(cluster.node(survivor))
        .placement(group)
        .unwrap()
        .clone();
    let recover = MetaCommand::RecoverShard(RecoverShard {
        shard,
        expected: row.version,
        node: NodeId(survivor),
    });
    let answer = cluster.node(survivor).member.propose(&recover).await;
    let early = matches!(
        answer,
        Ok(MetaAnswer::Refused(Refusal::NotLost { alive: 3, .. }))
    );
    assert!(early, "{answer:?}");

    let kept = [cluster.kill(lost[0]).await, cluster.kill(lost[1]).await];
    cluster
        .until("they are dead", |cluster| {
            let node = cluster.node(survivor);
            lost.iter().all(|lost| epoch_of(node, *lost).is_none())
        })
        .await;
    // Who led it when the others died does not know that it leads nobody.
    let leads = |leader: &u32| *leader == survivor;
    cluster
        .throughout(2_000, "the shard waits", |cluster| {
            cluster.leaders_of(group).iter().all(leads)
        })
        .await;

    let answer = cluster.node(survivor).member.propose(&recover).await;
    let incarnation = Incarnation(1);
    assert_eq!(answer, Ok(MetaAnswer::Recovered { incarnation }));
    let again = cluster.node(survivor).member.propose(&recover).await;
    assert_eq!(again, Ok(MetaAnswer::Recovered { incarnation }));
    cluster
        .until("three that run have it", |cluster| {
            let meta = meta_of(cluster.node(survivor));
            let voters = &meta.placement(group).unwrap().placement.voters;
            let has = |node: &NodeId| tally(cluster, node.0, group) == Some(7);
            voters.len() == 3
                && voters
                    .iter()
                    .all(|node| !lost.contains(&node.0) && has(node))
        })
        .await;
    let told = |node: &TestNode| {
        let is_it = |event: &MemberEvent| *event == MemberEvent::ShardRecovered(shard);
        node.saw(is_it)
    };
    assert!(cluster.nodes.values().all(told), "{}", cluster.show());

    // The lost come back after all: what they had of the shard is deleted, and harms nobody.
    for kept in kept {
        cluster.restart(kept).await;
    }
    cluster.settle().await;
    let meta = meta_of(cluster.node(survivor));
    assert!(meta.layout().leftovers.is_empty());
    let voters: BTreeSet<NodeId> = meta.placement(group).unwrap().placement.nodes().collect();
    for node in cluster.nodes.keys() {
        let runs = cluster.node(*node).raft.control(group_id(group));
        assert_eq!(
            runs.is_some(),
            voters.contains(&NodeId(*node)),
            "node {node}"
        );
    }
    assert_eq!(tally(&cluster, survivor, group), Some(7));
    assert_eq!(meta.incarnation(group), incarnation);
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_survivor_that_dies_after_its_recovery_comes_back_as_the_recovered_one() {
    let mut cluster = Cluster::of_three(SHARDS).await;
    cluster.join(4).await;
    cluster.join(5).await;
    cluster.settle().await;
    let (shard, survivor, lost) = victim(&cluster);
    let group = GroupName::Shard(shard);
    for node in lost {
        cluster.kill(node).await;
    }
    cluster
        .until("they are dead", |cluster| {
            let node = cluster.node(survivor);
            lost.iter().all(|lost| epoch_of(node, *lost).is_none())
        })
        .await;
    let row = meta_of(cluster.node(survivor))
        .placement(group)
        .unwrap()
        .clone();
    let recover = MetaCommand::RecoverShard(RecoverShard {
        shard,
        expected: row.version,
        node: NodeId(survivor),
    });
    let answer = cluster.node(survivor).member.propose(&recover).await;
    assert!(
        matches!(answer, Ok(MetaAnswer::Recovered { .. })),
        "{answer:?}"
    );

    // At whatever step that finds it.
    let kept = cluster.kill(survivor).await;
    cluster.restart(kept).await;

    cluster
        .until("three that run have it", |cluster| {
            let node = cluster.node(survivor);
            if node.member.meta().is_none() {
                return false;
            }
            let meta = meta_of(node);
            let voters = &meta.placement(group).unwrap().placement.voters;
            voters.len() == 3 && !cluster.leaders_of(group).is_empty()
        })
        .await;
    cluster.stop().await;
}
