//! Waking a group that sleeps, and trying again.

use std::future::Future;
use std::time::Duration;

use cluster_core::Unavailable;
use openraft::errors::{ForwardReason, ForwardToLeader};
use tokio::time::Instant;

use super::driver::Driven;
use super::types::Types;
use crate::machine::Machine;

/// How long a group that is asked to wake may take before it is asked again.
const WAKE_RETRY: Duration = Duration::from_millis(20);
/// How often it is asked.
const WAKE_TRIES_MAX: u32 = 100;
/// After how long it is not asked again: a read without a quorum ends a lease later only, each time.
const WAKE: Duration = Duration::from_secs(2);

/// What became of one attempt.
pub(super) enum Attempt<T> {
    Done(T),
    /// No quorum confirmed the leader lately: nothing was appended, it is to be woken.
    Asleep,
    Unavailable(Unavailable),
    Lost,
}

impl<M: Machine> Driven<M> {
    /// Tries until the group is awake, within a bound; the error is `None` if the outcome is not
    /// known.
    pub(super) async fn awake<T, F: Future<Output = Attempt<T>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T, Option<Unavailable>> {
        let until = Instant::now() + WAKE;
        for tries in 0..WAKE_TRIES_MAX {
            if tries > 0 && Instant::now() >= until {
                break;
            }
            match attempt().await {
                Attempt::Done(done) => return Ok(done),
                Attempt::Unavailable(why) => return Err(Some(why)),
                Attempt::Lost => return Err(None),
                Attempt::Asleep => {}
            }
            let before = self.with_metrics(|metrics| metrics.last_quorum_acked);
            if self.raft.trigger().heartbeat().await.is_err() {
                return Err(Some(Unavailable::NoLeader));
            }
            let wait = self.raft.wait(Some(WAKE_RETRY));
            let woken = wait.metrics(|metrics| metrics.last_quorum_acked != before, "woken");
            // Late or stopped: the next attempt says so.
            let _ = woken.await;
        }
        Err(Some(Unavailable::LeaseExpired))
    }

    /// Where Raft sends what it did not append.
    pub(super) fn elsewhere<T>(&self, forward: &ForwardToLeader<Types<M>>) -> Attempt<T> {
        if forward.reason == ForwardReason::LeaseExpired {
            return Attempt::Asleep;
        }
        // It may not lead yet, or not any more; a transfer names who is to lead.
        let led = forward.leader_node.filter(|node| *node != self.node());
        Attempt::Unavailable(led.map_or(Unavailable::NoLeader, Unavailable::Led))
    }
}
