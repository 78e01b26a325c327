//! Lines of several nodes, which reach each other in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use runtime::ManualClock;
use storage::fs::FaultFs;
use tidewire_bridge::{
    Answering, Asked, Claim, Cluster, Config, Fatal, OnFatal, Outcome, Table, TableRow, Telemetry,
};
use tokio::sync::watch;

use crate::harness::{Line, NOW_MS, message, row, small};

/// The nodes of a test, and the bucket table that they share.
pub(crate) struct Nodes {
    pub(crate) table: watch::Sender<Option<Arc<Table>>>,
    lines: Mutex<BTreeMap<u32, Arc<Line>>>,
    disks: Mutex<Vec<FaultFs>>,
    /// Whether the table is told of rows.
    pub(crate) is_told: watch::Sender<bool>,
    /// What has come of copies so far, and what may come.
    pub(crate) copies: watch::Sender<Copies>,
}

/// Parts of buckets that were asked for, and whole buckets that were reported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copies {
    pub(crate) parts: u64,
    pub(crate) parts_max: u64,
    pub(crate) moved: u64,
    pub(crate) moved_max: u64,
}

/// One node's way to the others.
struct Seat {
    node: u32,
    nodes: Arc<Nodes>,
}

impl Cluster for Seat {
    fn table(&self) -> watch::Receiver<Option<Arc<Table>>> {
        self.nodes.table.subscribe()
    }

    fn hold_rows(&self, claims: Vec<Claim>) -> Answering<()> {
        let (node, nodes) = (self.node, Arc::clone(&self.nodes));
        Box::pin(async move {
            let mut is_told = nodes.is_told.subscribe();
            is_told
                .wait_for(|told| *told)
                .await
                .map_err(|error| error.to_string())?;
            nodes.change(|table| {
                for claim in &claims {
                    let row = &mut table.rows[usize::from(claim.bucket)];
                    row.holds_rows |= row.owner == node && row.epoch == claim.epoch;
                }
            });
            Ok(())
        })
    }

    fn bucket_moved(&self, claim: Claim) -> Answering<()> {
        let (node, nodes) = (self.node, Arc::clone(&self.nodes));
        Box::pin(async move {
            let mut copies = nodes.copies.subscribe();
            nodes.copies.send_modify(|copies| copies.moved += 1);
            let may = copies.wait_for(|copies| copies.moved <= copies.moved_max);
            drop(may.await.map_err(|error| error.to_string())?);
            nodes.change(|table| {
                let row = &mut table.rows[usize::from(claim.bucket)];
                if row.epoch == claim.epoch && row.moving_to == Some(node) {
                    row.owner = node;
                    row.moving_to = None;
                    row.epoch += 1;
                }
            });
            Ok(())
        })
    }

    fn ask(&self, node: u32, asked: Asked, said: Bytes) -> Answering<Bytes> {
        let (from, nodes) = (self.node, Arc::clone(&self.nodes));
        Box::pin(async move {
            if asked == Asked::Copy {
                let mut copies = nodes.copies.subscribe();
                nodes.copies.send_modify(|copies| copies.parts += 1);
                let may = copies.wait_for(|copies| copies.parts <= copies.parts_max);
                drop(may.await.map_err(|error| error.to_string())?);
            }
            let line = nodes
                .lines
                .lock()
                .expect("nobody panics with it")
                .get(&node)
                .cloned();
            let (answer, answered) = tokio::sync::oneshot::channel();
            let line = line.ok_or("it does not run")?;
            let reply = Box::new(move |bytes| drop(answer.send(bytes)));
            line.telemetry.handle_asked(from, asked, &said, reply);
            drop(line);
            answered.await.map_err(|_| "no answer".to_owned())
        })
    }
}

fn row_of(owner: u32, holds_rows: bool) -> TableRow {
    TableRow {
        owner,
        epoch: 1,
        holds_rows,
        moving_to: None,
    }
}

impl Nodes {
    /// Nodes 1 to 3. Bucket `b` belongs to node 1 + b mod 3, and holds no row.
    fn new() -> Arc<Self> {
        let rows = (0..small().buckets).map(|bucket| row_of(1 + u32::from(bucket) % 3, false));
        let table = Table {
            rows: rows.collect(),
            members: [1, 2, 3].into(),
        };
        Arc::new(Self {
            table: watch::Sender::new(Some(Arc::new(table))),
            lines: Mutex::default(),
            disks: Mutex::new((0..3).map(FaultFs::new).collect()),
            is_told: watch::Sender::new(true),
            copies: watch::Sender::new(Copies {
                parts: 0,
                parts_max: u64::MAX,
                moved: 0,
                moved_max: u64::MAX,
            }),
        })
    }

