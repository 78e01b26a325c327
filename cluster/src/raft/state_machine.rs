//! The replica of a group, as Raft wants to see it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use cluster_core::NodeId;
use futures_core::Stream;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder, Snapshot};

use super::failure::stop;
use super::replica::{Replica, View};
use super::types::{LeaderId, LogId, SnapshotMeta, StoredMembership, Types};
use crate::machine::Machine;

/// What a Raft is told that is to change a replica which goes on under another.
const OVER: &str = "the replica goes on under another Raft id";

type RaftSnapshot = Snapshot<LeaderId, u64, NodeId, View>;

/// The replica, shared with the handles of its group.
pub(super) struct Hosting<M: Machine> {
    replica: Arc<Replica<M>>,
    /// See [`Replica::begin_run`].
    run: u64,
}

impl<M: Machine> Hosting<M> {
    /// From now on this one alone changes the replica.
    pub(super) fn new(replica: Arc<Replica<M>>) -> Self {
        let run = replica.begin_run();
        Self { replica, run }
    }
}

impl<M: Machine> RaftStateMachine<Types<M>> for Hosting<M> {
    type SnapshotData = View;
    type SnapshotBuilder = Builder<M>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok(self.replica.applied_state())
    }

    /// Applies what was committed together under one lock, then answers.
    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types<M>>>> + Unpin + OptionalSend,
    {
        let (mut batch, mut responders) = (Vec::new(), Vec::new());
        while let Some(next) = poll_fn(|cx| Pin::new(&mut entries).poll_next(cx)).await {
            let (entry, responder) = next?;
            batch.push(entry);
            responders.push(responder);
        }
        let answers = self.replica.apply_in(self.run, &batch);
        let answers = answers.map_err(|fatal| self.replica.fail(fatal))?;
        let answers = answers.ok_or_else(|| stop(OVER))?;
        for (responder, answer) in responders.into_iter().zip(answers) {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    /// Not forced, after a flush: shows that one. Forced: flushes before.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder<M>> {
        Some(Builder {
            replica: Arc::clone(&self.replica),
            fresh: force,
        })
    }

    async fn get_snapshot_builder(&mut self) -> Builder<M> {
        Builder {
            replica: Arc::clone(&self.replica),
            fresh: true,
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, view: View) -> io::Result<()> {
        let (replica, run, meta) = (Arc::clone(&self.replica), self.run, meta.clone());
        let blocking = replica.blocking();
        blocking
            .run(move || replica.install_in(run, &meta, view))
            .await
            .map_err(stop)?
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        let (meta, snapshot) = view(&self.replica, false).await?;
        let is_there = meta.last_log_id.is_some();
        Ok(is_there.then_some(Snapshot { meta, snapshot }))
    }
}

/// Shows the state of the last flush; nothing is copied.
pub(super) struct Builder<M: Machine> {
    replica: Arc<Replica<M>>,
    fresh: bool,
}

impl<M: Machine> RaftSnapshotBuilder<Types<M>> for Builder<M> {
    type SnapshotData = View;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let (meta, snapshot) = view(&self.replica, self.fresh).await?;
        Ok(Snapshot { meta, snapshot })
    }
}

async fn view<M: Machine>(
    replica: &Arc<Replica<M>>,
    fresh: bool,
) -> io::Result<(SnapshotMeta, View)> {
    let replica = Arc::clone(replica);
    let blocking = replica.blocking();
    blocking
        .run(move || replica.view(fresh))
        .await
        .map_err(stop)?
}
