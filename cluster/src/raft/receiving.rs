//! Taking a state that the leader copies here: its rows go straight into the file that will replace
//! this replica's. Until it is whole nothing here changes.

use std::sync::Arc;
use std::time::Duration;

use openraft::Snapshot;
use openraft::errors::Fatal;
use storage::state::{self, Draft};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::driver::Driven;
use super::replica::View;
use super::rows::{BadRows, RowReader};
use super::types::{SnapshotMeta, Types, Vote};
use super::wire::{Content, Part, Reply};
use crate::machine::Machine;

/// The copy that is being taken, if there is one. Locked while a part is written, which may block
/// on the disk.
pub(super) type Receiving = Arc<Mutex<Option<Received>>>;

/// How long the next part of a copy may take. The sender is more impatient.
const PART_PATIENCE: Duration = Duration::from_mins(1);

/// What has come so far.
pub(super) struct Received {
    vote: Vote,
    copy: u64,
    next: u64,
    meta: SnapshotMeta,
    rows: RowReader,
    draft: Draft,
    heard: Instant,
}

/// Why rows are not taken. The sender begins anew, with pauses.
#[derive(Debug, thiserror::Error)]
enum Untaken {
    #[error(transparent)]
    Rows(#[from] BadRows),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error("a task panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

impl<M: Machine> Driven<M> {
    /// Takes a part. A newer leader is named to an older one, which ends its copy; a copy that was
    /// begun later takes the place of the one before.
    pub(super) async fn take_part(&self, part: Part) -> Result<Reply, Fatal<Types<M>>> {
        let mine = self.raft.with_raft_state(|state| *state.vote_ref()).await?;
        if part.vote < mine {
            return Ok(Reply::Higher(mine));
        }
        let receiving = Arc::clone(&self.receiving);
        // Parts of a copy come one after the other.
        let mut received = receiving.lock_owned().await;
        let Content::Begin {
            last,
            membership,
            version,
        } = part.content
        else {
            let follows = |there: &Received| {
                (there.vote, there.copy, there.next) == (part.vote, part.copy, part.nth)
            };
            let Some(there) = received.take().filter(follows) else {
                return Ok(Reply::Anew);
            };
            return match part.content {
                Content::End { rows } => self.take_end(there, rows).await,
                Content::Rows(rows) => {
                    let blocking = self.replica.blocking();
                    let taken = blocking.run(move || there.take_rows(&rows)).await;
                    match taken.map_err(Untaken::from).flatten() {
                        Ok(there) => {
                            *received = Some(there);
                            Ok(Reply::Done)
                        }
                        Err(error) => Ok(self.untaken(&error)),
                    }
                }
                Content::Begin { .. } => unreachable!("matched above"),
            };
        };
        *received = None;
        let meta = SnapshotMeta {
            last_log_id: Some(last),
            last_membership: membership,
        };
        if self.replica.applied_state().0 >= meta.last_log_id {
            return Ok(Reply::Installed(part.vote));
        }
        if version != M::VERSION {
            tracing::warn!(group = %self.replica.group, version,
                "a state is of another version than this node's: it is not taken");
            return Ok(Reply::Anew);
        }
        match self.draft().await {
            Ok(draft) => {
                *received = Some(Received {
                    vote: part.vote,
                    copy: part.copy,
                    next: part.nth + 1,
                    meta,
                    rows: RowReader::default(),
                    draft,
                    heard: Instant::now(),
                });
                Ok(Reply::Done)
            }
            Err(error) => Ok(self.untaken(&error)),
        }
    }

    /// Gives up a copy whose sender says nothing more.
    pub(super) fn forget_copy(&self) {
        if let Ok(mut received) = self.receiving.try_lock() {
            let is_over = |there: &mut Received| there.heard.elapsed() > PART_PATIENCE;
            received.take_if(is_over);
        }
    }

    async fn draft(&self) -> Result<Draft, Untaken> {
        let replica = Arc::clone(&self.replica);
        let blocking = replica.blocking();
        Ok(blocking.run(move || replica.draft()).await??)
    }

    fn untaken(&self, error: &Untaken) -> Reply {
        tracing::warn!(group = %self.replica.group, %error, "a state that is copied is not taken");
        Reply::Anew
    }

    /// Has Raft put the state in the place of this replica's.
    async fn take_end(&self, there: Received, rows: u64) -> Result<Reply, Fatal<Types<M>>> {
        if let Err(error) = there.rows.handle_end(rows) {
            return Ok(self.untaken(&error.into()));
        }
        let snapshot = Snapshot {
            meta: there.meta,
            snapshot: View::Received(Box::new(there.draft)),
        };
        let installed = self.raft.install_full_snapshot(there.vote, snapshot);
        let installed = installed.await?;
        let received = &self.replica.traffic().received;
        received.snapshots_total.add(1);
        Ok(Reply::Installed(installed.vote))
    }
}

impl Received {
    /// Blocks on the disk.
    fn take_rows(mut self, bytes: &[u8]) -> Result<Self, Untaken> {
        let draft = &mut self.draft;
        self.rows
            .handle_bytes(bytes, |kind, key, value| draft.put(kind, key, value))??;
        self.next += 1;
        self.heard = Instant::now();
        Ok(self)
    }
}
