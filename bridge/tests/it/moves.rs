//! Buckets that go from one line to another with their rows, while records keep coming.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidewire_bridge::{Outcome, QueryError, TableRow};

use crate::buckets::{Nodes, question};
use crate::harness::{NOW_MS, message, row, small};

/// A device of node 1, and what it has sent.
struct Device {
    nodes: Arc<Nodes>,
    name: String,
    sent: i64,
    /// More make a bucket of several parts.
    metrics: Vec<String>,
}

impl Device {
    async fn of_node_1(metrics: usize) -> Self {
        let nodes = Nodes::started().await;
        let name = nodes.device_of(1);
        let metrics = (0..metrics).map(|n| format!("metric_{n:04}"));
        Self {
            nodes,
            name,
            sent: 0,
            metrics: metrics.collect(),
        }
    }

    /// Sends so many rows, each through one of these nodes.
    async fn send(&mut self, through: &[u32], rows: usize) {
        for node in through.iter().cycle().take(rows) {
            let metrics: Vec<(&str, f64)> = self.points(self.sent);
            let message = message(NOW_MS + self.sent, &metrics);
            let outcome = self.nodes.line(*node).send(&self.name, &message).await;
            assert_eq!(outcome, Outcome::Durable);
            self.sent += 1;
        }
    }

    fn points(&self, sent: i64) -> Vec<(&str, f64)> {
        let value = 0.1 + sent as f64;
        self.metrics
            .iter()
            .map(|name| (name.as_str(), value))
            .collect()
    }

    fn bucket(&self) -> u16 {
        telemetry::bucket_of(self.name.as_bytes(), u32::from(small().buckets))
    }

    fn row(&self) -> TableRow {
        let table = self.nodes.table.borrow().clone();
        table.expect("there is one").rows[usize::from(self.bucket())]
    }

    fn set_row(&self, row: TableRow) {
        let bucket = usize::from(self.bucket());
        self.nodes.change(|table| table.rows[bucket] = row);
    }

    /// Says that the bucket is to go to a node, or to stay.
    fn move_to(&self, moving_to: Option<u32>) {
        let row = self.row();
        self.set_row(TableRow {
            epoch: row.epoch + 1,
            moving_to,
            ..row
        });
    }

    async fn moved_to(&self, node: u32) {
        let bucket = usize::from(self.bucket());
        let mut table = self.nodes.table.subscribe();
        let moved = table.wait_for(|table| {
            let table = table.as_ref().expect("there is one");
            table.rows[bucket].owner == node
        });
        drop(moved.await.expect("the table stays"));
    }

    /// Each of these nodes answers with each row once.
    async fn assert_whole(&self, nodes: &[u32]) {
        let expected: Vec<_> = (0..self.sent)
            .map(|sent| row(NOW_MS + sent, &self.points(sent)))
            .collect();
        for node in nodes {
            let rows = self.whole_at(*node).await;
            assert_eq!(rows.len(), expected.len(), "at node {node}");
            assert!(rows == expected, "at node {node}");
        }
    }

