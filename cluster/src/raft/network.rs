//! The way to the other members of a group: requests over the links of the node.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use cluster_core::NodeId;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2, Snapshot};
use storage::raft::GroupId;

use super::replica::{Context, View};
use super::sending;
use super::traffic::Carries;
use super::types::{LeaderId, Types, Vote};
use super::wire::{self, Campaign, Reply, Request};
use crate::link::{Ask, Channel, Lane, Peer, RequestError};
use crate::machine::Machine;

/// How long a request waits that the peer's grant has no room for, before Raft asks again.
const BUSY_DELAY: Duration = Duration::from_millis(20);

/// The way to the members of one group.
pub(super) struct Network<M> {
    context: Arc<Context>,
    group: GroupId,
    own: u64,
    machine: PhantomData<fn() -> M>,
}

impl<M> Network<M> {
    pub(super) fn new(context: Arc<Context>, group: GroupId, own: u64) -> Self {
        Self {
            context,
            group,
            own,
            machine: PhantomData,
        }
    }
}

impl<M: Machine> RaftNetworkFactory<Types<M>> for Network<M> {
    type Network = Member<M>;

    async fn new_client(&mut self, target: u64, node: &NodeId) -> Member<M> {
        Member {
            context: Arc::clone(&self.context),
            group: self.group,
            own: self.own,
            target,
            node: *node,
            machine: PhantomData,
        }
    }
}

/// The way to one member.
pub(super) struct Member<M> {
    context: Arc<Context>,
    group: GroupId,
    own: u64,
    target: u64,
    node: NodeId,
    machine: PhantomData<fn() -> M>,
}

/// Why a member gave no answer.
pub(super) enum Unanswered {
    /// It cannot be reached: trying at once again is of no use.
    Unreachable(String),
    /// It was reached, and the answer is lost or makes no sense.
    Network(String),
    /// It took too long.
    Timeout,
}

