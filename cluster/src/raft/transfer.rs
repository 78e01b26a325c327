//! Handing a group over to another voter, and taking it back when that one does not take it.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cluster_core::RaftId;
use openraft::ServerState;
use openraft::errors::Fatal;
use openraft::raft::VoteRequest;

use super::control::ControlError;
use super::driver::Driven;
use super::group::RaftOf;
use super::types::{Types, Vote};
use crate::machine::Machine;

/// How long the target may take before this node takes the group back.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an election of this node may take before it stands for the next one.
const ELECTION_RETRY: Duration = Duration::from_millis(500);
/// How often it stands. Whoever watches over the group goes on from there.
const ELECTIONS_MAX: u32 = 20;

impl<M: Machine> Driven<M> {
    pub(super) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    /// See [`super::GroupControl::transfer`]. Raft takes no proposal from here on until somebody
    /// was elected, so the rest goes on when nobody waits for it.
    pub(super) fn hand_over(
        &self,
        to: RaftId,
    ) -> impl Future<Output = Result<(), ControlError>> + Send + use<M> {
        let begun = self.begin_transfer(to);
        let (raft, handed_over) = (self.raft.clone(), self.handed_over.clone());
        let watched = self.leader.clone();
        async move {
            let Some(term) = begun? else { return Ok(()) };
            let task = tokio::spawn(async move {
                let taken = transfer(&raft, term, to).await;
                handed_over.store(false, Ordering::Release);
                // An election that this replica has won was told before it took proposals again.
                watched.send_modify(|_| {});
                taken.unwrap_or(Err(ControlError::Lost))
            });
            task.await.unwrap_or(Err(ControlError::Lost))
        }
    }

    /// Hands the group over to the voter that is nearest, if this replica leads without being one.
    pub(super) fn step_aside(&self) {
        let own = *self.raft.node_id();
        let nearest = self.with_metrics(|metrics| {
            let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
            let is_left = metrics.state == ServerState::Leader && !voters.contains(&own);
            let matched = |id: &u64| metrics.replication.as_ref()?.get(id).copied().flatten();
            voters.into_iter().filter(|_| is_left).max_by_key(matched)
        });
        if let Some(to) = nearest {
            let handing = self.hand_over(RaftId(to));
            let group = self.replica.group;
            tokio::spawn(async move {
                if let Err(error) = handing.await {
                    tracing::debug!(%group, %error, "a leader that is no voter was not relieved");
                }
            });
        }
    }

    /// The term in which this replica leads; none if the target leads already.
    fn begin_transfer(&self, to: RaftId) -> Result<Option<u64>, ControlError> {
        if self.known_leader().map(|leader| leader.replica) == Some(to) {
            return Ok(None);
        }
        let (leads, term) = self.with_metrics(|metrics| {
            let leads = metrics.state == ServerState::Leader;
            (leads, metrics.current_term)
        });
        if !leads {
            return Err(ControlError::Unavailable(self.unavailable()));
        }
        let is_voter = self.with_metrics(|metrics| {
            let mut voters = metrics.membership_config.voter_ids();
            voters.any(|id| id == to.0)
        });
        if !is_voter {
            let why = format!("replica {to} is no voter of the group");
            return Err(ControlError::Refused(why));
        }
        match self.handed_over.swap(true, Ordering::AcqRel) {
            true => Err(ControlError::Busy("the group is being handed over".into())),
            false => Ok(Some(term)),
        }
    }
}

async fn transfer<M: Machine>(
    raft: &RaftOf<M>,
    term: u64,
    to: RaftId,
) -> Result<Result<(), ControlError>, Fatal<Types<M>>> {
    raft.trigger().transfer_leader(to.0).await?;
    let wait = raft.wait(Some(PATIENCE));
    let is_over = |leader: Option<u64>, now: u64| now > term && leader.is_some();
    let over = wait.metrics(|m| is_over(m.current_leader, m.current_term), "transferred");
    if let Ok(metrics) = over.await {
        let taken = metrics.current_leader == Some(to.0);
        return Ok(taken.then_some(()).ok_or(ControlError::NotTaken(to)));
    }
    for _ in 0..ELECTIONS_MAX {
        take_back(raft, term, to).await?;
        let wait = raft.wait(Some(ELECTION_RETRY));
        let over = wait.metrics(|m| is_over(m.current_leader, m.current_term), "led again");
        if over.await.is_ok() {
            break;
        }
    }
    Ok(Err(ControlError::NotTaken(to)))
}

/// Stands for election. A leader that hands over stays one until it sees a higher vote, and does
/// not stand for election itself: so it is shown the vote that the target would ask for. It is
/// granted by this replica alone, and the target, should it ask for it after all, has to show its
/// log as anybody.
async fn take_back<M: Machine>(
    raft: &RaftOf<M>,
    term: u64,
    to: RaftId,
) -> Result<(), Fatal<Types<M>>> {
    let (state, last) = raft
        .with_raft_state(|state| (state.server_state, state.log_ids.last().copied()))
        .await?;
    if state == ServerState::Leader {
        let vote = Vote::new(term + 1, to.0);
        let request = VoteRequest {
            leadership_transfer: true,
            ..VoteRequest::new(vote, last)
        };
        if let Err(openraft::errors::RaftError::Fatal(fatal)) = raft.vote(request).await {
            return Err(fatal);
        }
    }
    raft.trigger().elect(true).await
}
