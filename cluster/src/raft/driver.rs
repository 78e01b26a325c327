//! What Raft does not do by itself here: heartbeats of the groups that are in use, flushes of
//! their states, and purges of what is flushed. Groups have no ticks of their own.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors;
use storage::raft::GroupId;
use storage::state;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

use super::failure::Fatal;
use super::group::RaftOf;
use super::node::Inner;
use super::replica::{Context, Replica};
use super::types::LogId;
use crate::machine::Machine;

/// How often the leader of a group in use confirms that it leads.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long after the last proposal or read a group sleeps.
const ACTIVE_MS: u64 = 10_000;
/// Flushes at once on a node.
pub(super) const FLUSHES_MAX: usize = 2;
/// How long Raft may take to see a flush; the next one purges what this one did not.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(10);

/// A future of a group whose machine is not known.
type Task<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A group, as the driver has it.
pub(super) struct Driven<M: Machine> {
    pub(super) raft: RaftOf<M>,
    pub(super) replica: Arc<Replica<M>>,
    context: Arc<Context>,
    /// When it was used last, in milliseconds of the clock.
    used_ms: AtomicU64,
    flushing: AtomicBool,
}

impl<M: Machine> Driven<M> {
    pub(super) fn new(raft: RaftOf<M>, replica: Arc<Replica<M>>, context: Arc<Context>) -> Self {
        let used_ms = AtomicU64::new(context.clock.mono_ms());
        Self {
            raft,
            replica,
            context,
            used_ms,
            flushing: AtomicBool::new(false),
        }
    }

    /// Keeps the group awake for a while.
    pub(super) fn touch(&self) {
        let now = self.context.clock.mono_ms();
        self.used_ms.store(now, Ordering::Relaxed);
    }

    /// Lets Raft know that everything up to here is flushed, and purges that.
    pub(super) async fn purge(
        &self,
        flushed: LogId,
    ) -> Result<(), errors::Fatal<super::types::Types<M>>> {
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
        self.raft.trigger().purge_log(flushed.index).await
    }
}

/// A group of some machine.
pub(super) trait Drive: Send + Sync {
    fn id(&self) -> GroupId;
    /// Whether it was used lately.
    fn is_active(&self) -> bool;
    fn heartbeat(&self) -> Task<'_, ()>;
    /// Whether a flush is due and none is under way.
    fn is_flush_due(&self) -> bool;
    /// Flushes, then purges the log.
    fn flush_and_purge(self: Arc<Self>, permits: Arc<Semaphore>) -> Task<'static, ()>;
    /// Ends the process if Raft has stopped by itself.
    fn check(&self);
    /// Flushes, for a close. Blocks.
    fn flush(&self) -> Result<(), state::Error>;
    fn stop(&self) -> Task<'_, ()>;
}

impl<M: Machine> Drive for Driven<M> {
    fn id(&self) -> GroupId {
        self.replica.group
    }

    fn is_active(&self) -> bool {
        let used = self.used_ms.load(Ordering::Relaxed);
        self.context.clock.mono_ms().saturating_sub(used) < ACTIVE_MS
    }

    fn heartbeat(&self) -> Task<'_, ()> {
        Box::pin(async {
            // Not under a timeout: a Raft that has stopped is joined here, and whoever is cancelled
            // while he joins leaves all others waiting. Whether it stopped is asked elsewhere.
            let _ = self.raft.trigger().heartbeat().await;
        })
    }

    fn is_flush_due(&self) -> bool {
        !self.flushing.load(Ordering::Acquire) && self.replica.is_flush_due()
    }

    fn flush_and_purge(self: Arc<Self>, permits: Arc<Semaphore>) -> Task<'static, ()> {
        self.flushing.store(true, Ordering::Release);
        Box::pin(async move {
            let permit = permits.acquire().await;
            let replica = Arc::clone(&self.replica);
            let flushed = tokio::task::spawn_blocking(move || replica.flush()).await;
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
        let metrics = self.raft.metrics();
        let state = metrics.borrow_watched().running_state.clone();
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

    fn stop(&self) -> Task<'_, ()> {
        Box::pin(async {
            if let Err(error) = self.raft.shutdown().await {
                tracing::error!(group = %self.id(), %error, "a group stopped in disorder");
            }
        })
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
                group.check();
                if group.is_active() {
                    group.heartbeat().await;
                }
            }
        }
    }
}
