//! Rows of a device, read back from a running node.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::node::Node;

/// Rows of one answer.
const PAGE: usize = 5_000;

/// Everything that the node has of a device between two times, page by page.
pub(crate) fn of_device(node: &Node<'_>, id: &str, mut from: i64, to: i64) -> BTreeMap<i64, Value> {
    let mut rows = BTreeMap::new();
    loop {
        let path = format!("/v1/query/{id}?from={from}&to={to}&limit={PAGE}");
        let answer: Value = serde_json::from_str(&node.get(&path)).expect("the answer is JSON");
        assert_eq!(
            answer["partial"], false,
            "nobody publishes: the writer is at the log's end"
        );
        let page = answer["rows"].as_array().expect("rows are an array");
        for row in page {
            let ts = row["ts"].as_i64().expect("whole milliseconds");
            let again = rows.insert(ts, row["metrics"].clone());
            assert!(again.is_none(), "{id} has the time {ts} twice");
            from = ts + 1;
        }
        if page.len() < PAGE {
            return rows;
        }
    }
}

/// The time in milliseconds since 1970.
pub(crate) fn ms_now() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_millis();
    i64::try_from(now).expect("before the year 292 million")
}
