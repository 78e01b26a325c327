//! The types with which openraft is used: everything but the machine's answer is the same for all
//! groups.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use cluster_core::NodeId;
use openraft::impls::{BoxedErrorSource, InlineBatch, OneshotResponder, leader_id_adv};
use openraft::vote::RaftLeaderId;
use openraft::{OptionalSend, RaftTypeConfig};

use super::async_runtime::Runtime;
use crate::machine::Machine;

/// Which leader of which term. A term may have several leaders, one after the other: votes are ordered
/// by the term and then by the replica, and who has voted for one may vote for a greater one.
pub(super) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
type CommittedLeaderId = <LeaderId as RaftLeaderId>::Committed;
pub(super) type LogId = openraft::LogId<CommittedLeaderId>;
pub(super) type Vote = openraft::Vote<LeaderId>;
/// Each member with the node on which it is; where that node listens, the links know.
pub(super) type Membership = openraft::Membership<u64, NodeId>;
pub(super) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, NodeId>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, NodeId>;
pub(super) type Payload = openraft::EntryPayload<Command, u64, NodeId>;
pub(super) type Entry = openraft::Entry<CommittedLeaderId, Payload>;

/// The types of a group that replicates `M`.
pub(super) struct Types<M>(PhantomData<fn() -> M>);

impl<M: Machine> RaftTypeConfig for Types<M> {
    type D = Command;
    /// Entries of Raft itself have no answer.
    type R = Option<M::Answer>;
    /// What [`cluster_core::RaftId`] numbers.
    type NodeId = u64;
    type Node = NodeId;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

impl<M> fmt::Debug for Types<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}

impl<M> Clone for Types<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Types<M> {}

impl<M> Default for Types<M> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<M> PartialEq for Types<M> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<M> Eq for Types<M> {}

impl<M> PartialOrd for Types<M> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<M> Ord for Types<M> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

/// An entry of the machine, as bytes. Logs show its length only: it may hold what nobody is to read.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Command(pub(super) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
