//! Who may promise anything when nodes do not hear each other.

use cluster_core::{Group as GroupName, NodeId, ShardId};

use super::test_cluster::*;
use super::test_node::*;
use super::*;

/// Watches that no epoch ends while its node holds the lease, as any other node knows meta.
fn no_lease_outlives_its_epoch(cluster: &Cluster) -> bool {
    cluster.nodes.iter().all(|(id, node)| {
        let Some(own) = node.member.status().epoch else {
            return true;
        };
        let has_ended = cluster.nodes.values().any(|other| {
            let standing = meta_of(other).standing(own);
            standing == cluster_core::Standing::Ended
        });
        assert!(
            !(has_ended && node.holds_lease()),
            "node {id} holds a lease of epoch {own}, which has ended"
        );
        true
    })
}

/// Moves leaderships so that a node leads meta.
async fn lead_meta(cluster: &Cluster, node: u32) {
    let leaders = cluster.leaders_of(GroupName::Meta);
    if leaders != [node] {
        let replica = cluster.node(node).control(GroupName::Meta).replica();
        let leader = cluster.node(leaders[0]).control(GroupName::Meta);
        leader.transfer(replica).await.expect("a transfer");
    }
    cluster
        .until("it leads meta", |cluster| {
            cluster.leaders_of(GroupName::Meta) == [node]
        })
        .await;
}

