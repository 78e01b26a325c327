//! A replica that goes on alone: with all that its log has, whatever crashes meanwhile, and whoever comes
//! back.

use bytes::Bytes;
use cluster_core::{Incarnation, NodeEpoch, NodeId, RaftId, Rising};
use mqtt::{QoS, SubscribeOptions};
use session::{Answer, Command, ConnectionId, Identity, Open, Subs, Subscription};
use storage::fs::FaultFs;
use storage::raft::GroupId;

use super::test_machine::{Journal, TestMachine};
use super::test_members::{GROUP, Members, within};
use super::test_node::{Setup, TestNode, entries, entry, eventually, propose};
use super::test_shard::{TestShard, limits};
use super::{Group, OpenError, Recovery};
use crate::{ShardConfig, ShardMachine};

/// The id under which the survivor goes on.
const NEXT: RaftId = RaftId(2 << 32);
const RECOVERY: Recovery = Recovery {
    replica: NEXT,
    incarnation: Incarnation(1),
};

async fn recover(node: &TestNode) -> Result<Group<TestMachine>, OpenError> {
    let (id, name) = (GroupId(GROUP), format!("group-{GROUP}"));
    let config = Journal::default();
    let group = node
        .node
        .recover_replica::<TestMachine>(id, &name, RECOVERY, config)
        .await?;
    group.control().elect().await;
    Ok(group)
}

/// What a group has that was recovered with so many entries.
fn recovered(numbers: u64) -> Vec<Bytes> {
    let entries = (0..numbers).map(entry);
    entries.chain([Bytes::from("recovered 1")]).collect()
}

