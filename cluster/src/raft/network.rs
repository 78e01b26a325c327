//! The way to the other members: there is none yet, a group has one voter.

use std::future::Future;
use std::marker::PhantomData;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2, Snapshot};

use super::replica::View;
use super::types::{LeaderId, Types, Vote};
use crate::machine::Machine;

/// A way to nobody: whoever is asked cannot be reached.
pub(super) struct NoNetwork<M>(PhantomData<fn() -> M>);

impl<M> NoNetwork<M> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<M: Machine> RaftNetworkFactory<Types<M>> for NoNetwork<M> {
    type Network = Self;

    async fn new_client(&mut self, _target: u64, _node: &()) -> Self {
        Self::new()
    }
}

impl<M: Machine> RaftNetworkV2<Types<M>> for NoNetwork<M> {
    type SnapshotData = View;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<Types<M>>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<M>>, RPCError<Types<M>>> {
        Err(unreachable().into())
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<Types<M>>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types<M>>, RPCError<Types<M>>> {
        Err(unreachable().into())
    }

    /// The default would grant a vote in the name of somebody who was not asked.
    async fn pre_vote(
        &mut self,
        _rpc: VoteRequest<Types<M>>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types<M>>, RPCError<Types<M>>> {
        Err(unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: Snapshot<LeaderId, u64, (), View>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types<M>>, StreamingError<Types<M>>> {
        Err(unreachable().into())
    }
}

fn unreachable<M: Machine>() -> Unreachable<Types<M>> {
    Unreachable::new(&AnyError::error("there is no way to other nodes yet"))
}
