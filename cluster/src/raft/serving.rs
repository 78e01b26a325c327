//! What other members ask of a replica here.

use std::future::Future;
use std::sync::Arc;

use openraft::errors::{Fatal, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};

use super::driver::Driven;
use super::traffic::Carries;
use super::types::Types;
use super::wire::{self, Campaign, Reply, Request};
use crate::link::Incoming;
use crate::machine::Machine;

/// Requests of other members that are served at once on a node; the peers' grants are the narrower
/// bound as long as they are few. One more gets no answer, and is sent again.
pub(super) const SERVED_MAX: usize = 16_384;

impl<M: Machine> Driven<M> {
    /// Answers a request, if it is for this replica, can be read, and Raft runs.
    pub(super) async fn answer(self: Arc<Self>, incoming: Incoming) {
        let Incoming {
            channel,
            payload,
            responder,
            from,
            ..
        } = incoming;
        let request = match wire::read_request(channel.kind, &payload) {
            Ok((target, request)) if target == *self.raft.node_id() => request,
            // It was replaced by another on this node; the sender learns so from its own log.
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(group = %self.replica.group, node = %from, %error,
                    "a member's request cannot be read");
                return;
            }
        };
        let received = &self.replica.traffic().received;
        received.count(Carries::of(&request), payload.len());
        drop(payload);
        match self.reply(request).await {
            Ok(reply) => responder.reply(wire::write_reply(&reply)),
            // Whether Raft has stopped is asked elsewhere.
            Err(error) => {
                tracing::debug!(group = %self.replica.group, %error, "a request got no answer");
            }
        }
    }

    async fn reply(&self, request: Request) -> Result<Reply, Fatal<Types<M>>> {
        Ok(match request {
            Request::Append {
                vote,
                prev,
                commit,
                entries,
            } => {
                let appended = self.raft.append_entries(AppendEntriesRequest {
                    vote,
                    prev_log_id: prev,
                    entries,
                    leader_commit: commit,
                });
                let appended = fatal(appended).await?;
                if !matches!(appended, AppendEntriesResponse::HigherVote(_)) {
                    self.hear_leader();
                }
                match appended {
                    AppendEntriesResponse::Success => Reply::Done,
                    AppendEntriesResponse::PartialSuccess(upto) => Reply::Partly(upto),
                    AppendEntriesResponse::Conflict => Reply::Conflict,
                    AppendEntriesResponse::HigherVote(vote) => Reply::Higher(vote),
                }
            }
            Request::Vote(campaign) => {
                let response = fatal(self.raft.vote(asked(&campaign))).await?;
                if response.vote_granted {
                    self.hear_candidate();
                }
                voted(&response)
            }
            Request::PreVote(campaign) => {
                voted(&fatal(self.raft.pre_vote(asked(&campaign))).await?)
            }
            Request::Transfer { from, to, last } => {
                let request = TransferLeaderRequest::new(from, to, last);
                match self.raft.handle_transfer_leader(request).await? {
                    Ok(()) => Reply::Done,
                    Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                        Reply::OtherVote { expected, actual }
                    }
                    Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                        Reply::NotFlushed { expected, actual }
                    }
                }
            }
            Request::Snapshot(part) => self.take_part(part).await?,
        })
    }
}

fn asked<M: Machine>(campaign: &Campaign) -> VoteRequest<Types<M>> {
    VoteRequest {
        vote: campaign.vote,
        last_log_id: campaign.last,
        leadership_transfer: campaign.is_transfer,
    }
}

fn voted<M: Machine>(response: &VoteResponse<Types<M>>) -> Reply {
    Reply::Voted {
        vote: response.vote,
        granted: response.vote_granted,
        last: response.last_log_id,
    }
}

/// What has no other error than that Raft has stopped.
pub(super) async fn fatal<M: Machine, T>(
    answer: impl Future<Output = Result<T, RaftError<Types<M>>>>,
) -> Result<T, Fatal<Types<M>>> {
    answer.await.map_err(|error| match error {
        RaftError::Fatal(fatal) => fatal,
        RaftError::APIError(never) => match never {},
    })
}
