//! Sends established clients to the node that leads their shard, at a rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use admin::cluster::Rebalancing;
use tokio::sync::{mpsc, oneshot};

use crate::io::{IoMessage, Threads};

/// Connections that are looked at before it is waited for the rate.
const LOOKED_AT_ONCE: usize = 256;
/// Pause between two looks at all connections.
const PAUSE: Duration = Duration::from_secs(1);
/// Looks at all connections: who has come back in between, or was told of late, is not waited for.
const PASSES_MAX: u32 = 3;

/// The rebalance of a node; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rebalance(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_running: AtomicBool,
    per_s: AtomicU32,
    looked_at: AtomicU64,
    left: AtomicU64,
    sent: AtomicU64,
}

/// A question to a connection: whether it should be elsewhere, and, as long as there are grants, to go there.
/// Once all have answered, or ended, nobody holds the sender any more.
#[derive(Clone, Debug)]
pub(crate) struct HomeAsked {
    /// Whether clean sessions go too.
    pub(crate) clean: bool,
    pub(crate) count: Arc<Counted>,
    _tell: mpsc::Sender<()>,
}

/// What the connections of one look have said.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// How many may go.
    grants: AtomicU32,
    looked_at: AtomicU64,
    misplaced: AtomicU64,
    sent: AtomicU64,
}

impl Counted {
    /// A client is where it is to be, or stays where it is.
    pub(crate) fn stays(&self) {
        self.looked_at.fetch_add(1, Ordering::Relaxed);
    }

    /// A client should be elsewhere; whether it may go now.
    pub(crate) fn is_misplaced(&self) -> bool {
        self.looked_at.fetch_add(1, Ordering::Relaxed);
        self.misplaced.fetch_add(1, Ordering::Relaxed);
        let order = Ordering::Relaxed;
        let taken = self
            .grants
            .fetch_update(order, order, |grants| grants.checked_sub(1));
        taken.is_ok()
    }

    /// It goes.
    pub(crate) fn goes(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }
}

impl Rebalance {
    /// Begins to send clients away, `per_s` of them a second; one that is under way goes on at this rate.
    pub(crate) fn begin(&self, threads: &Threads, per_s: u32, clean: bool) {
        self.0.per_s.store(per_s.max(1), Ordering::Relaxed);
        if self.0.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        self.0.sent.store(0, Ordering::Relaxed);
        let (this, threads) = (self.clone(), threads.clone());
        tokio::spawn(async move {
            this.run(&threads, clean).await;
            let sent = this.0.sent.load(Ordering::Relaxed);
            tracing::info!(sent, "clients were sent to the nodes of their shards");
            this.0.is_running.store(false, Ordering::Release);
        });
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> Rebalancing {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Rebalancing {
            node: 0,
            is_running: self.0.is_running.load(Ordering::Acquire),
            per_s: self.0.per_s.load(Ordering::Relaxed),
            looked_at: of(&self.0.looked_at),
            left: of(&self.0.left),
            sent: of(&self.0.sent),
            silent: None,
        }
    }

    /// How many clients there are that should be elsewhere; nobody goes.
    pub(crate) async fn count(threads: &Threads, clean: bool) -> Rebalancing {
        let mut found = Rebalancing::default();
        for thread in 0..threads.len() {
            let mut at = Some(0);
            while let Some(from) = at {
                let (counted, next) = look(threads, thread, from, 0, clean).await;
                found.looked_at += counted.looked_at.load(Ordering::Relaxed);
                found.left += counted.misplaced.load(Ordering::Relaxed);
                at = next;
            }
        }
        found
    }

    async fn run(&self, threads: &Threads, clean: bool) {
        for pass in 0..PASSES_MAX {
            if pass > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            if self.pass(threads, clean).await == 0 {
                return;
            }
        }
    }

    /// Looks at all connections until none has to wait for the rate; how many were sent away.
    async fn pass(&self, threads: &Threads, clean: bool) -> u64 {
        let mut went = 0;
        let (mut looked_at, mut left) = (0, 0);
        for thread in 0..threads.len() {
            let mut at = Some(0);
            while let Some(from) = at {
                let per_s = self.0.per_s.load(Ordering::Relaxed);
                let grants = (per_s / 10).max(1);
                let (counted, next) = look(threads, thread, from, grants, clean).await;
                let sent = counted.sent.load(Ordering::Relaxed);
                let misplaced = counted.misplaced.load(Ordering::Relaxed);
                went += sent;
                self.0.sent.fetch_add(sent, Ordering::Relaxed);
                if sent > 0 {
                    tokio::time::sleep(Duration::from_secs(1) * sent as u32 / per_s).await;
                }
                // As long as some of these could go and had no grant, they are looked at again.
                let is_cut_short = sent == u64::from(grants) && misplaced > sent;
                at = match is_cut_short {
                    true => at,
                    false => next,
                };
                if !is_cut_short {
                    looked_at += counted.looked_at.load(Ordering::Relaxed);
                    left += misplaced - sent;
                }
                self.0.looked_at.store(looked_at, Ordering::Relaxed);
                self.0.left.store(left, Ordering::Relaxed);
            }
        }
        went
    }
}

/// Asks some connections of a thread; what they said, and where the others begin.
async fn look(
    threads: &Threads,
    thread: usize,
    from: usize,
    grants: u32,
    clean: bool,
) -> (Arc<Counted>, Option<usize>) {
    let count = Arc::new(Counted {
        grants: AtomicU32::new(grants),
        ..Counted::default()
    });
    let (tell, mut told) = mpsc::channel(1);
    let asked = HomeAsked {
        clean,
        count: Arc::clone(&count),
        _tell: tell,
    };
    let (next, is_next) = oneshot::channel();
    let message = IoMessage::GoHome {
        from,
        count: LOOKED_AT_ONCE,
        asked,
        next,
    };
    threads.send(thread, message).await;
    // A thread that has ended says nothing, and has no others.
    let next = is_next.await.unwrap_or(None);
    // Nothing is ever sent: it ends once all have answered.
    let _ = told.recv().await;
    (count, next)
}
