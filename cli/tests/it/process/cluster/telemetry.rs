//! Telemetry of three nodes: each device's rows are in one store, whichever node took them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use telemetry::bucket_of;

use super::client::Client;
use super::nodes::{Cluster, NODES, Nodes};
use crate::process::http;
use crate::process::node::Place;
use crate::process::rows::ms_now;
use crate::process::wait::until;

/// Buckets of a cluster, the default.
pub(super) const BUCKETS: u32 = 64;

/// Seals often, and keeps nothing of the log that need not be kept.
pub(super) const CONFIG: &str = "\
[telemetry]
head_age_max = \"500ms\"
block_rows = 8

[telemetry.log]
segment_bytes = 65536
read_retention_bytes = 0
";

/// Enough devices that each node owns the bucket of some.
const DEVICES: usize = 12;

#[test]
fn what_a_device_publishes_through_any_node_is_stored_once_and_answered_by_all() {
    let cluster = Cluster::new(CONFIG);
    let nodes = cluster.start();
    dealt(&nodes);
    let mut fleet = Fleet::new();
    for round in 0..3 {
        for at in 0..NODES {
            fleet.publish(&cluster, at, round);
            // As after a lost PUBACK, and with a reconnect to another node.
            fleet.publish_again(&cluster, (at + 1) % NODES);
        }
    }

    for at in 0..NODES {
        fleet.assert_stored(&nodes, at);
    }
    let stored = nodes
        .all()
        .map(|node| node.metric("tidewire_telemetry_stored_points_total"));
    let stored: Vec<f64> = stored.collect();
    assert_eq!(
        stored.iter().sum::<f64>(),
        fleet.points() as f64,
        "once in all stores: {stored:?}"
    );
    assert!(
        stored.iter().all(|points| *points > 0.0),
        "each node has its share: {stored:?}"
    );
    let lag = || {
        nodes
            .all()
            .map(|node| node.metric("tidewire_telemetry_owner_lag_records"))
            .sum::<f64>()
    };
    until("no owner to lag", || (lag() == 0.0).then_some(()));
}

#[test]
fn an_owner_or_an_ingress_node_that_is_killed_loses_nothing_acknowledged() {
    let cluster = Cluster::new(CONFIG);
    let mut nodes = cluster.start();
    dealt(&nodes);
    let mut fleet = Fleet::new();
    for at in 0..NODES {
        fleet.publish(&cluster, at, 0);
    }
    for victim in 0..NODES {
        let round = victim as i64 + 1;
        let others = [(victim + 1) % NODES, (victim + 2) % NODES];
        // It has acknowledged, and nobody need have read it.
        fleet.publish(&cluster, victim, round);
        nodes.kill_9(victim);
        for at in others {
            fleet.publish(&cluster, at, round);
        }
        let partial = fleet.partial(&cluster, others[0]);
        assert!(
            !partial.is_empty(),
            "what is at node {} is missing",
            victim + 1
        );
        for reason in partial {
            assert!(reason.contains(&format!("node {}", victim + 1)), "{reason}");
        }
        nodes.start(victim);
        fleet.publish_again(&cluster, victim);
    }

    for at in 0..NODES {
        fleet.assert_stored(&nodes, at);
    }
}

#[test]
fn empty_buckets_go_to_nodes_that_join_and_those_with_rows_stay() {
    let founder = Place::of_cluster(&[]).numbered(1).with_config(CONFIG);
    let second = Place::of_cluster(&[founder.cluster])
        .numbered(2)
        .with_config(CONFIG);
    let one = founder.start();
    assert_eq!(owned(&founder), [(1, BUCKETS, 0)]);
    let fleet = Fleet::new();
    let mut client = Client::connect(founder.mqtt, "publisher", false);
    let start = ms_now() - 1_000;
    for device in 0..DEVICES {
        client.publish(&topic(&fleet.name(device)), 1, &payload(start, 1));
    }
    let buckets = (0..DEVICES).map(|device| bucket_of(fleet.name(device).as_bytes(), BUCKETS));
    let with_rows = buckets.collect::<BTreeSet<u16>>().len() as u32;
    assert!(with_rows > 1, "{DEVICES} devices have some buckets");
    until("the rows of the founder", || {
        let stored = one.metric("tidewire_telemetry_stored_points_total");
        let is_told = owned(&founder) == [(1, BUCKETS, with_rows)];
        (is_told && stored == DEVICES as f64).then_some(())
    });

    let two = second.start();

    until("the second node's share", || {
        let half = BUCKETS / 2;
        (owned(&second) == [(1, half, with_rows), (2, half, 0)]).then_some(())
    });
    for device in 0..DEVICES {
        let name = fleet.name(device);
        for place in [&founder, &second] {
            let answer = query(place, &name).expect("it answers");
            assert_eq!(answer["rows"][0]["ts"], start, "{name}: {answer}");
        }
    }
    drop((one, two));
}