async fn the_minority_loses_its_lease(cluster: Cluster, minority: u32) {
    let others: Vec<u32> = [1, 2, 3].into_iter().filter(|n| *n != minority).collect();
    let epoch = epoch_of(cluster.node(others[0]), minority).unwrap();
    let cut_ms = cluster.node(1).now_ms();
    cluster.set_apart(minority, &others, true);
    let mut lost_ms = None;
    let mut ended_ms = None;
    cluster
        .until("the epoch ends", |cluster| {
            let now_ms = cluster.node(1).now_ms();
            no_lease_outlives_its_epoch(cluster);
            if !cluster.node(minority).holds_lease() {
                lost_ms.get_or_insert(now_ms);
            }
            if epoch_of(cluster.node(others[0]), minority).is_none() {
                ended_ms.get_or_insert(now_ms);
            }
            ended_ms.is_some()
        })
        .await;
    let lost_ms = lost_ms.expect("before the end") - cut_ms;
    let ended_ms = ended_ms.expect("waited for") - cut_ms;
    println!("lost after {lost_ms} ms, ended after {ended_ms} ms");
    assert!(lost_ms <= 3_100, "a lease lasts 3 s: {lost_ms} ms");
    assert!(ended_ms > lost_ms);
    assert!(ended_ms >= 2_900, "{ended_ms} ms after the cut");
    // The others go on.
    cluster
        .until("the majority serves", |cluster| {
            let unled = cluster.unled();
            unled.is_empty() && others.iter().all(|node| cluster.node(*node).holds_lease())
        })
        .await;
    cluster
        .throughout(5_000, "the minority promises nothing", |cluster| {
            no_lease_outlives_its_epoch(cluster);
            !cluster.node(minority).holds_lease()
        })
        .await;

    cluster.set_apart(minority, &others, false);
    cluster
        .until("it is told that its epoch has ended", |cluster| {
            let node = cluster.node(minority);
            node.saw(|event| *event == MemberEvent::Ended(epoch))
        })
        .await;
    cluster.settle().await;
    assert!(epoch_of(cluster.node(others[0]), minority).unwrap() > epoch);
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_cut_off_loses_its_lease_before_its_epoch_ends() {
    let cluster = Cluster::of_three(3).await;
    lead_meta(&cluster, 1).await;
    the_minority_loses_its_lease(cluster, 3).await;
}

#[tokio::test(start_paused = true)]
async fn the_leader_of_meta_that_is_cut_off_loses_its_lease_too() {
    let cluster = Cluster::of_three(3).await;
    lead_meta(&cluster, 1).await;
    the_minority_loses_its_lease(cluster, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_heard_and_hears_nobody_is_replaced() {
    let cluster = Cluster::of_three(3).await;
    lead_meta(&cluster, 1).await;
    let epoch = epoch_of(cluster.node(2), 1).unwrap();
    for other in [2, 3] {
        cluster.set_cut(other, 1, true);
    }
    cluster
        .until("others lead everything", |cluster| {
            no_lease_outlives_its_epoch(cluster);
            let groups: Vec<_> = meta_of(cluster.node(2))
                .placements()
                .map(|(g, _)| g)
                .collect();
            groups.iter().all(|group| {
                let leaders = cluster.leaders_of(*group);
                leaders.iter().any(|leader| *leader != 1)
            })
        })
        .await;
    cluster
        .until("its epoch ends", |cluster| {
            no_lease_outlives_its_epoch(cluster);
            epoch_of(cluster.node(2), 1).is_none()
        })
        .await;
    for other in [2, 3] {
        cluster.set_cut(other, 1, false);
    }
    cluster.settle().await;
    assert!(epoch_of(cluster.node(2), 1).unwrap() > epoch);
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_nodes_that_are_deaf_to_each_other_one_goes_on() {
    let cluster = Cluster::of_three(3).await;
    lead_meta(&cluster, 1).await;
    let before = [2, 3].map(|node| epoch_of(cluster.node(1), node).unwrap());
    cluster.set_apart(2, &[3], true);
    cluster
        .until("one of them loses its epoch", |cluster| {
            no_lease_outlives_its_epoch(cluster);
            let has_ended = |(node, epoch)| epoch_of(cluster.node(1), node) != Some(epoch);
            [(2, before[0]), (3, before[1])]
                .into_iter()
                .filter(|e| has_ended(*e))
                .count()
                == 1
        })
        .await;
    assert_eq!(cluster.leaders_of(GroupName::Meta), [1]);
    let refused = cluster.node(1).member.counters();
    assert!(refused.leases_refused_deaf_total.get() > 0);
    // Nobody is suspected: the first hears both.
    for node in [1, 2, 3] {
        let node = cluster.node(node);
        assert!(!node.saw(|event| matches!(event, MemberEvent::Suspected(_))));
    }
    let holders = [2, 3].map(|node| cluster.node(node).holds_lease());
    assert_ne!(holders[0], holders[1]);
    assert!(cluster.node(1).holds_lease());
    cluster.set_apart(2, &[3], false);
    cluster.settle().await;
    assert_eq!(meta_of(cluster.node(1)).node_states().len(), 3);
    assert!(meta_of(cluster.node(1)).member(NodeId(2)).is_some());
    cluster.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_owners_of_a_shard_that_is_cut_off_are_promised_nothing_though_the_node_has_its_lease()
{
    let mut cluster = Cluster::of_three(10).await;
    cluster.join(4).await;
    cluster.join(5).await;
    cluster.settle().await;
    let meta = meta_of(cluster.node(1));
    // Two who make up meta, apart from three who make up most shards.
    let voters = &meta.placement(GroupName::Meta).unwrap().placement.voters;
    let near = [voters[0].0, voters[1].0];
    let far: Vec<u32> = (1..=5).filter(|node| !near.contains(node)).collect();
    lead_meta(&cluster, near[0]).await;
    let is_far = |shard: ShardId| {
        let row = meta.placement(GroupName::Shard(shard)).unwrap();
        let voters = row.placement.voters.iter();
        voters.filter(|node| near.contains(&node.0)).count() < 2
    };
    let (cut_off, kept): (Vec<ShardId>, Vec<ShardId>) =
        (0..10).map(ShardId).partition(|shard| is_far(*shard));
    assert!(!cut_off.is_empty() && !kept.is_empty());
    let held = |cluster: &Cluster, node: u32, shard: ShardId| {
        let node = cluster.node(node);
        node.member.lease().of(shard).is_held(node.now_ms())
    };
    let all = |cluster: &Cluster, shards: &[ShardId], want: bool| {
        let pairs = near
            .iter()
            .flat_map(|node| shards.iter().map(move |shard| (*node, *shard)));
        pairs
            .into_iter()
            .all(|(node, shard)| held(cluster, node, shard) == want)
    };
    let grants = |cluster: &Cluster| -> Vec<u16> {
        let of = |shard: &ShardId| cluster.node(near[0]).member.lease().of(*shard).grants();
        cut_off.iter().map(of).collect()
    };
    cluster
        .until("all are held", |cluster| {
            all(cluster, &cut_off, true) && all(cluster, &kept, true)
        })
        .await;
    let before = grants(&cluster);

    let cut_ms = cluster.node(near[0]).now_ms();
    near.iter()
        .for_each(|node| cluster.set_apart(*node, &far, true));
    cluster
        .until("what is far is lost", |cluster| {
            all(cluster, &cut_off, false)
        })
        .await;
    let lost_ms = cluster.node(near[0]).now_ms() - cut_ms;
    println!("{} of 10 shards lost after {lost_ms} ms", cut_off.len());
    // A leader that is near claims its shard until it hears its voters no more; then a lease.
    assert!(lost_ms <= 4_700, "{lost_ms} ms");
    let serve = |cluster: &Cluster| near.iter().all(|node| cluster.node(*node).holds_lease());
    cluster
        .until("the others go on", |cluster| {
            serve(cluster) && all(cluster, &kept, true)
        })
        .await;
    cluster
        .throughout(
            5_000,
            "the nodes have their leases, and not those shards",
            |cluster| serve(cluster) && all(cluster, &cut_off, false) && all(cluster, &kept, true),
        )
        .await;

    near.iter()
        .for_each(|node| cluster.set_apart(*node, &far, false));
    cluster.settle().await;
    cluster
        .until("all are held again", |cluster| all(cluster, &cut_off, true))
        .await;
    let after = grants(&cluster);
    let is_new = |(before, after): (u16, u16)| before != after;
    assert!(
        before.into_iter().zip(after).all(is_new),
        "it was without them"
    );
    cluster.stop().await;
}
