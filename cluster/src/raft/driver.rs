//! What Raft does not do by itself here: heartbeats of the groups that are in use, flushes of
//! their states, and purges of what is flushed. Groups have no ticks of their own.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use cluster_core::{BootMs, NodeId};
use openraft::{ServerState, errors};
use storage::state;
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;

use super::config::{CANDIDACY_MS, LEASE_MS};
use super::control::{Boxed, Claim, GroupControl, Leader};
use super::failure::Fatal;
use super::group::RaftOf;
use super::hold::{Hold, HoldLimits, Needs};
use super::node::Inner;
use super::receiving::Receiving;
use super::replica::{Context, Replica};
use super::types::{LogId, Types};
use crate::link::Incoming;
use crate::machine::Machine;

/// How often the leader of a group in use confirms that it leads.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long after the last proposal or read a group sleeps.
const ACTIVE_MS: u64 = 10_000;
/// Flushes at once on a node.
pub(super) const FLUSHES_MAX: usize = 2;
/// How long Raft may take to see a flush; the next one purges what this one did not.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(10);

/// A group, as the driver has it.
pub(super) struct Driven<M: Machine> {
    pub(super) raft: RaftOf<M>,
    pub(super) replica: Arc<Replica<M>>,
    node: NodeId,
    context: Arc<Context>,
    /// Whether this replica hands the group over: until somebody was elected it takes no proposal.
    pub(super) handed_over: Arc<AtomicBool>,
    pub(super) leader: watch::Sender<Option<Leader>>,
    /// A state that is copied here.
    pub(super) receiving: Receiving,
    hold: Mutex<Hold>,
    /// When it was used last, in milliseconds of the clock.
    used_ms: AtomicU64,
    flushing: AtomicBool,
    /// Until when this replica is not to stand for election, in milliseconds of the clock.
    yields_until_ms: AtomicU64,
}

