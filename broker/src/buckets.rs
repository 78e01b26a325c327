//! The bucket table in meta, as the telemetry line wants it, and its way to other nodes.

mod moves;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bridge::{Answering, Asked, Claim, Table, TableRow};
use bytes::Bytes;
use cluster::MetaMachine;
use cluster::exchange::kinds;
use cluster::link::{Ask, Channel, Lane, Links};
use cluster::member::Member;
use cluster::raft::Group;
use cluster_core::{
    BucketClaim, BucketId, Meta, MetaAnswer, MetaCommand, NodeId, deal, deal_moves,
};
use runtime::Clock;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Pause between two questions for buckets.
const RETRY: Duration = Duration::from_millis(500);
/// How often it is looked at moves that wait for a node that is away.
const LOOK: Duration = Duration::from_secs(1);

/// The cluster of a telemetry line. It knows nothing, and reaches nobody, before [`Buckets::begin`].
pub(crate) struct Buckets {
    node: NodeId,
    table: watch::Sender<Option<Arc<Table>>>,
    parts: OnceLock<(Links, Member)>,
}

impl Buckets {
    /// That of a node.
    pub(crate) fn new(node: NodeId) -> Arc<Self> {
        Arc::new(Self {
            node,
            table: watch::Sender::default(),
            parts: OnceLock::new(),
        })
    }

    /// Shows the table of meta from now on, takes this node's share of buckets without rows and has
    /// its share of those with rows moved to it, until the task is aborted.
    pub(crate) fn begin(
        self: &Arc<Self>,
        links: Links,
        member: Member,
        meta: Group<MetaMachine>,
        clock: Arc<dyn Clock>,
        stores: bool,
    ) -> tokio::task::JoinHandle<()> {
        let is_first = self.parts.set((links, member.clone())).is_ok();
        assert!(is_first, "a node is wired once");
        tokio::spawn(Arc::clone(self).follow(member, meta, clock, stores))
    }

    async fn follow(
        self: Arc<Self>,
        member: Member,
        meta: Group<MetaMachine>,
        clock: Arc<dyn Clock>,
        stores: bool,
    ) {
        let mut applied = meta.watch_applied();
        // One at a time.
        let mut taking = JoinSet::new();
        let mut is_said = !stores;
        let mut away = moves::Away::default();
        loop {
            applied.mark_unchanged();
            let (table, share, coming, given_up) = meta.with(|machine| {
                let meta = machine.meta();
                (
                    table_of(meta),
                    deal(meta).remove(&self.node),
                    deal_moves(meta).remove(&self.node),
                    away.given_up(meta, self.node, Duration::from_millis(clock.mono_ms())),
                )
            });
            if table.members.len() > 1 && !std::mem::replace(&mut is_said, true) {
                tracing::warn!(
                    "telemetry is on one disk each: losing this node's disk loses the buckets that it \
                     owns, and what it has taken that no owner has stored"
                );
            }
            self.table.send_if_modified(|known| {
                let is_news = known.as_deref() != Some(&table);
                if is_news {
                    *known = Some(Arc::new(table));
                }
                is_news
            });
            if let Some(claims) = share.filter(|_| taking.is_empty()) {
                taking.spawn(take(member.clone(), self.node, claims));
            }
            let moved = given_up.first().copied().or(coming);
            if let Some(claim) = moved.filter(|_| taking.is_empty()) {
                taking.spawn(moves::propose(member.clone(), claim, self.node));
            }
            let is_waiting = away.is_waiting();
            // Whichever it is, the table is looked at again.
            tokio::select! {
                changed = applied.changed() => if changed.is_err() {
                    return;
                },
                Some(_) = taking.join_next() => {}
                () = tokio::time::sleep(LOOK), if is_waiting => {}
            }
        }
    }
}