    /// What a node answers once that is not partial: each question waits by itself.
    async fn whole_at(&self, node: u32) -> Vec<(i64, BTreeMap<String, f64>)> {
        let query = self.nodes.line(node).telemetry.query();
        for _ in 0..100 {
            match query.query(question(&self.name)).await {
                Ok(answer) if !answer.partial => {
                    let row = |row: admin::query::QueryRow| {
                        let metrics = row.metrics.into_iter();
                        (
                            row.ts,
                            metrics.map(|(name, value)| (name, value.0)).collect(),
                        )
                    };
                    return answer.rows.into_iter().map(row).collect();
                }
                Ok(_) | Err(QueryError::Elsewhere { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("node {node} never gives a whole answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_with_rows_goes_to_another_node_while_records_come() {
    let mut device = Device::of_node_1(2).await;
    device.send(&[1, 2, 3], 30).await;
    device.assert_whole(&[2]).await;
    device.send(&[1, 2, 3], 30).await;

    device.move_to(Some(3));
    device.send(&[1, 2, 3], 30).await;
    device.moved_to(3).await;

    device.send(&[1, 2, 3], 30).await;
    device.assert_whole(&[1, 2, 3]).await;
    assert_eq!(device.nodes.points(), 2 * 120, "each was stored once");
    // And back again, to a node that had it before.
    device.move_to(Some(1));
    device.send(&[1, 2, 3], 30).await;
    device.moved_to(1).await;
    device.assert_whole(&[1, 2, 3]).await;
    assert_eq!(device.nodes.points(), 2 * 150, "each was stored once");
    for node in 1..=3 {
        device.nodes.stop(node).await;
        device.nodes.start(node).await;
    }
    device.assert_whole(&[1, 2, 3]).await;
}

/// Where a move stands when a node is killed.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Nothing was copied; it is frozen, or about to be.
    Begun,
    /// A part was copied.
    HalfWay,
    /// All of it is there, and the table does not say so.
    Whole,
    /// The table says so, and nobody may have noticed.
    Moved,
}

async fn crash_at(stage: Stage, victim: u32) {
    let mut device = Device::of_node_1(100).await;
    // Two parts.
    device.send(&[1, 2, 3], 1_300).await;
    device.assert_whole(&[2]).await;
    let (parts_max, moved_max) = match stage {
        Stage::Begun => (0, 0),
        Stage::HalfWay => (1, 0),
        Stage::Whole => (u64::MAX, 0),
        Stage::Moved => (u64::MAX, 1),
    };
    device.nodes.copies.send_modify(|copies| {
        copies.parts_max = parts_max;
        copies.moved_max = moved_max;
    });

    device.move_to(Some(3));
    device.send(&[1, 2, 3], 6).await;
    let mut copies = device.nodes.copies.subscribe();
    let is_there = copies.wait_for(|copies| match stage {
        Stage::Begun | Stage::HalfWay => copies.parts > parts_max,
        Stage::Whole | Stage::Moved => copies.moved > 0,
    });
    drop(is_there.await.expect("it stays"));
    if matches!(stage, Stage::Moved) {
        device.moved_to(3).await;
    }
    device.nodes.crash(victim);
    device.send(&[2], 6).await;
    let stands = match stage {
        Stage::Moved => 3,
        _ => 1,
    };
    let answer = device.nodes.line(2).telemetry.query();
    let answer = answer.query(question(&device.name)).await.expect("answers");
    assert!(answer.partial, "{stage:?}, node {victim} is away");
    assert!(answer.rows.is_empty() == (stands == victim));
    device.nodes.copies.send_modify(|copies| {
        copies.parts_max = u64::MAX;
        copies.moved_max = u64::MAX;
    });
    device.nodes.start(victim).await;

    device.moved_to(3).await;
    device.send(&[1, 2, 3], 6).await;
    device.assert_whole(&[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_old_owner_at_any_stage_of_a_move_loses_nothing() {
    for stage in [Stage::Begun, Stage::HalfWay, Stage::Whole, Stage::Moved] {
        crash_at(stage, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_new_owner_at_any_stage_of_a_move_loses_nothing() {
    for stage in [Stage::Begun, Stage::HalfWay, Stage::Whole, Stage::Moved] {
        crash_at(stage, 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_given_up_leaves_the_bucket_where_it_was() {
    for moved_max in [0, u64::MAX] {
        let mut device = Device::of_node_1(2).await;
        device.send(&[1, 2, 3], 30).await;
        let parts_max = if moved_max == 0 { u64::MAX } else { 0 };
        device.nodes.copies.send_modify(|copies| {
            copies.parts_max = parts_max;
            copies.moved_max = moved_max;
        });
        device.move_to(Some(3));
        let mut copies = device.nodes.copies.subscribe();
        // Something was copied, or nothing.
        let begun = copies.wait_for(|copies| copies.parts > parts_max || copies.moved > moved_max);
        drop(begun.await.expect("it stays"));
        device.send(&[1, 2, 3], 30).await;

        device.move_to(None);

        device.assert_whole(&[1, 2, 3]).await;
        assert_eq!(device.row().owner, 1);
        device.send(&[1, 2, 3], 30).await;
        device.nodes.copies.send_modify(|copies| {
            copies.parts_max = u64::MAX;
            copies.moved_max = u64::MAX;
        });
        device.move_to(Some(3));
        device.moved_to(3).await;
        device.assert_whole(&[1, 2, 3]).await;
        assert_eq!(device.nodes.points(), 2 * 90, "each was stored once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_knows_less_after_a_restart_takes_nothing_of_what_it_froze() {
    let mut device = Device::of_node_1(2).await;
    device.send(&[1, 2, 3], 9).await;
    device.assert_whole(&[1]).await;
    let before = device.row();
    device.move_to(Some(3));
    device.moved_to(3).await;
    device.assert_whole(&[1]).await;
    let after = device.row();
    device.nodes.stop(1).await;
    device.nodes.stop(3).await;

    // Its replica of meta has not come to the move yet.
    device.set_row(before);
    device.nodes.start(1).await;
    device.send(&[1, 2], 6).await;
    let answer = device.nodes.line(1).telemetry.query();
    let answer = answer.query(question(&device.name)).await.expect("answers");
    assert!(answer.partial, "it cannot know: {answer:?}");
    device.set_row(after);
    device.nodes.start(3).await;

    device.assert_whole(&[1, 2, 3]).await;
}