    pub(crate) async fn started() -> Arc<Self> {
        let nodes = Self::new();
        for node in 1..=3 {
            nodes.start(node).await;
        }
        nodes
    }

    pub(crate) async fn start(self: &Arc<Self>, node: u32) -> Arc<Line> {
        let seat = Arc::new(Seat {
            node,
            nodes: Arc::clone(self),
        });
        let clock = ManualClock::at(NOW_MS as u64);
        let fatal: Arc<Mutex<Option<Fatal>>> = Arc::default();
        let on_fatal: OnFatal = Arc::new(move |why| panic!("{why}"));
        let config = Config { node, ..small() };
        let disk = self.disks.lock().expect("nobody panics with it")[node as usize - 1].clone();
        let telemetry = Telemetry::open_in(
            seat,
            Path::new("/data"),
            Arc::new(disk),
            Arc::new(clock.clone()),
            config,
            on_fatal,
        );
        let line = Line::of(telemetry.await.expect("the line opens"), clock, fatal);
        let line = Arc::new(line);
        self.lines
            .lock()
            .expect("nobody panics with it")
            .insert(node, Arc::clone(&line));
        line
    }

    pub(crate) fn line(&self, node: u32) -> Arc<Line> {
        let lines = self.lines.lock().expect("nobody panics with it");
        Arc::clone(&lines[&node])
    }

    /// Stops a node; what was not sealed is in the logs only.
    pub(crate) async fn stop(&self, node: u32) {
        let line = self
            .lines
            .lock()
            .expect("nobody panics with it")
            .remove(&node);
        line.expect("it runs").telemetry.shutdown().await;
    }