impl<M: Machine> Driven<M> {
    pub(super) fn new(
        node: NodeId,
        raft: RaftOf<M>,
        replica: Arc<Replica<M>>,
        context: Arc<Context>,
        limits: HoldLimits,
    ) -> Self {
        let used_ms = AtomicU64::new(context.clock.mono_ms());
        Self {
            raft,
            replica,
            node,
            context,
            handed_over: Arc::default(),
            leader: watch::Sender::new(None),
            receiving: Receiving::default(),
            hold: Mutex::new(Hold::new(limits)),
            used_ms,
            flushing: AtomicBool::new(false),
            yields_until_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    pub(super) fn watch_leader(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.subscribe()
    }

    /// A leader was heard. Raft began the lease a little earlier, when the request came to it.
    pub(super) fn hear_leader(&self) {
        self.yield_for(LEASE_MS);
    }

    /// This replica has voted for another.
    pub(super) fn hear_candidate(&self) {
        self.yield_for(CANDIDACY_MS);
    }

    fn yield_for(&self, time_ms: u64) {
        let until = self.context.clock.mono_ms().saturating_add(time_ms);
        self.yields_until_ms.fetch_max(until, Ordering::Relaxed);
    }

    pub(super) fn end_of_yielding(&self) -> BootMs {
        BootMs(self.yields_until_ms.load(Ordering::Relaxed))
    }

    /// Keeps the group awake for a while.
    pub(super) fn touch(&self) {
        let now = self.context.clock.mono_ms();
        self.used_ms.store(now, Ordering::Relaxed);
    }

    /// Lets Raft know that everything up to here is flushed, and purges of it what no member needs.
    pub(super) async fn purge(&self, flushed: LogId) -> Result<(), errors::Fatal<Types<M>>> {
        self.raft.trigger().snapshot().await?;
        let seen = self
            .raft
            .wait(Some(SNAPSHOT_PATIENCE))
            .metrics(|metrics| metrics.snapshot >= Some(flushed), "flushed")
            .await;
        if let Err(error) = seen {
            tracing::debug!(group = %self.replica.group, %error, "raft has not seen a flush");
            return Ok(());
        }
        let (bytes, now) = (self.replica.applied_bytes(), self.context.now());
        let needs = self.needs();
        let upto = self.hold().handle_flushed(flushed.index, bytes, now, needs);
        match upto {
            Some(upto) => self.raft.trigger().purge_log(upto).await,
            None => Ok(()),
        }
    }

    /// Purges what was kept for members that have it now, or for too long.
    async fn purge_kept(&self) -> Result<(), errors::Fatal<Types<M>>> {
        let (purged, seen) = self.with_metrics(|metrics| (metrics.purged, metrics.snapshot));
        if purged >= seen {
            return Ok(());
        }
        let (bytes, now) = (self.replica.applied_bytes(), self.context.now());
        let needs = self.needs();
        let upto = self.hold().upto(bytes, now, needs);
        match upto.filter(|upto| purged.is_none_or(|purged| purged.index < *upto)) {
            Some(upto) => self.raft.trigger().purge_log(upto).await,
            None => Ok(()),
        }
    }

    fn hold(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What other members may lack.
    fn needs(&self) -> Needs {
        let own = *self.raft.node_id();
        let group = self.replica.group;
        self.with_metrics(|metrics| {
            if metrics.state != ServerState::Leader {
                return Needs::Unknown;
            }
            let matched = metrics.replication.iter().flatten();
            let others = matched.filter(|(id, _)| **id != own);
            let lacks = |matched: &Option<LogId>| matched.map_or(0, |matched| matched.index + 1);
            let member = others.map(|(_, matched)| lacks(matched)).min();
            let copy = self.context.copies.lowest(group).map(|upto| upto + 1);
            Needs::From(member.into_iter().chain(copy).min())
        })
    }

    /// Whether the leader is to confirm that it leads: the group was used lately, a voter is
    /// behind, or its members change.
    fn wants_heartbeat(&self) -> bool {
        self.with_metrics(|metrics| {
            let committed = metrics.committed_membership_config.log_id();
            let last = metrics.last_log_index;
            let mut voters = metrics.membership_config.voter_ids();
            let matched = |id| metrics.replication.as_ref()?.get(&id).copied().flatten();
            let is_behind = |id| matched(id).map(|matched| matched.index) < last;
            metrics.state == ServerState::Leader
                && (self.is_active()
                    || metrics.membership_config.log_id() != committed
                    || voters.any(|id| id != metrics.id && is_behind(id)))
        })
    }
}

/// A group of some machine.
pub(super) trait Drive: GroupControl {
    /// What this node says of the group, if it leads it and accepts proposals.
    fn claimed(&self) -> Option<Claim>;
    /// Whether it was used lately.
    fn is_active(&self) -> bool;
    /// What is due every [`HEARTBEAT`].
    fn beat(&self) -> Boxed<'_, ()>;
    /// Serves a member's request.
    fn serve(self: Arc<Self>, request: Incoming) -> Boxed<'static, ()>;
    /// A node is back: its members are sent at once what they lack, if this replica leads.
    fn reach(&self, node: NodeId) -> Boxed<'_, ()>;
    /// Whether a flush is due and none is under way.
    fn is_flush_due(&self) -> bool;
    /// Flushes, then purges the log.
    fn flush_and_purge(self: Arc<Self>, permits: Arc<Semaphore>) -> Boxed<'static, ()>;
    /// Ends the process if Raft has stopped by itself.
    fn check(&self);
    /// Flushes, for a close. Blocks.
    fn flush(&self) -> Result<(), state::Error>;
    fn stop(&self) -> Boxed<'_, ()>;
    /// Its [`Replica`].
    fn hosted(&self) -> Arc<dyn Any + Send + Sync>;
}

impl<M: Machine> Drive for Driven<M> {
    fn claimed(&self) -> Option<Claim> {
        self.claim()
    }

    fn is_active(&self) -> bool {
        let used = self.used_ms.load(Ordering::Relaxed);
        self.context.clock.mono_ms().saturating_sub(used) < ACTIVE_MS
    }

    fn beat(&self) -> Boxed<'_, ()> {
        Box::pin(async {
            self.check();
            self.forget_copy();
            if self.wants_heartbeat() {
                self.heartbeat().await;
            }
            if let Err(error) = self.purge_kept().await {
                tracing::debug!(group = %self.id(), %error, "raft stopped before a purge");
            }
        })
    }

    fn serve(self: Arc<Self>, request: Incoming) -> Boxed<'static, ()> {
        Box::pin(self.answer(request))
    }

    fn reach(&self, node: NodeId) -> Boxed<'_, ()> {
        Box::pin(async move {
            let there = self.with_metrics(|metrics| {
                let leads = metrics.state == ServerState::Leader;
                let members = metrics.membership_config.nodes();
                let there = members.filter(|(_, at)| leads && **at == node);
                there.map(|(id, _)| *id).collect::<Vec<_>>()
            });
            if !there.is_empty() {
                // As with heartbeats: whether Raft has stopped is asked elsewhere.
                let _ = self.raft.trigger().reset_backoff(there).await;
                self.heartbeat().await;
            }
        })
    }