impl<M: Machine> Member<M> {
    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn group(&self) -> GroupId {
        self.group
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    fn peer(&self) -> Result<Peer, Unanswered> {
        let links = self.context.links.get();
        let peer = links.and_then(|links| links.peer(self.node));
        peer.ok_or_else(|| Unanswered::Unreachable(format!("node {} is not linked", self.node)))
    }

    /// Asks the member. Cancelled, it may have been asked all the same.
    pub(super) async fn ask(
        &self,
        lane: Lane,
        request: &Request,
        deadline: Duration,
    ) -> Result<Reply, Unanswered> {
        let payload = wire::write_request(self.target, request);
        let bytes = payload.len();
        let ask = Ask {
            channel: Channel {
                kind: wire::kind(request),
                group: self.group.0,
            },
            payload,
            reply_bytes_max: wire::REPLY_BYTES_MAX,
            deadline,
        };
        let reply = self.peer()?.request(lane, ask).await;
        if reply.is_ok() {
            let sent = &self.context.traffic.sent;
            sent.count(Carries::of(request), bytes);
        }
        match reply {
            Ok(reply) => wire::read_reply(&reply)
                .map_err(|error| Unanswered::Network(format!("node {}: {error}", self.node))),
            Err(RequestError::Deadline { .. }) => Err(Unanswered::Timeout),
            Err(error @ RequestError::Busy { .. }) => {
                tokio::time::sleep(BUSY_DELAY).await;
                Err(Unanswered::Network(error.to_string()))
            }
            Err(error @ RequestError::Lost { .. }) => Err(Unanswered::Network(error.to_string())),
            // Not connected; or nobody there answers for the replica.
            Err(error) => Err(Unanswered::Unreachable(error.to_string())),
        }
    }

    async fn rpc(
        &self,
        action: RPCTypes,
        lane: Lane,
        request: Request,
        option: &RPCOption,
    ) -> Result<Reply, RPCError<Types<M>>> {
        let deadline = option.soft_ttl();
        let reply = self.ask(lane, &request, deadline).await;
        reply.map_err(|why| self.error(action, deadline, why))
    }

    pub(super) fn error(
        &self,
        action: RPCTypes,
        timeout: Duration,
        why: Unanswered,
    ) -> RPCError<Types<M>> {
        match why {
            Unanswered::Unreachable(why) => Unreachable::from_string(why).into(),
            Unanswered::Network(why) => NetworkError::from_string(why).into(),
            Unanswered::Timeout => Timeout {
                action,
                id: self.own,
                target: self.target,
                timeout,
            }
            .into(),
        }
    }

    pub(super) fn senseless(&self, reply: &Reply) -> Unanswered {
        Unanswered::Network(format!("node {} answered {reply:?}", self.node))
    }

    async fn campaign(
        &self,
        rpc: VoteRequest<Types<M>>,
        of: impl FnOnce(Campaign) -> Request,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types<M>>, RPCError<Types<M>>> {
        let request = of(Campaign {
            vote: rpc.vote,
            last: rpc.last_log_id,
            is_transfer: rpc.leadership_transfer,
        });
        let reply = self.rpc(RPCTypes::Vote, Lane::Control, request, option);
        match reply.await? {
            Reply::Voted {
                vote,
                granted,
                last,
            } => Ok(VoteResponse::new(vote, last, granted)),
            other => {
                let why = self.senseless(&other);
                Err(self.error(RPCTypes::Vote, option.soft_ttl(), why))
            }
        }
    }
}

impl<M: Machine> RaftNetworkV2<Types<M>> for Member<M> {
    type SnapshotData = View;

    /// Heartbeats, which are short and urgent, go by another lane than entries. How many bytes go
    /// together the reader of the log decides.
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types<M>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<M>>, RPCError<Types<M>>> {
        let lane = match rpc.entries.is_empty() {
            true => Lane::Control,
            false => Lane::Requests,
        };
        let request = Request::Append {
            vote: rpc.vote,
            prev: rpc.prev_log_id,
            commit: rpc.leader_commit,
            entries: rpc.entries,
        };
        let reply = self.rpc(RPCTypes::AppendEntries, lane, request, &option);
        match reply.await? {
            Reply::Done => Ok(AppendEntriesResponse::Success),
            Reply::Partly(upto) => Ok(AppendEntriesResponse::PartialSuccess(upto)),
            Reply::Conflict => Ok(AppendEntriesResponse::Conflict),
            Reply::Higher(vote) => Ok(AppendEntriesResponse::HigherVote(vote)),
            other => {
                let why = self.senseless(&other);
                Err(self.error(RPCTypes::AppendEntries, option.soft_ttl(), why))
            }
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types<M>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<M>>, RPCError<Types<M>>> {
        self.campaign(rpc, Request::Vote, &option).await
    }

    /// The default would grant a vote in the name of somebody who was not asked.
    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types<M>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<M>>, RPCError<Types<M>>> {
        self.campaign(rpc, Request::PreVote, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<LeaderId, u64, NodeId, View>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types<M>>, StreamingError<Types<M>>> {
        sending::send(self, vote, snapshot, cancel).await
    }

    /// The default would tell nobody.
    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types<M>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<M>>, RPCError<Types<M>>> {
        let request = Request::Transfer {
            from: *rpc.from_leader(),
            to: *rpc.to_node_id(),
            last: rpc.last_log_id().copied(),
        };
        let reply = self.rpc(RPCTypes::TransferLeader, Lane::Control, request, &option);
        match reply.await? {
            Reply::Done => Ok(Ok(())),
            Reply::OtherVote { expected, actual } => {
                Ok(Err(TransferLeaderError::VoteChanged { expected, actual }))
            }
            Reply::NotFlushed { expected, actual } => {
                Ok(Err(TransferLeaderError::LogNotFlushed { expected, actual }))
            }
            other => {
                let why = self.senseless(&other);
                Err(self.error(RPCTypes::TransferLeader, option.soft_ttl(), why))
            }
        }
    }
}