    /// Ends a node at once: of its disk only what was synced stays.
    pub(crate) fn crash(&self, node: u32) {
        {
            let mut disks = self.disks.lock().expect("nobody panics with it");
            let disk = &mut disks[node as usize - 1];
            *disk = disk.crash();
        }
        let line = self
            .lines
            .lock()
            .expect("nobody panics with it")
            .remove(&node);
        drop(line.expect("it runs"));
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Table)) {
        self.table.send_modify(|table| {
            let mut changed = Table::clone(table.as_ref().expect("there is one"));
            change(&mut changed);
            *table = Some(Arc::new(changed));
        });
    }

    /// The owner of a device's bucket.
    pub(crate) fn owner(&self, device: &str) -> u32 {
        let bucket = telemetry::bucket_of(device.as_bytes(), u32::from(small().buckets));
        let table = self.table.borrow().clone().expect("there is one");
        table.rows[usize::from(bucket)].owner
    }

    /// A device whose bucket a node owns.
    pub(crate) fn device_of(&self, node: u32) -> String {
        let mut names = (0..).map(|n| format!("car{n}"));
        names
            .find(|name| self.owner(name) == node)
            .expect("some hash fits")
    }

    pub(crate) fn points(&self) -> u64 {
        let lines = self.lines.lock().expect("nobody panics with it");
        let status = lines.values().map(|line| line.telemetry.status());
        status.map(|status| status.stored_points).sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_any_node_took_is_stored_once_and_any_node_answers_for_it() {
    let nodes = Nodes::started().await;
    for owner in 1..=3 {
        let device = nodes.device_of(owner);
        let mut expected = Vec::new();
        for node in 1..=3 {
            let ts = NOW_MS + i64::from(node);
            let sent = message(ts, &[("n", f64::from(node))]);
            assert_eq!(
                nodes.line(node).send(&device, &sent).await,
                Outcome::Durable
            );
            // Its PUBACK was lost, and the device went on at another node.
            nodes.line(1 + node % 3).send(&device, &sent).await;
            expected.push(row(ts, &[("n", f64::from(node))]));
        }
        for node in 1..=3 {
            assert_eq!(
                nodes.line(node).rows(&device).await,
                expected,
                "at node {node}"
            );
        }
    }
    assert_eq!(nodes.points(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_away_gets_what_others_took_meanwhile_once() {
    let nodes = Nodes::started().await;
    let device = nodes.device_of(2);
    let send = async |node: u32, n: i64| {
        let sent = message(NOW_MS + n, &[("n", n as f64)]);
        assert_eq!(
            nodes.line(node).send(&device, &sent).await,
            Outcome::Durable
        );
    };
    for n in 0..5 {
        send(1 + (n as u32) % 3, n).await;
    }
    nodes.line(2).rows(&device).await;
    nodes.line(2).telemetry.seal().await;
    for n in 5..8 {
        send(3, n).await;
    }
    nodes.line(2).rows(&device).await;
    // What came behind the seal is in the head of the store alone, and in the log of node 3.
    nodes.stop(2).await;
    for n in 8..10 {
        send(1, n).await;
    }
    let away = nodes
        .line(1)
        .telemetry
        .query()
        .query(question(&device))
        .await;
    let away = away.expect("it is no error");
    assert!(away.partial && away.rows.is_empty());
    let reason = away.reason.expect("it says why");
    assert!(
        reason.contains("node 2, which stores the device, is away"),
        "{reason}"
    );

    nodes.start(2).await;

    let expected: Vec<_> = (0..10)
        .map(|n| row(NOW_MS + n, &[("n", n as f64)]))
        .collect();
    for node in [1, 2, 3] {
        assert_eq!(nodes.line(node).rows(&device).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_says_which_node_may_have_taken_more() {
    let nodes = Nodes::started().await;
    let device = nodes.device_of(1);
    nodes
        .line(2)
        .send(&device, &message(NOW_MS, &[("n", 1.0)]))
        .await;
    assert_eq!(nodes.line(3).rows(&device).await.len(), 1);

    nodes.stop(2).await;

    let answer = nodes
        .line(3)
        .telemetry
        .query()
        .query(question(&device))
        .await;
    let answer = answer.expect("it is no error");
    assert_eq!(answer.rows.len(), 1);
    let reason = answer.reason.expect("it says why");
    assert!(answer.partial && reason.contains("node 2"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_dealt_before_its_first_row_is_taken_goes_with_all_its_records() {
    let nodes = Nodes::started().await;
    nodes.is_told.send_replace(false);
    let device = nodes.device_of(1);
    let bucket = telemetry::bucket_of(device.as_bytes(), u32::from(small().buckets));
    for node in 1..=3 {
        let sent = message(NOW_MS + i64::from(node), &[("n", 1.0)]);
        nodes.line(node).send(&device, &sent).await;
    }
    // Node 1 is about to say that it takes rows, and comes too late.
    nodes.change(|table| {
        table.rows[usize::from(bucket)] = TableRow {
            owner: 3,
            epoch: 2,
            holds_rows: false,
            moving_to: None,
        };
    });
    nodes.is_told.send_replace(true);

    for node in 1..=3 {
        assert_eq!(
            nodes.line(node).rows(&device).await.len(),
            3,
            "at node {node}"
        );
    }
    let stored = |node| nodes.line(node).telemetry.status().stored_points;
    assert_eq!([stored(1), stored(2), stored(3)], [0, 0, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_of_another_node_is_whole() {
    let nodes = Nodes::started().await;
    let device = nodes.device_of(2);
    let names: Vec<String> = (0..100)
        .map(|n| format!("metric_with_a_long_name_{n:04}"))
        .collect();
    let metrics: Vec<(&str, f64)> = names
        .iter()
        .map(|name| (name.as_str(), 0.123_456_789))
        .collect();
    // Two pages of 2 MiB, and a part of a third.
    let rows = 1_100;
    for n in 0..rows {
        nodes
            .line(2)
            .send(&device, &message(NOW_MS + n, &metrics))
            .await;
    }

    let near = nodes.line(2).rows(&device).await;
    let far = nodes.line(1).rows(&device).await;

    assert_eq!(near.len(), rows as usize);
    assert!(near == far, "{} rows against {}", far.len(), near.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_keeps_what_an_owner_that_is_away_has_not_sealed() {
    let nodes = Nodes::started().await;
    let device = nodes.device_of(2);
    let own = nodes.device_of(1);
    nodes
        .line(1)
        .send(&device, &message(NOW_MS, &[("n", 1.0)]))
        .await;
    assert_eq!(nodes.line(2).rows(&device).await.len(), 1);
    nodes.stop(2).await;
    let payload = message(NOW_MS + 1, &[("n", 2.0)]);
    nodes.line(1).send(&device, &payload).await;
    // Segments of 16 KiB that would go at once, were it for their own rows alone.
    for n in 0..1_500 {
        nodes
            .line(1)
            .send(&own, &message(NOW_MS + n, &[("n", n as f64)]))
            .await;
    }
    nodes.line(1).telemetry.seal().await;

    nodes.start(2).await;

    assert_eq!(nodes.line(1).rows(&device).await.len(), 2);
}

pub(crate) fn question(device: &str) -> tidewire_bridge::QueryRequest {
    tidewire_bridge::QueryRequest {
        device: device.to_owned(),
        metrics: Vec::new(),
        from_ms: i64::MIN,
        to_ms: i64::MAX,
        step_ms: None,
        limit: usize::MAX,
    }
}
