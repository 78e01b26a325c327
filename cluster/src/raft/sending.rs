//! Copying a state to a member that is too far behind for the log: its rows go in parts, one part
//! under way, one copy at a time to a node.

use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cluster_core::NodeId;
use openraft::errors::{ErrorSource as _, ReplicationClosed, StreamingError};
use openraft::impls::BoxedErrorSource;
use openraft::network::RPCTypes;
use openraft::raft::SnapshotResponse;
use openraft::{OptionalSend, Snapshot, StorageError};
use storage::state;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::blocking::Blocking;
use super::copies::Copying;
use super::network::{Member, Unanswered};
use super::replica::View;
use super::rows;
use super::types::{LeaderId, Types, Vote};
use super::wire::{Content, Part, Reply, Request};
use crate::link::Lane;
use crate::machine::Machine;

/// Bytes of rows in a part; half of what the bulk lane takes.
const PART_BYTES: usize = 512 << 10;
/// Parts that are read ahead of the one under way.
const PARTS_AHEAD: usize = 2;
/// How long a part may take: a copy lasts as long as its parts get there.
const PART_PATIENCE: Duration = Duration::from_secs(10);
/// How long the member may take to make the whole state durable, and its machine of it.
const INSTALL_PATIENCE: Duration = Duration::from_mins(2);

type RaftSnapshot = Snapshot<LeaderId, u64, NodeId, View>;

/// What the disk gives of a state.
enum Piece {
    Rows(Bytes),
    End { rows: u64 },
    Failed(state::Error),
}

/// Copies a state. Ends early when this node leads no more.
pub(super) async fn send<M: Machine>(
    member: &Member<M>,
    vote: Vote,
    snapshot: RaftSnapshot,
    cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
) -> Result<SnapshotResponse<Types<M>>, StreamingError<Types<M>>> {
    let copied = async {
        let Some(copying) = member.begin_copy(&snapshot) else {
            // It shall not pin pages while it waits; the next attempt takes a newer one.
            drop(snapshot);
            member.copy_turn().await;
            let why = Unanswered::Network("another state is being copied to the node".to_owned());
            return Err(member.failed(why));
        };
        member.copy(vote, snapshot, copying).await
    };
    tokio::select! {
        copied = copied => copied,
        closed = cancel => Err(closed.into()),
    }
}

impl<M: Machine> Member<M> {
    fn begin_copy(&self, snapshot: &RaftSnapshot) -> Option<Copying> {
        let upto = snapshot.meta.last_log_id.map_or(0, |last| last.index);
        self.context().copies.begin(self.node(), self.group(), upto)
    }

    async fn copy_turn(&self) {
        self.context().copies.turn(self.node()).await;
    }

    fn failed(&self, why: Unanswered) -> StreamingError<Types<M>> {
        self.error(RPCTypes::InstallSnapshot, PART_PATIENCE, why)
            .into()
    }

    async fn copy(
        &self,
        vote: Vote,
        snapshot: RaftSnapshot,
        copying: Copying,
    ) -> Result<SnapshotResponse<Types<M>>, StreamingError<Types<M>>> {
        let last = snapshot.meta.last_log_id.expect("of a state that is there");
        let begin = Content::Begin {
            last,
            membership: snapshot.meta.last_membership,
            version: M::VERSION,
        };
        let mut parts = Parts {
            member: self,
            vote,
            copy: copying.number(),
            nth: 0,
        };
        tracing::info!(group = %self.group(), node = %self.node(), upto = last.index,
            "a state is copied");
        if let Some(over) = parts.send(begin, PART_PATIENCE).await? {
            return Ok(over);
        }
        let mut pace = Pace::new(self.context().copy_bytes_per_s);
        let mut pieces = read(snapshot.snapshot, self.context().blocking);
        while let Some(piece) = pieces.recv().await {
            let (content, patience) = match piece {
                Piece::Rows(rows) => {
                    pace.wait(rows.len()).await;
                    (Content::Rows(rows), PART_PATIENCE)
                }
                Piece::End { rows } => (Content::End { rows }, INSTALL_PATIENCE),
                Piece::Failed(error) => return Err(unreadable(&error)),
            };
            if let Some(over) = parts.send(content, patience).await? {
                return Ok(over);
            }
        }
        // The end was answered as if more were to come, or reading was broken off.
        Err(self.failed(Unanswered::Network("the copy has no end".to_owned())))
    }
}

