//! Questions that other nodes have to answer: where their logs end, and what their stores hold.

use std::sync::Arc;
use std::time::Duration;

use admin::query::QueryAnswer;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::exchange::{End, EndOf};
use super::{Asked, Cluster, Table};
use crate::query::QueryRequest;

/// Bytes of rows in one answer between nodes, beyond which the rest is asked for again: half of what
/// an answer may have, since the last row comes on top.
const PAGE_BYTES: usize = 2 << 20;

/// What a node says that is asked for a bucket which is not its own, as it knows.
pub(crate) const NOT_THE_OWNER: &str = "it does not store the device";

/// Asks other nodes.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) node: u32,
    pub(crate) cluster: Arc<dyn Cluster>,
}

/// Answers a query of another node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Page {
    /// Rows, the first ones first; or why there are none.
    pub(crate) answer: Result<QueryAnswer, String>,
    /// Whether more rows follow, to be asked for from behind the last one.
    pub(crate) is_cut: bool,
}

impl Page {
    /// As many rows as fit.
    pub(crate) fn of(answer: Result<QueryAnswer, String>) -> Self {
        let mut page = Self {
            answer,
            is_cut: false,
        };
        if let Ok(answer) = &mut page.answer {
            let mut bytes = 0;
            let fits = |row| {
                let row = serde_json::to_vec(row).map_or(0, |json| json.len());
                bytes += row;
                bytes <= PAGE_BYTES
            };
            let count = answer
                .rows
                .iter()
                .map(fits)
                .take_while(|fits| *fits)
                .count()
                .max(1);
            page.is_cut = count < answer.rows.len();
            answer.rows.truncate(count);
        }
        page
    }

    pub(crate) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("rows are JSON").into()
    }
}

/// The ends of a bucket in the logs of other nodes.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) known: Vec<(u32, u64)>,
    /// Why others did not say.
    pub(crate) unknown: Vec<String>,
}

impl Asker {
    /// The table, if it is known.
    pub(crate) fn table(&self) -> Option<Arc<Table>> {
        self.cluster.table().borrow().clone()
    }

    /// Asks every other member where a bucket ends in its log, all at once. Cancel-safe.
    pub(crate) async fn ends(&self, table: &Table, bucket: u16, wait: Duration) -> Ends {
        let mut asking = JoinSet::new();
        for node in table.others(self.node) {
            let asked = self
                .cluster
                .ask(node, Asked::End, EndOf { bucket }.encode());
            asking.spawn(async move {
                let answer = tokio::time::timeout(wait, asked).await;
                let answer = answer.unwrap_or_else(|_| Err("it gave no answer in time".to_owned()));
                (node, answer)
            });
        }
        let mut ends = Ends::default();
        while let Some(answered) = asking.join_next().await {
            let Ok((node, answer)) = answered else {
                ends.unknown.push("a question was not asked".to_owned());
                continue;
            };
            let answer =
                answer.and_then(|bytes| End::decode(&bytes).map_err(|error| error.to_string()));
            match answer {
                Ok(End { offset }) => ends.known.push((node, offset)),
                Err(why) => ends.unknown.push(format!(
                    "what node {node} has taken last may be missing: {why}"
                )),
            }
        }
        ends
    }

    /// Asks the owner of a device's bucket; partial, and without rows, when it is away.
    ///
    /// # Errors
    /// What the owner says.
    pub(crate) async fn query(
        &self,
        owner: u32,
        mut request: QueryRequest,
    ) -> Result<QueryAnswer, String> {
        let mut whole = QueryAnswer::default();
        loop {
            let said = serde_json::to_vec(&request).expect("a question is JSON");
            let answered = self.cluster.ask(owner, Asked::Query, said.into()).await;
            let page = answered.and_then(|bytes| {
                serde_json::from_slice::<Page>(&bytes).map_err(|error| error.to_string())
            });
            let Page { answer, is_cut } = match page {
                Ok(page) => page,
                Err(why) => {
                    whole.partial = true;
                    whole.reason = Some(format!(
                        "node {owner}, which stores the device, is away: {why}"
                    ));
                    return Ok(whole);
                }
            };
            let answer = answer?;
            let last = answer.rows.last().map(|row| row.ts);
            request.limit = request.limit.saturating_sub(answer.rows.len());
            whole.rows.extend(answer.rows);
            whole.partial |= answer.partial;
            whole.reason = whole.reason.or(answer.reason);
            // A row or step of later pages begins behind this one.
            let next = last.and_then(|ts| ts.checked_add(request.step_ms.unwrap_or(1)));
            match next {
                Some(from_ms) if is_cut && request.limit > 0 => request.from_ms = from_ms,
                _ => return Ok(whole),
            }
        }
    }
}