impl Buckets {
    fn propose(&self, command: MetaCommand) -> Answering<()> {
        let Some((_, member)) = self.parts.get().cloned() else {
            return Box::pin(std::future::ready(Err("the node is starting".to_owned())));
        };
        Box::pin(async move {
            match member.propose(&command).await {
                Ok(MetaAnswer::Refused(refusal)) => Err(refusal.to_string()),
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

/// Asks meta for buckets that hold no row.
async fn take(member: Member, node: NodeId, claims: Vec<BucketClaim>) {
    let buckets = claims.len();
    match member
        .propose(&MetaCommand::TakeBuckets { node, claims })
        .await
    {
        Ok(MetaAnswer::Refused(refusal)) => {
            tracing::warn!(%refusal, buckets, "this node gets no buckets");
        }
        Ok(_) => tracing::info!(buckets, "buckets without rows were dealt to this node"),
        Err(error) => tracing::warn!(%error, buckets, "buckets were not dealt to this node"),
    }
    // Until then this node's replica has most likely applied it; else it is asked for again.
    tokio::time::sleep(RETRY).await;
}

fn table_of(meta: &Meta) -> Table {
    let rows = meta.bucket_rows().map(|(bucket, row)| TableRow {
        owner: row.owner.0,
        epoch: row.epoch,
        holds_rows: meta.holds_rows(bucket),
        moving_to: meta.moving_to(bucket).map(|node| node.0),
    });
    // Who stores nothing has no records either, and answers nobody.
    let members = meta.members().map(|(node, _)| node);
    let members = members.filter(|node| meta.offer(*node).stores);
    Table {
        rows: rows.collect(),
        members: members.map(|node| node.0).collect(),
    }
}

impl bridge::Cluster for Buckets {
    fn table(&self) -> watch::Receiver<Option<Arc<Table>>> {
        self.table.subscribe()
    }

    fn hold_rows(&self, claims: Vec<Claim>) -> Answering<()> {
        let claims = claims.into_iter().map(|claim| BucketClaim {
            bucket: BucketId(claim.bucket),
            epoch: claim.epoch,
        });
        self.propose(MetaCommand::HoldRows {
            node: self.node,
            claims: claims.collect(),
        })
    }

    fn bucket_moved(&self, claim: Claim) -> Answering<()> {
        let claim = BucketClaim {
            bucket: BucketId(claim.bucket),
            epoch: claim.epoch,
        };
        let to = self.node;
        self.propose(MetaCommand::BucketMoved { claim, to })
    }

    fn ask(&self, node: u32, asked: Asked, said: Bytes) -> Answering<Bytes> {
        let peer = self.parts.get();
        let peer = peer.and_then(|(links, _)| links.peer(NodeId(node)));
        let Some(peer) = peer else {
            let why = format!("node {node} is not known yet");
            return Box::pin(std::future::ready(Err(why)));
        };
        let lane = match asked {
            Asked::Pull | Asked::Copy => Lane::Bulk,
            Asked::End | Asked::Query => Lane::Requests,
        };
        let ask = Ask {
            channel: Channel {
                kind: kinds::TELEMETRY.start() + asked as u16,
                group: 0,
            },
            payload: said,
            reply_bytes_max: asked.reply_bytes_max(),
            deadline: asked.deadline(),
        };
        Box::pin(async move {
            let answer = peer.request(lane, ask).await;
            answer.map_err(|error| error.to_string())
        })
    }
}

/// What the line is asked by a request of this kind of channel.
pub(crate) fn asked_by(kind: u16) -> Option<Asked> {
    let place = kind.checked_sub(*kinds::TELEMETRY.start())?;
    Asked::ALL.get(usize::from(place)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_channel_of_telemetry_is_one_question() {
        for asked in Asked::ALL {
            assert_eq!(
                asked_by(kinds::TELEMETRY.start() + asked as u16),
                Some(asked)
            );
        }
        assert_eq!(kinds::TELEMETRY.count(), Asked::ALL.len());
        assert_eq!(asked_by(*kinds::ALL.end()), None);
    }
}