/// The parts of one copy.
struct Parts<'a, M> {
    member: &'a Member<M>,
    vote: Vote,
    copy: u64,
    nth: u64,
}

impl<M: Machine> Parts<'_, M> {
    /// Sends the next part; gives the answer that ends the copy.
    async fn send(
        &mut self,
        content: Content,
        patience: Duration,
    ) -> Result<Option<SnapshotResponse<Types<M>>>, StreamingError<Types<M>>> {
        let is_end = matches!(content, Content::End { .. });
        let request = Request::Snapshot(Part {
            vote: self.vote,
            copy: self.copy,
            nth: self.nth,
            content,
        });
        self.nth += 1;
        let reply = self.member.ask(Lane::Bulk, &request, patience).await;
        let why = match reply {
            Ok(Reply::Done) => return Ok(None),
            Ok(Reply::Installed(vote)) => {
                if is_end {
                    self.member.context().traffic.sent.snapshots_total.add(1);
                }
                return Ok(Some(SnapshotResponse::new(vote)));
            }
            Ok(Reply::Higher(vote)) => {
                return Ok(Some(SnapshotResponse::new(vote)));
            }
            Ok(Reply::Anew) => {
                Unanswered::Unreachable("the member takes this copy no more".to_owned())
            }
            Ok(other) => self.member.senseless(&other),
            Err(why) => why,
        };
        Err(self.member.failed(why))
    }
}

fn unreadable<M: Machine>(error: &state::Error) -> StreamingError<Types<M>> {
    match error.may_pass() {
        // The file is opened again meanwhile.
        true => openraft::errors::Unreachable::from_string(error).into(),
        false => StorageError::read_snapshot(None, BoxedErrorSource::from_string(error)).into(),
    }
}

/// Reads the rows; stops when nobody takes them any more.
fn read(view: View, blocking: Blocking) -> mpsc::Receiver<Piece> {
    match blocking {
        Blocking::Threads => {
            let (pieces, receiver) = mpsc::channel(PARTS_AHEAD);
            tokio::task::spawn_blocking(move || {
                read_pieces(&view, |piece| pieces.blocking_send(piece).is_ok());
            });
            receiver
        }
        Blocking::InPlace => {
            // A simulated state is small.
            let mut read = Vec::new();
            read_pieces(&view, |piece| {
                read.push(piece);
                true
            });
            let (pieces, receiver) = mpsc::channel(read.len());
            for piece in read {
                let sent = pieces.try_send(piece);
                sent.expect("there is room for all, and who takes them");
            }
            receiver
        }
    }
}

/// Reads them all; `put` says whether anybody takes more.
fn read_pieces(view: &View, mut put: impl FnMut(Piece) -> bool) {
    let piece = match read_rows(view, &mut put) {
        Ok(Some(rows)) => Piece::End { rows },
        Ok(None) => return,
        Err(error) => Piece::Failed(error),
    };
    // Nobody waits any more if the copy was broken off.
    put(piece);
}

/// How many rows there were; none if nobody takes them any more.
fn read_rows(
    view: &View,
    put: &mut impl FnMut(Piece) -> bool,
) -> Result<Option<u64>, state::Error> {
    let (mut stream, mut count) = (BytesMut::new(), 0);
    for row in view.rows()?.into_iter().flatten() {
        let row = row?;
        rows::put(&mut stream, row.kind, &row.key, &row.value);
        count += 1;
        while stream.len() >= PART_BYTES {
            let part = stream.split_to(PART_BYTES).freeze();
            if !put(Piece::Rows(part)) {
                return Ok(None);
            }
        }
    }
    let sent = stream.is_empty() || put(Piece::Rows(stream.freeze()));
    Ok(sent.then_some(count))
}

/// Keeps a copy below its rate.
struct Pace {
    bytes_per_s: u64,
    next: Instant,
}

impl Pace {
    fn new(bytes_per_s: u64) -> Self {
        let next = Instant::now();
        Self { bytes_per_s, next }
    }

    async fn wait(&mut self, bytes: usize) {
        tokio::time::sleep_until(self.next).await;
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s.max(1) as f64);
        self.next = Instant::now() + takes;
    }
}
