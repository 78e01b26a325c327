//! Nodes join, die, come back, and what they hold goes where it belongs.

use std::collections::{BTreeMap, BTreeSet};

use cluster_core::{
    BucketId, FolderId, Group as GroupName, MetaAnswer, MetaCommand, NodeId, NodeState, ShardId,
};
use runtime::Random;

use super::test_cluster::*;
use super::test_node::*;
use super::*;
use crate::link::RefusalCode;

#[tokio::test(start_paused = true)]
async fn a_lone_node_serves_for_ever_and_again_after_a_start() {
    let mut cluster = Cluster::found(2).await;
    cluster.settle().await;
    assert_eq!(cluster.node(1).member.lease().until_ms(), u64::MAX);
    let epoch = epoch_of(cluster.node(1), 1).unwrap();

    let kept = cluster.kill(1).await;
    cluster.restart(kept).await;
    cluster.settle().await;
    let next = epoch_of(cluster.node(1), 1).unwrap();
    assert!(next > epoch, "{next} after {epoch}");
    assert_eq!(cluster.node(1).member.lease().until_ms(), u64::MAX);
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_nodes_join_and_voters_and_leaders_are_spread() {
    let cluster = Cluster::of_three(6).await;
    let meta = meta_of(cluster.node(2));
    let mut preferred = BTreeMap::new();
    for (group, row) in meta.placements() {
        let mut voters = row.placement.voters.clone();
        voters.sort();
        assert_eq!(voters, [1, 2, 3].map(NodeId), "{group:?}");
        for node in 1..=3 {
            let control = cluster.node(node).control(group);
            let membership = control.membership();
            assert_eq!(membership.voters.len(), 3, "{group:?} at node {node}");
            assert!(membership.voters.contains(&control.replica()));
        }
        if matches!(group, GroupName::Shard(_)) {
            *preferred.entry(row.placement.voters[0].0).or_insert(0) += 1;
        }
    }
    assert_eq!(preferred, BTreeMap::from([(1, 2), (2, 2), (3, 2)]));
    // Leaders go where they should be.
    cluster
        .until("leaders return", |cluster| {
            let mut shards = meta
                .placements()
                .filter(|(group, _)| matches!(group, GroupName::Shard(_)));
            shards.all(|(group, row)| cluster.leaders_of(group) == [row.placement.voters[0].0])
        })
        .await;
    // Whoever is asked knows them.
    cluster
        .until("leaders are known", |cluster| {
            cluster.nodes.values().all(|node| {
                let leaders = node.member.leaders().load_full();
                meta.placements().all(|(group, row)| {
                    let leading = leaders.get(&group).map(|leading| leading.node);
                    match group {
                        GroupName::Shard(_) => leading == row.placement.leader(),
                        _ => leading.is_some(),
                    }
                })
            })
        })
        .await;
    let begun: u64 = cluster
        .nodes
        .values()
        .map(|node| node.member.counters().moves_begun_total.get())
        .sum();
    assert!(begun >= 8, "{begun} moves");
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_fourth_node_follows_meta_and_routes_and_takes_its_share() {
    let mut cluster = Cluster::of_three(4).await;
    cluster.join(4).await;
    cluster.settle().await;
    let meta = meta_of(cluster.node(4));
    for group in [GroupName::Meta, GroupName::Routes] {
        let placement = &meta.placement(group).unwrap().placement;
        assert_eq!(placement.voters.len(), 3, "{group:?}");
        assert_eq!(placement.learners, [NodeId(4)], "{group:?}");
    }
    let shards = meta
        .placements()
        .filter(|(group, _)| matches!(group, GroupName::Shard(_)));
    let held = shards.filter(|(_, row)| row.placement.nodes().any(|node| node == NodeId(4)));
    assert_eq!(held.count(), 3);
    // What moved away was deleted, and meta told.
    let removed = cluster
        .nodes
        .values()
        .filter(|node| node.saw(|event| matches!(event, MemberEvent::RemoveReplica { .. })));
    assert!(removed.count() > 0);
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_nodes_the_first_goes_on_alone_and_the_second_does_not() {
    let mut cluster = Cluster::found(2).await;
    cluster.join(2).await;
    cluster.settle().await;
    let kept = cluster.kill(2).await;
    let mut was_held = true;
    cluster
        .until("the epoch of the second ends", |cluster| {
            was_held &= cluster.node(1).holds_lease();
            epoch_of(cluster.node(1), 2).is_none()
        })
        .await;
    assert!(was_held, "the first needs nobody");
    assert!(cluster.unled().is_empty());
    cluster.restart(kept).await;
    cluster.settle().await;

    cluster.kill(1).await;
    cluster
        .until("the second promises nothing", |cluster| {
            !cluster.node(2).holds_lease()
        })
        .await;
    cluster
        .throughout(8_000, "it leads nothing, and ends nobody", |cluster| {
            let node = cluster.node(2);
            !node.holds_lease() && node.raft.claims().is_empty() && epoch_of(node, 1).is_some()
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_lost_comes_back_under_another_id() {
    let mut cluster = Cluster::of_three(2).await;
    let group = GroupName::Shard(ShardId(1));
    let before = meta_of(cluster.node(1)).replica(group, NodeId(3)).unwrap();
    let kept = cluster.kill(3).await;
    lose(&cluster.clock, &kept, group).await;
    cluster.restart(kept).await;
    cluster
        .until("the move ends", |cluster| {
            let meta = meta_of(cluster.node(1));
            meta.replica(group, NodeId(3)) != Some(before) && is_at_rest(&meta)
        })
        .await;
    let now = meta_of(cluster.node(1)).replica(group, NodeId(3)).unwrap();
    cluster
        .until("it runs, and votes", |cluster| {
            let control = cluster.node(3).raft.control(group_id(group));
            let control = control.filter(|control| control.replica() == now);
            control.is_some_and(|control| control.membership().voters.contains(&now))
        })
        .await;
    cluster.settle().await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_drains_holds_nothing_in_the_end_and_leaves() {
    let mut cluster = Cluster::of_three(3).await;
    let node = NodeId(1);
    let is_leaving = true;
    let drain = MetaCommand::Drain { node, is_leaving };
    let answer = cluster.node(1).member.propose(&drain).await;
    assert_eq!(answer, Ok(MetaAnswer::Done));
    let holds = |cluster: &Cluster| -> Vec<GroupName> {
        let meta = meta_of(cluster.node(2));
        let placements = meta.placements();
        let held = placements.filter(|(_, row)| row.placement.nodes().any(|n| n == node));
        held.map(|(group, _)| group).collect()
    };
    cluster
        .until("it holds nothing but what it follows", |cluster| {
            let is_quiet = is_at_rest(&meta_of(cluster.node(2)));
            is_quiet && holds(cluster) == [GroupName::Meta, GroupName::Routes]
        })
        .await;
    assert!(cluster.unled().is_empty());
    assert!(cluster.node(1).raft.claims().is_empty());
    let assign = MetaCommand::Assign {
        bucket: BucketId(0),
        expected: meta_of(cluster.node(2)).bucket(BucketId(0)).unwrap().epoch,
        owner: NodeId(2),
    };
    let answer = cluster.node(1).member.propose(&assign).await;
    assert_eq!(answer, Ok(MetaAnswer::Done));

    let kept = cluster.kill(1).await;
    cluster
        .until("its epoch ends", |cluster| {
            epoch_of(cluster.node(2), 1).is_none()
        })
        .await;
    cluster
        .until("it holds nothing", |cluster| holds(cluster).is_empty())
        .await;
    let leave = MetaCommand::Leave { node };
    let answer = cluster.node(2).member.propose(&leave).await;
    assert_eq!(answer, Ok(MetaAnswer::Done));
    cluster.settle().await;
    // For good: it is told so, and begins nothing.
    cluster.restart(kept).await;
    cluster
        .throughout(3_000, "it is no member", |cluster| {
            let members = meta_of(cluster.node(3)).members().count();
            members == 2
                && !cluster
                    .node(1)
                    .saw(|event| matches!(event, MemberEvent::Begun(_)))
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_node_led_is_led_again_and_its_return_ends_its_old_epoch() {
    let mut cluster = Cluster::of_three(6).await;
    let epoch = epoch_of(cluster.node(2), 1).unwrap();
    let kept = cluster.kill(1).await;
    let killed_ms = cluster.node(2).now_ms();
    cluster
        .until("all groups are led again", |cluster| {
            cluster.unled().is_empty()
        })
        .await;
    let took_ms = cluster.node(2).now_ms() - killed_ms;
    println!("led again after {took_ms} ms of the nodes' time");
    for node in [2, 3] {
        let node = cluster.node(node);
        assert!(node.saw(|event| *event == MemberEvent::Suspected(NodeId(1))));
    }

    cluster.restart(kept).await;
    cluster
        .until("another epoch", |cluster| {
            let now = epoch_of(cluster.node(2), 1);
            now.is_some_and(|now| now > epoch)
        })
        .await;
    cluster.settle().await;
    for node in [2, 3] {
        let gone = MemberEvent::Gone {
            node: NodeId(1),
            epoch,
        };
        assert!(cluster.node(node).saw(|event| *event == gone));
        assert!(
            cluster
                .node(node)
                .saw(|event| *event == MemberEvent::Up(NodeId(1)))
        );
    }
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_stops_hands_over_what_it_leads_and_nobody_stands_for_election_or_gives_it_back() {
    let cluster = Cluster::of_three(6).await;
    let stopping = cluster.leaders_of(GroupName::Meta)[0];
    let led = |cluster: &Cluster| cluster.node(stopping).raft.claims().len();
    cluster
        .until("it leads its share", |cluster| led(cluster) >= 3)
        .await;
    let elections = |cluster: &Cluster| -> Vec<u64> {
        let nodes = cluster.nodes.values();
        nodes
            .map(|node| node.member.counters().elections_total.get())
            .collect()
    };
    let before = elections(&cluster);

    cluster.node(stopping).member.hand_over().await;

    assert_eq!(led(&cluster), 0);
    assert_eq!(cluster.unled(), BTreeSet::new());
    // Longer than a node has to be heard before anything goes back to it.
    let is_left_alone = |cluster: &Cluster| led(cluster) == 0;
    cluster
        .throughout(8_000, "it leads nothing", is_left_alone)
        .await;
    assert_eq!(elections(&cluster), before);
    // Those that are left have nobody to hand anything to, and wait for nothing.
    for node in cluster.nodes.values() {
        node.member.hand_over().await;
    }
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn all_nodes_start_together_after_a_power_cut() {
    let mut cluster = Cluster::of_three(4).await;
    let mut all = Vec::new();
    for node in [1, 2, 3] {
        all.push(cluster.kill(node).await);
    }
    for kept in all {
        cluster.restart(kept).await;
    }
    cluster.settle().await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_and_goes_gets_no_leadership_back() {
    let mut cluster = Cluster::of_three(6).await;
    let leads_its_share = |cluster: &Cluster| cluster.node(3).raft.claims().len() >= 2;
    cluster.until("it leads its share", leads_its_share).await;
    for _ in 0..3 {
        let kept = cluster.kill(3).await;
        cluster
            .until("all groups are led again", |cluster| {
                cluster.unled().is_empty()
            })
            .await;
        cluster.restart(kept).await;
        cluster
            .throughout(2_000, "it leads nothing", |cluster| {
                let led = cluster.node(3).raft.claims();
                led.is_empty()
            })
            .await;
    }
    // Once it stays, everything returns.
    cluster.until("it leads its share", leads_its_share).await;
    cluster.settle().await;
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_fit_is_told_why_in_one_line() {
    let mut cluster = Cluster::found(1).await;
    cluster.join(2).await;
    cluster.settle().await;
    let net = cluster.hub.at("stranger");
    let ask = async |applicant: Applicant, through: u32| {
        let addresses = [address(through)];
        join(
            &net,
            &addresses,
            applicant,
            &mut Random::seeded(1),
            PATIENCE,
        )
        .await
    };
    let other = Applicant {
        cluster: Some(FolderId(5)),
        ..applicant(3)
    };
    let low = Applicant {
        understood: cluster_core::FeatureLevel(1),
        ..applicant(3)
    };
    let taken = Applicant {
        node: Some(NodeId(1)),
        ..applicant(3)
    };
    let folder_taken = Applicant {
        node: Some(NodeId(3)),
        ..applicant(2)
    };
    let wrong = [
        (other, RefusalCode::Cluster, "meets cluster"),
        (
            low,
            RefusalCode::Level,
            "understands feature level 1 meets feature level 2",
        ),
        (
            taken,
            RefusalCode::Folder,
            "the node number belongs to data folder",
        ),
        (folder_taken, RefusalCode::Member, "belongs to node 2"),
    ];
    for (applicant, code, words) in wrong {
        // Whoever is asked: the second passes it on to the first.
        for through in [1, 2] {
            let outcome = ask(applicant, through).await;
            assert!(is_refused(&outcome, code), "{outcome:?}");
            let line = outcome.unwrap_err().to_string();
            assert!(line.contains(words) && !line.contains('\n'), "{line}");
        }
    }
    // A member that asks again is told the same again.
    for _ in 0..2 {
        let (joined, _) = ask(applicant(2), 1).await.unwrap();
        assert_eq!(joined.node, NodeId(2));
        assert_eq!(joined.members[&NodeId(1)].address, address(1));
    }
    let counters = cluster.node(2).member.counters();
    assert_eq!(counters.joins_refused_total.get(), 4);
    let meta = meta_of(cluster.node(1));
    assert_eq!(meta.members().count(), 2);
    assert_eq!(meta.node_states()[&NodeId(2)], NodeState::Serving);
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_finds_nobody_says_so() {
    let hub = crate::link::MemoryHub::default();
    let addresses = ["nowhere".to_owned(), "elsewhere".to_owned()];
    let net = hub.at("lost");
    let outcome = join(
        &net,
        &addresses,
        applicant(2),
        &mut Random::seeded(1),
        PATIENCE,
    )
    .await;
    let line = outcome.unwrap_err().to_string();
    assert!(
        line.starts_with("no member of the cluster answered: elsewhere: cannot be dialed"),
        "{line}"
    );
}
