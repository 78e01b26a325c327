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

type RaftSnapshot = Snapshot<LeaderId, u64, NodeId, View>;

/// The replica, shared with the handles of its group.
pub(super) struct Hosting<M: Machine>(pub(super) Arc<Replica<M>>);

impl<M: Machine> RaftStateMachine<Types<M>> for Hosting<M> {
    type SnapshotData = View;
    type SnapshotBuilder = Builder<M>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok(self.0.applied_state())
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
        let answers = self.0.apply(&batch);
        let answers = answers.map_err(|fatal| self.0.fail(fatal))?;
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
            replica: Arc::clone(&self.0),
            fresh: force,
        })
    }

    async fn get_snapshot_builder(&mut self) -> Builder<M> {
        Builder {
            replica: Arc::clone(&self.0),
            fresh: true,
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, view: View) -> io::Result<()> {
        let (replica, meta) = (Arc::clone(&self.0), meta.clone());
        let blocking = replica.blocking();
        blocking
            .run(move || replica.install(&meta, view))
            .await
            .map_err(stop)?
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        let (meta, snapshot) = view(&self.0, false).await?;
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