/// Waits until all nodes know that each has its share of buckets.
pub(super) fn dealt(nodes: &Nodes<'_>) {
    until("a share of buckets for each node", || {
        (0..NODES)
            .all(|at| {
                let status = nodes.status(at).expect("it answers");
                let shares = status.members.iter().map(|member| member.buckets);
                shares.clone().sum::<u32>() == BUCKETS && shares.max() <= Some(BUCKETS.div_ceil(3))
            })
            .then_some(())
    });
}

/// Node, buckets, and those with rows, as a node knows them.
pub(super) fn owned(place: &Place) -> Vec<(u32, u32, u32)> {
    let (status, body) = http::get(place.admin, "/v1/cluster").expect("it answers");
    assert_eq!(status, 200, "{body}");
    let status: admin::cluster::ClusterStatus = serde_json::from_str(&body).expect("JSON");
    let one = |member: &admin::cluster::MemberStatus| {
        (member.node, member.buckets, member.buckets_with_rows)
    };
    status.members.iter().map(one).collect()
}

fn topic(device: &str) -> String {
    format!("fleet/{device}/telemetry")
}

fn payload(ts: i64, value: i64) -> String {
    format!("{{\"ts\":{ts},\"metrics\":{{\"n\":{value}}}}}")
}

fn query(place: &Place, device: &str) -> Option<Value> {
    let path = format!("/v1/query/{device}?from=-1h&limit=10000");
    match http::get(place.admin, &path) {
        Ok((200, body)) => Some(serde_json::from_str(&body).expect("the answer is JSON")),
        _ => None,
    }
}

/// Devices, and what of them was acknowledged.
pub(super) struct Fleet {
    devices: usize,
    start: i64,
    sent: i64,
    acked: BTreeMap<usize, BTreeMap<i64, i64>>,
}

impl Fleet {
    fn new() -> Self {
        Self::of(DEVICES)
    }

    /// So many devices.
    pub(super) fn of(devices: usize) -> Self {
        Self {
            devices,
            start: ms_now() - 600_000,
            sent: 0,
            acked: BTreeMap::new(),
        }
    }

    fn name(&self, device: usize) -> String {
        format!("car{device}")
    }

    /// Each device sends a point through a node and waits for its PUBACK.
    pub(super) fn publish(&mut self, cluster: &Cluster, at: usize, round: i64) {
        let mut client = Client::connect(cluster.places[at].mqtt, &format!("bus{at}"), false);
        for device in 0..self.devices {
            self.sent += 1;
            let (ts, value) = (self.start + self.sent, round);
            client.publish(&topic(&self.name(device)), 1, &payload(ts, value));
            self.acked.entry(device).or_default().insert(ts, value);
        }
        client.disconnect();
    }

    /// Each device sends its last point once more.
    pub(super) fn publish_again(&self, cluster: &Cluster, at: usize) {
        let mut client = Client::connect(cluster.places[at].mqtt, &format!("bus{at}"), false);
        for (device, points) in &self.acked {
            let (ts, value) = points.last_key_value().expect("it has sent");
            client.publish(&topic(&self.name(*device)), 1, &payload(*ts, *value));
        }
        client.disconnect();
    }

    fn points(&self) -> usize {
        self.acked.values().map(BTreeMap::len).sum()
    }

    /// Why answers of a node are partial.
    fn partial(&self, cluster: &Cluster, at: usize) -> Vec<String> {
        let answers =
            (0..DEVICES).filter_map(|device| query(&cluster.places[at], &self.name(device)));
        let reasons = answers.map(|answer| answer["reason"].as_str().map(str::to_owned));
        reasons.flatten().collect()
    }

    /// A node answers with what was acknowledged, and nothing else.
    pub(super) fn assert_stored(&self, nodes: &Nodes<'_>, at: usize) {
        for (device, points) in &self.acked {
            let name = self.name(*device);
            let answer = until("a whole answer", || {
                let answer = query(nodes.place(at), &name)?;
                (answer["partial"] == false).then_some(answer)
            });
            let rows = answer["rows"].as_array().expect("rows are an array");
            let row = |row: &Value| {
                let value = row["metrics"]["n"].as_f64().expect("a number");
                (row["ts"].as_i64().expect("a time"), value as i64)
            };
            let stored: Vec<(i64, i64)> = rows.iter().map(row).collect();
            let expected: Vec<(i64, i64)> = points.iter().map(|(ts, n)| (*ts, *n)).collect();
            assert_eq!(stored, expected, "{name} at node {}", at + 1);
        }
    }
}
