//! A node that is to give up what it holds: it takes no client any more, and sends those that it has
//! away at a rate.
//!
//! What it holds of groups goes by moves, which the membership makes; buckets without rows are dealt
//! anew. Both follow from the same word in meta.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cluster::member::Member;
use mqtt::ReasonCode;

use crate::counters::Counters;
use crate::io::{IoMessage, Threads};

/// How often a share of the clients is disconnected.
const STEP: Duration = Duration::from_millis(20);
/// How often it is looked whether the node is to give up what it holds.
const LOOK: Duration = Duration::from_millis(200);

/// Whether the node gives up what it holds. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draining(Arc<AtomicBool>);

impl Draining {
    /// Whether new clients are to go elsewhere.
    pub(crate) fn is_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Connections of all threads.
pub(crate) fn open(counters: &[Arc<Counters>]) -> u64 {
    counters.iter().map(|of| of.connections_open.get()).sum()
}

/// Disconnects as many clients of each thread as a [`STEP`] may, at a rate of so many a second in all,
/// at least one; and waits as long as that takes at the rate.
pub(crate) async fn disconnect_share(threads: &Threads, reason: ReasonCode, per_s: u32) {
    let per_step = per_s as usize * STEP.as_millis() as usize / 1_000;
    let count = (per_step / threads.len()).max(1);
    for thread in 0..threads.len() {
        threads
            .send(thread, IoMessage::Kick { reason, count })
            .await;
    }
    let told = (count * threads.len()) as u32;
    tokio::time::sleep(Duration::from_secs(1) * told / per_s.max(1)).await;
}

/// Does what meta says about this node, until it is aborted. Clients are disconnected once this node
/// leads nothing that they would wait for, `per_s` of them a second.
pub(crate) async fn follow(
    member: Member,
    draining: Draining,
    threads: Threads,
    counters: Vec<Arc<Counters>>,
    per_s: u32,
) {
    loop {
        let status = member.status();
        let row = status.members.get(&status.node);
        let is_leaving = row.is_some_and(|row| row.is_leaving);
        if draining.0.swap(is_leaving, Ordering::Relaxed) != is_leaving {
            let says = match is_leaving {
                true => "this node is to give up what it holds: clients go elsewhere",
                false => "this node keeps what it holds, and takes clients again",
            };
            tracing::info!("{says}");
            for thread in 0..threads.len() {
                threads.send(thread, IoMessage::KickFromFirst).await;
            }
        }
        let leads = row.map_or(0, |row| row.leads);
        if is_leaving && leads == 0 && open(&counters) > 0 {
            disconnect_share(&threads, ReasonCode::UseAnotherServer, per_s).await;
        } else {
            tokio::time::sleep(LOOK).await;
        }
    }
}
