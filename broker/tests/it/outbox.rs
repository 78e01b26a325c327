//! The outbox of a shard when its node ends between any two of its steps: the next one brings what
//! it finds there to its end.

use std::sync::Arc;
use std::time::Duration;

use cluster::raft::{RaftConfig, RaftNode};
use cluster::{RoutesConfig, RoutesMachine, ShardConfig, ShardMachine};
use cluster_core::NodeId;
use mqtt::{Packet, QoS, ReasonCode};
use runtime::SystemClock;
use storage::fs::FaultFs;
use storage::raft::GroupId;
use tidewire_broker::{Config, Defects};

use crate::harness::{Dial, TestNode, config, options, publish, start_on, subscribe};

const WAITING: &str = "tidewire_session_outbox_routes";
/// How long a SUBACK may take that has nothing to wait for.
const ANSWER: Duration = Duration::from_secs(5);

/// What lies on a disk.
struct Found {
    /// Rows of routes that wait in the shard's outbox.
    waiting: u64,
    /// The routes have the filter.
    is_routed: bool,
}

fn one_shard() -> Config {
    let mut config = config();
    config.data = "/data".into();
    config.cluster.shards = 1;
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_whose_route_row_waits_at_a_start_gets_what_matches() {
    let (mut told_and_waiting, mut waiting) = (0, 0);
    for operations in 0.. {
        let fs = FaultFs::new(operations);
        let started = start_on(&fs, one_shard(), Defects::default()).await;
        let (node, fatal) = started.expect("an empty disk");
        let (mut client, _) = node.connect(Dial::v5("reader").persistent()).await;
        fs.freeze_at(fs.operations() + operations);
        let packet = subscribe(client.take_id(), &[("f", options(QoS::AtLeastOnce))]);
        client.send(&packet).await;
        let mut is_told = false;
        tokio::select! {
            biased;
            packet = client.try_next() => is_told = matches!(packet, Some(Packet::SubAck(_))),
            () = fatal.notified() => {}
        }
        let is_over = is_told && !fs.is_frozen();
        let found = found(&fs).await;
        if !is_told && found.is_routed {
            // Unless the row was written and not synced.
            let answer = tokio::time::timeout(ANSWER, client.try_next()).await;
            is_told = matches!(answer, Ok(Some(Packet::SubAck(_))));
        }
        let left = fs.kill();
        node.node.abandon().await;
        waiting += u64::from(found.waiting > 0);
        told_and_waiting += u64::from(found.waiting > 0 && is_told);
        goes_on(&left, is_told).await;
        if is_over {
            break;
        }
    }
    // Else nothing was shown.
    assert!(told_and_waiting > 0 && waiting > told_and_waiting);
}

/// What a start would find.
async fn found(fs: &FaultFs) -> Found {
    let config = RaftConfig::new("/data/raft".into(), NodeId(1));
    let clock = Arc::new(SystemClock::default());
    let on_fatal = Arc::new(|fatal| panic!("{fatal}"));
    let raft = RaftNode::open(Arc::new(fs.copy()), clock, config, on_fatal).expect("a log");
    let routes = RoutesConfig { rows_max: 1_000 };
    let routes = raft.start_group::<RoutesMachine>(GroupId(1), "routes", routes);
    let routes = routes.await.expect("the routes");
    let limits = session::Limits::default();
    let shard = raft.start_group::<ShardMachine>(
        GroupId(16),
        "shard-0000",
        ShardConfig {
            limits,
            ..ShardConfig::default()
        },
    );
    let shard = shard.await.expect("the shard");
    let found = Found {
        waiting: shard.with(|machine| machine.durable().counters().outbox_routes),
        is_routed: routes.with(|machine| !machine.routes().is_empty()),
    };
    raft.close().await.expect("in order");
    found
}

/// A node on what is left empties the outbox, and delivers what the filter matches.
async fn goes_on(left: &FaultFs, is_told: bool) {
    let started = start_on(left, one_shard(), Defects::default()).await;
    let (node, _) = started.expect("a whole disk");
    if is_told {
        delivers(&node).await;
    }
    node.until(WAITING, |rows| rows == 0).await;
    let (mut reader, present) = node.connect(Dial::v5("reader").persistent()).await;
    assert!(present);
    if is_told {
        assert_eq!(reader.text().await, "for the filter");
    } else {
        reader.subscribe("f", QoS::AtLeastOnce).await;
        delivers(&node).await;
        assert_eq!(reader.text().await, "for the filter");
    }
    node.stop().await;
}

async fn delivers(node: &TestNode) {
    let mut publisher = node.clean("publisher").await;
    let mut message = publish("f", QoS::AtLeastOnce, "for the filter");
    message.packet_id = Some(publisher.take_id());
    publisher.send(&Packet::Publish(message)).await;
    match publisher.packet().await {
        Packet::PubAck(ack) => assert_eq!(ack.reason, ReasonCode::Success),
        other => panic!("no PUBACK but {other:?}"),
    }
    publisher.leave(ReasonCode::Success).await;
}
