//! What a node does with groups that have other members: how they are reached, started, steered and
//! removed.

use std::ops::RangeInclusive;
use std::sync::Arc;

use cluster_core::NodeId;
use storage::raft::{self as log, GroupId};
use storage::state;
use tokio::sync::oneshot;

use super::CloseError;
use super::control::{Claim, GroupControl};
use super::node::RaftNode;
use crate::link::{Incoming, Links};

/// The kinds of [`crate::link::Channel`] that are Raft's.
pub const CHANNELS: RangeInclusive<u16> = 16..=31;

/// Why a replica was not removed. It may be there in part: to be removed again, or after a start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// The log takes nothing more.
    #[error(transparent)]
    Log(#[from] log::Refused),
    /// The log was not written.
    #[error("the log was not written: {0}")]
    Unwritten(String),
    /// The state file was not removed.
    #[error(transparent)]
    State(#[from] state::Error),
    /// A task panicked.
    #[error(transparent)]
    Task(#[from] CloseError),
}

impl RaftNode {
    /// Reaches other members by these links from now on; before, nobody is reached.
    ///
    /// # Panics
    /// If it was called before.
    pub fn connect(&self, links: Links) {
        let connected = self.inner.context.links.set(links);
        assert!(connected.is_ok(), "a node has one set of links");
    }

    /// Takes a request of a peer, of one of the [`CHANNELS`]; returns at once. It gets no answer if
    /// its group was not started here, or if too many are being served.
    pub fn handle_request(&self, request: Incoming) {
        let id = GroupId(request.channel.group);
        let Some(group) = self.inner.groups().started.get(&id).cloned() else {
            return;
        };
        let served = Arc::clone(&self.inner.served);
        let Ok(permit) = served.try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            group.serve(request).await;
            drop(permit);
        });
    }

    /// A peer is back: what is led here is sent to it at once, whatever pauses there were.
    pub fn handle_up(&self, node: NodeId) {
        let groups = self.inner.open_groups().unwrap_or_default();
        tokio::spawn(async move {
            for group in groups {
                group.reach(node).await;
            }
        });
    }

    /// The groups that this node leads, and for which it accepts writes.
    #[must_use]
    pub fn claims(&self) -> Vec<Claim> {
        let groups = self.inner.open_groups().unwrap_or_default();
        groups.iter().filter_map(|group| group.claimed()).collect()
    }

    /// What steers a group that was started here.
    #[must_use]
    pub fn control(&self, id: GroupId) -> Option<Arc<dyn GroupControl>> {
        let group = self.inner.groups().started.get(&id).cloned()?;
        Some(group as _)
    }

    /// Stops a replica, if it was started, and deletes its log, its vote and its state file for
    /// good, if they are there; then another may be started in its place. Who is still a member
    /// must not come back under the same Raft id.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub async fn remove_replica(&self, id: GroupId, name: &str) -> Result<(), RemoveError> {
        let inner = &self.inner;
        let started = inner.groups().started.remove(&id);
        if let Some(group) = started {
            group.stop().await;
        }
        if inner.log.groups().contains(&id) {
            inner.log.remove(id)?;
        }
        let (done, written) = oneshot::channel();
        inner.log.flush(move |result| {
            // Nobody waits any more if this was cancelled.
            let _ = done.send(result);
        })?;
        let unwritten = |why: &dyn std::fmt::Display| RemoveError::Unwritten(why.to_string());
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(unwritten(&error)),
            Err(error) => return Err(unwritten(&error)),
        }
        let fs = Arc::clone(&inner.fs);
        let path = inner.config.folder.join(format!("{name}.redb"));
        let blocking = inner.context.blocking;
        let removed = blocking.run(move || state::StateFile::remove(&*fs, &path));
        removed.await.map_err(CloseError::from)??;
        inner.groups().names.remove(&id);
        Ok(())
    }
}