async fn led(group: &Group<TestMachine>) {
    eventually("it leads", || group.is_leading()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_survivor_has_its_whole_log_and_lost_voters_that_come_back_do_no_harm() {
    let mut members = Members::three(31, Setup::default()).await;
    propose(members.group(GROUP, 1), 0..20).await;
    let lost = [members.kill(2).await, members.kill(3).await];
    // It has been appended, and nobody is left to commit it; the others might have been.
    let last = |members: &Members| {
        let node = &members.running[&1].node.node;
        node.last_entry(GroupId(GROUP)).expect("a log").1
    };
    let (leader, before) = (members.group(GROUP, 1).clone(), last(&members));
    let pending = tokio::spawn(async move { leader.propose(entry(20)).await });
    eventually("it is in the log", || last(&members) > before).await;

    let group = recover(&members.running[&1].node).await.unwrap();
    led(&group).await;
    assert!(within("it ends", pending).await.unwrap().is_err());
    assert_eq!(entries(&group), recovered(21));
    let alone = group.control().membership();
    assert_eq!(alone.voters, [NEXT].into());
    propose(&group, 30..32).await;

    // Two of the former three are a majority of the former group, and of no other.
    for (node, fs) in [2, 3].into_iter().zip(&lost) {
        members.start(node, fs).await;
        members.start_replica(GROUP, node).await;
    }
    members.elect_one(GROUP, &[2, 3]).await;
    let now = entries(&group);
    assert!(group.is_leading());
    assert_eq!(now, [recovered(21), vec![entry(30), entry(31)]].concat());
    assert_eq!(group.control().membership().voters, [NEXT].into());

    // Deleted there, they get what the survivor has.
    let next = |node: u32| RaftId(NEXT.0 + u64::from(node));
    members
        .running
        .get_mut(&1)
        .unwrap()
        .groups
        .insert(GROUP, group.clone());
    let control = group.control();
    for node in [2, 3] {
        let member = members.running.get_mut(&node).unwrap();
        let name = format!("group-{GROUP}");
        let removed = member.node.node.remove_replica(GroupId(GROUP), &name);
        removed.await.unwrap();
        let started = member.node.try_start_replica(GROUP, next(node).0).await;
        member.groups.insert(GROUP, started.unwrap());
        let added = control.add_learner(next(node), NodeId(node));
        added.await.unwrap();
    }
    let voters = [NEXT, next(2), next(3)].into();
    control.change_voters(voters).await.unwrap();
    assert_eq!(members.agree(GROUP, &[1, 2, 3]).await, now);
    assert_eq!(members.fatals(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_operation_of_a_recovery_is_gone_on_from() {
    let node = TestNode::open(&FaultFs::new(32));
    let group = node.start(GROUP).await;
    propose(&group, 0..10).await;
    // Some of it is in the state file, the rest in the log alone.
    let applied = group.status().applied;
    group.flush_soon();
    eventually("it is flushed", || group.status().flushed >= applied).await;
    propose(&group, 10..15).await;
    let disk = node.kill().await;

    let mut crashes = 0;
    for operation in 0.. {
        let fs = disk.copy();
        fs.reseed(operation);
        let node = TestNode::open(&fs);
        // Half of them find it running, as a node does that hears of its recovery.
        if operation % 2 == 0 {
            node.try_start_replica(GROUP, 1).await.unwrap();
        }
        fs.freeze_at(fs.operations() + operation);
        let outcome = within("an outcome", recover(&node)).await;
        if !fs.is_frozen() {
            outcome.unwrap();
            assert!(node.node.close().await.is_ok());
            break;
        }
        crashes += 1;
        let crashed = fs.crash();
        let _ = node.node.close().await;
        go_on(&crashed, operation).await;
    }
    println!("{crashes} crashes");
    assert!(crashes > 5, "only {crashes} operations were tried");
}

/// Recovers what a crash has left, and once more after another start.
async fn go_on(fs: &FaultFs, operation: u64) {
    let node = TestNode::open(fs);
    let group = recover(&node).await;
    let group = group.unwrap_or_else(|error| panic!("after operation {operation}: {error}"));
    led(&group).await;
    assert_eq!(
        entries(&group),
        recovered(15),
        "after operation {operation}"
    );
    propose(&group, 20..22).await;
    let fs = node.kill().await;

    let node = TestNode::open(&fs);
    let group = recover(&node).await.unwrap();
    led(&group).await;
    group.read_index().await.unwrap();
    let all = [recovered(15), vec![entry(20), entry(21)]].concat();
    assert_eq!(entries(&group), all, "after operation {operation}");
    assert!(node.fatals().is_empty());
    node.node.close().await.unwrap();
}

/// What the stopped Raft still has on its way must not reach the state behind its back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_written_to_goes_on_with_what_it_had_by_then() {
    let members = Members::three(33, Setup::default()).await;
    let group = members.group(GROUP, 1).clone();
    let mut proposers = Vec::new();
    for from in 0..8 {
        let group = group.clone();
        proposers.push(tokio::spawn(async move {
            for number in from * 1_000.. {
                if group.propose(entry(number)).await.is_err() {
                    return;
                }
            }
        }));
    }
    eventually("much is applied", || entries(&group).len() > 200).await;

    let next = recover(&members.running[&1].node).await.unwrap();
    led(&next).await;
    for proposer in proposers {
        within("a proposer ends", proposer).await.unwrap();
    }

    let all = entries(&next);
    let marks = all.iter().filter(|entry| entry.starts_with(b"recovered"));
    assert_eq!(marks.count(), 1);
    assert!(
        all.last().unwrap().starts_with(b"recovered"),
        "nothing behind it"
    );
    assert_eq!(members.fatals(), 0);
}

#[tokio::test]
async fn a_recovered_shard_counts_above_everything_that_it_may_have_counted() {
    let node = TestNode::open(&FaultFs::new(34));
    let mut shard = TestShard::begin(&node, 5, "shard", NodeEpoch(3))
        .await
        .unwrap();
    let client: mqtt::ClientId = "c".try_into().unwrap();
    let open = Open {
        client: client.clone(),
        identity: Identity("c".try_into().unwrap()),
        expected_epoch: None,
        node_epoch: session::NodeEpoch(3),
        connection: ConnectionId(1),
        clean_start: false,
        persistent: true,
        expiry_s: 60,
        receive_maximum: 10,
        will: None,
    };
    let opened = shard.command(Command::Open(Box::new(open))).await.unwrap();
    let Answer::Opened { epoch, .. } = opened else {
        panic!("opened: {opened:?}");
    };
    let subscription = Subscription {
        options: SubscribeOptions {
            qos: QoS::AtLeastOnce,
            ..SubscribeOptions::default()
        },
        id: None,
    };
    let subs = Subs {
        client: client.clone(),
        epoch,
        filters: vec![("t".try_into().unwrap(), subscription)],
    };
    shard.command(Command::Subs(Box::new(subs))).await.unwrap();
    let before = shard.with(|machine| machine.durable().route_version());
    assert_eq!(before, 1);

    let config = ShardConfig {
        limits: limits(),
        ..ShardConfig::default()
    };
    let again = || {
        let config = config.clone();
        let id = GroupId(5);
        node.node
            .recover_replica::<ShardMachine>(id, "shard", RECOVERY, config)
    };
    let group = again().await.unwrap();

    let floor = Rising::new(Incarnation(1), 0).get();
    let seen = |group: &Group<ShardMachine>| {
        group.with(|machine| {
            let durable = machine.durable();
            (
                durable.route_version(),
                durable.index(),
                durable.epoch(&client),
            )
        })
    };
    let (version, index, now) = seen(&group);
    assert!(version > floor && index >= floor, "{version} {index}");
    assert!(now > Some(epoch));
    // A repeat raises nothing.
    let group = again().await.unwrap();
    assert_eq!(seen(&group), (version, index, now));
}
