//! Where the memory of this node goes.

use admin::memory::{Memory, Part};
use session::Counters;

use crate::http::AdminState;
use crate::memory::{self, Plan};

/// What the shards of this node hold together.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    sessions: u64,
    counters: Counters,
    unflushed_bytes: u64,
    /// What may wait for a flush, by the rows of each.
    unflushed_limit: u64,
    cached_bytes: u64,
}

/// The plan, and what each part of it holds now.
pub(crate) async fn memory(state: &AdminState) -> Memory {
    let plan = state.memory.plan;
    let mut held = Held::default();
    for shard in 0..state.shards.len() {
        let looked = state.shards.look(shard, move |seen| {
            let (durable, counters) = (seen.durable, seen.durable.counters());
            let sessions = durable.sessions() as u64;
            Held {
                sessions,
                counters,
                unflushed_bytes: durable.unflushed_bytes() as u64,
                unflushed_limit: plan.unflushed(counters.queue_messages, sessions),
                cached_bytes: durable.cached_bytes() as u64,
            }
        });
        if let Some(of) = looked.await {
            held = held.with(of);
        }
    }
    let connections = state.counters.iter().map(|of| of.connections_open.get());
    Memory {
        node: state.node.node,
        limit_bytes: state.memory.bytes,
        is_configured: state.memory.is_configured,
        resident_bytes: memory::resident(),
        connections: connections.sum(),
        parts: parts(state, plan, &held),
    }
}

fn parts(state: &AdminState, plan: Plan, held: &Held) -> Vec<Part> {
    let shards = u64::from(state.shards.len());
    let log = state.raft.log_counters();
    let part = |part: &str, used_bytes, limit_bytes, at_limit: &str| Part {
        part: part.to_owned(),
        used_bytes,
        limit_bytes,
        at_limit: at_limit.to_owned(),
    };
    let counters = &held.counters;
    let rows = memory::rows_bytes(counters.queue_messages, held.sessions);
    vec![
        part(
            "program and Raft groups",
            None,
            Some(plan.fixed()),
            "measured; not enforced",
        ),
        part(
            "rows of sessions and queues",
            Some(rows),
            None,
            "payloads get less; limit sessions and queues",
        ),
        part(
            "retained messages",
            Some(counters.retained_bytes),
            None,
            "they stay in memory; limit them by their number",
        ),
        part(
            "messages under way to shards",
            Some(state.shards.under_way().bytes()),
            Some(plan.under_way()),
            "publishers are not read",
        ),
        part(
            "commands that wait for a log",
            Some(state.shards.held_bytes()),
            None,
            "a stuck shard takes nothing more",
        ),
        part(
            "payloads not yet flushed",
            Some(held.unflushed_bytes),
            Some(held.unflushed_limit),
            "a shard flushes before it takes more",
        ),
        part(
            "payloads kept though on disk",
            Some(held.cached_bytes),
            Some(plan.cache() * shards),
            "the oldest are read again when needed",
        ),
        part(
            "entries that wait for the log",
            Some(log.journal.queued_bytes),
            Some(plan.log_queue()),
            "proposals wait",
        ),
        part(
            "newest entries of the log",
            Some(log.cached_bytes),
            Some(plan.log_cache()),
            "older ones are read from disk",
        ),
        part(
            "pages of state files",
            None,
            Some(plan.state_caches()),
            "others are read from disk",
        ),
    ]
}

impl Held {
    fn with(self, other: Self) -> Self {
        Self {
            sessions: self.sessions + other.sessions,
            counters: self.counters + other.counters,
            unflushed_bytes: self.unflushed_bytes + other.unflushed_bytes,
            unflushed_limit: self.unflushed_limit + other.unflushed_limit,
            cached_bytes: self.cached_bytes + other.cached_bytes,
        }
    }
}