    fn is_flush_due(&self) -> bool {
        !self.flushing.load(Ordering::Acquire) && self.replica.is_flush_due()
    }

    fn flush_and_purge(self: Arc<Self>, permits: Arc<Semaphore>) -> Boxed<'static, ()> {
        self.flushing.store(true, Ordering::Release);
        Box::pin(async move {
            let permit = permits.acquire().await;
            let replica = Arc::clone(&self.replica);
            let blocking = self.context.blocking;
            let flushed = blocking.run(move || replica.flush()).await;
            drop(permit);
            match flushed {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(flushed))) => {
                    if let Err(error) = self.purge(flushed).await {
                        tracing::debug!(group = %self.id(), %error, "raft stopped before a purge");
                    }
                }
                // Said already; it is due again later.
                Ok(Err(error)) if error.may_pass() => {
                    tracing::debug!(group = %self.id(), %error, "a flush waits for space");
                }
                Ok(Err(error)) => drop(self.replica.failed(error)),
                Err(error) if error.is_panic() => self.context.latch.raise(Fatal::Broken {
                    group: self.id(),
                    why: "a flush panicked".to_owned(),
                }),
                // The runtime ends.
                Err(_) => {}
            }
            self.flushing.store(false, Ordering::Release);
        })
    }

    fn check(&self) {
        let state = self.with_metrics(|metrics| metrics.running_state.clone());
        if let Err(error @ (errors::Fatal::Panicked | errors::Fatal::StorageError(_))) = state {
            self.context.latch.raise(Fatal::Broken {
                group: self.id(),
                why: error.to_string(),
            });
        }
    }

    fn flush(&self) -> Result<(), state::Error> {
        self.replica.flush().map(drop)
    }

    fn stop(&self) -> Boxed<'_, ()> {
        Box::pin(async {
            if let Err(error) = self.raft.shutdown().await {
                tracing::error!(group = %self.id(), %error, "a group stopped in disorder");
            }
        })
    }

    fn hosted(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::clone(&self.replica) as _
    }
}

/// Drives the groups of a node until it is closed or forgotten.
pub(super) async fn drive(node: Weak<Inner>, context: Arc<Context>) {
    let permits = Arc::new(Semaphore::new(FLUSHES_MAX));
    let mut beats = tokio::time::interval(HEARTBEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both are cancel-safe.
        let beats = tokio::select! {
            _ = beats.tick() => true,
            () = context.wake.notified() => false,
        };
        let Some(groups) = node.upgrade().and_then(|node| node.open_groups()) else {
            return;
        };
        for group in groups {
            if group.is_flush_due() {
                tokio::spawn(Arc::clone(&group).flush_and_purge(Arc::clone(&permits)));
            }
            if beats {
                group.beat().await;
            }
        }
    }
}
