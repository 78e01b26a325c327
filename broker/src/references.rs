//! Where clients are that should be at another node: what they are told as Server Reference (§4.11), and
//! whom this cluster has told so of late.
//!
//! A client is sent only to a node that is to lead its shard, says itself that it does, is heard, and has
//! said in meta where clients reach it. It is not sent away again for [`TOLD_MS`], here or, as far as the
//! word has spread, by any other node: whoever cannot follow is served where it is. Once it is where it
//! should be, that node leads its shard and sends it nowhere. So nothing depends on it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use cluster::member::{Member, MemberStatus};
use cluster_core::{Group, MetaAnswer, MetaCommand, NodeId, Offer};
use mqtt::Text;
use tokio::sync::Notify;

use crate::views::stopping::serves;

/// How long a client that was sent away is served wherever it comes, in milliseconds.
pub(crate) const TOLD_MS: u64 = 60_000;
/// Clients that are remembered as sent away; beyond that nobody is.
pub(crate) const TOLD_MAX: usize = 65_536;
/// Clients of which other nodes have not been told; beyond that nobody is sent away.
const UNSAID_MAX: usize = 1_024;
/// How often it is looked where clients are to be.
const LOOK: Duration = Duration::from_millis(200);
/// Pause after meta was told what this node offers.
const RETRY: Duration = Duration::from_secs(1);

/// What it is for a client that is sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It connects.
    Connect,
    /// An operator has connections rebalanced.
    Rebalance,
}

/// Clones are the same.
#[derive(Clone)]
pub(crate) struct References(Arc<Inner>);

struct Inner {
    /// Whether clients that connect are sent away.
    redirects: bool,
    /// By shard: where its clients are to be, if that is another node.
    table: ArcSwap<Vec<Option<Text>>>,
    told: Mutex<Told>,
    /// There is something to say to other nodes.
    unsaid: Notify,
    connects: AtomicU64,
    rebalanced: AtomicU64,
}

/// Who was sent away, by a hash of the client id: who is taken for another is served.
#[derive(Default)]
struct Told {
    until_ms: HashMap<u64, u64>,
    in_order: VecDeque<(u64, u64)>,
    unsaid: Vec<u64>,
}

impl References {
    pub(crate) fn new(redirects: bool) -> Self {
        Self(Arc::new(Inner {
            redirects,
            table: ArcSwap::default(),
            told: Mutex::default(),
            unsaid: Notify::new(),
            connects: AtomicU64::new(0),
            rebalanced: AtomicU64::new(0),
        }))
    }

    /// Where the clients of a shard are to be, if that is another node, which has them now.
    pub(crate) fn of(&self, shard: u16) -> Option<Text> {
        self.0.table.load().get(usize::from(shard)).cloned()?
    }

    /// Where a client is to go that connects here, if it is to go anywhere.
    pub(crate) fn redirect(&self, client: &str, shard: u16, now_ms: u64) -> Option<Text> {
        match self.0.redirects {
            true => self.send_away(client, shard, now_ms, Why::Connect),
            false => None,
        }
    }

    /// Where a client is to go, if it is to and was not sent away of late; it is then.
    pub(crate) fn send_away(
        &self,
        client: &str,
        shard: u16,
        now_ms: u64,
        why: Why,
    ) -> Option<Text> {
        let reference = self.of(shard)?;
        let is_taken = self.told().tell(hash(client), now_ms);
        if !is_taken {
            return None;
        }
        let counter = match why {
            Why::Connect => &self.0.connects,
            Why::Rebalance => &self.0.rebalanced,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.0.unsaid.notify_one();
        Some(reference)
    }

    /// Whether a client was sent away of late.
    pub(crate) fn was_told(&self, client: &str, now_ms: u64) -> bool {
        self.told().knows(hash(client), now_ms)
    }

    /// Another node has sent clients away.
    pub(crate) fn handle_told(&self, clients: &[u64], now_ms: u64) {
        let mut told = self.told();
        for client in clients {
            told.remember(*client, now_ms);
        }
    }

    /// Clients that were sent away, for the other nodes to know; waits until there is one.
    pub(crate) async fn unsaid(&self) -> Vec<u64> {
        loop {
            let unsaid = std::mem::take(&mut self.told().unsaid);
            if !unsaid.is_empty() {
                return unsaid;
            }
            self.0.unsaid.notified().await;
        }
    }

    /// Clients sent to the node of their shard since the start: those that connected, and those of a
    /// rebalance.
    pub(crate) fn sent(&self) -> (u64, u64) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (of(&self.0.connects), of(&self.0.rebalanced))
    }

    /// Keeps up with the cluster, and has it know what this node offers, until it is aborted.
    pub(crate) async fn follow(self, member: Member, offer: Offer) {
        loop {
            let status = member.status();
            let table = table_of(&status);
            if **self.0.table.load() != table {
                self.0.table.store(Arc::new(table));
            }
            // A default that nobody has contradicted needs no entry.
            let known = status.members.get(&status.node);
            if known.is_some_and(|row| row.offer != offer) {
                announce(&member, status.node, &offer).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    /// Whether a client may be sent away now; it is remembered then.
    fn tell(&mut self, client: u64, now_ms: u64) -> bool {
        if self.knows(client, now_ms) || self.unsaid.len() >= UNSAID_MAX {
            return false;
        }
        let is_remembered = self.remember(client, now_ms);
        if is_remembered {
            self.unsaid.push(client);
        }
        is_remembered
    }

    fn knows(&mut self, client: u64, now_ms: u64) -> bool {
        self.forget(now_ms);
        self.until_ms.contains_key(&client)
    }

    /// Whether there was room.
    fn remember(&mut self, client: u64, now_ms: u64) -> bool {
        self.forget(now_ms);
        if self.in_order.len() >= TOLD_MAX {
            return false;
        }
        let until_ms = now_ms + TOLD_MS;
        self.until_ms.insert(client, until_ms);
        self.in_order.push_back((until_ms, client));
        true
    }

    fn forget(&mut self, now_ms: u64) {
        while let Some((until_ms, client)) = self.in_order.front().copied()
            && until_ms <= now_ms
        {
            self.in_order.pop_front();
            // It may have been told again meanwhile.
            if self.until_ms.get(&client) == Some(&until_ms) {
                self.until_ms.remove(&client);
            }
        }
    }
}

async fn announce(member: &Member, node: NodeId, offer: &Offer) {
    let offer = offer.clone();
    let command = MetaCommand::Offer { node, offer };
    match member.propose(&command).await {
        Ok(MetaAnswer::Refused(refusal)) => {
            tracing::warn!(%refusal, "the cluster does not take what this node offers");
        }
        Ok(_) => tracing::info!("the cluster knows what this node offers"),
        Err(error) => tracing::warn!(%error, "the cluster does not know what this node offers"),
    }
    // Until then the status shows it.
    tokio::time::sleep(RETRY).await;
}

/// Where the clients of each shard are to be, as far as one node knows and if that is another one.
fn table_of(status: &MemberStatus) -> Vec<Option<Text>> {
    let reference = |node: NodeId| {
        let row = status.members.get(&node).filter(|_| node != status.node)?;
        let serves = serves(row) && !row.is_leaving;
        let server = &row.offer.server;
        (serves && !server.is_empty())
            .then(|| Text::try_from(server.as_str()).ok())
            .flatten()
    };
    let shards = status.groups.iter();
    let shards = shards.filter(|(group, _)| matches!(group, Group::Shard(_)));
    let table = shards.map(|(_, row)| {
        // Who leads says so itself, and could not without having entered.
        let preferred = row.voters.first().copied();
        let home = preferred.filter(|node| row.leader == Some(*node) && row.moving.is_none())?;
        reference(home)
    });
    table.collect()
}

/// The same on every node: FNV-1a.
fn hash(client: &str) -> u64 {
    client.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::member::{GroupRow, MemberRow};
    use cluster_core::{NodeEpoch, ShardId};

    const NOW_MS: u64 = 1_000;

    /// Node 1 of three: node 2 leads the first shard, as it is to, node 1 the second, and node 3 the
    /// third, which node 2 is to lead.
    fn status() -> MemberStatus {
        let member = |node: u32| {
            let row = MemberRow {
                epoch: Some(NodeEpoch(node.into())),
                is_heard: true,
                offer: Offer {
                    stores: true,
                    server: format!("n{node}:1883"),
                },
                ..MemberRow::default()
            };
            (NodeId(node), row)
        };
        let shard = |shard: u16, first: u32, leader: u32| {
            let row = GroupRow {
                voters: vec![NodeId(first)],
                leader: Some(NodeId(leader)),
                ..GroupRow::default()
            };
            (Group::Shard(ShardId(shard)), row)
        };
        MemberStatus {
            node: NodeId(1),
            members: (1..=3).map(member).collect(),
            groups: [shard(0, 2, 2), shard(1, 1, 1), shard(2, 2, 3)].into(),
            ..MemberStatus::default()
        }
    }

    fn references(redirects: bool, status: &MemberStatus) -> References {
        let references = References::new(redirects);
        references.0.table.store(Arc::new(table_of(status)));
        references
    }

    fn said(text: &str) -> Option<Text> {
        Text::try_from(text).ok()
    }

    #[test]
    fn only_a_node_that_leads_as_it_is_to_and_serves_is_named() {
        assert_eq!(table_of(&status()), [said("n2:1883"), None, None]);
        let harms: [fn(&mut MemberRow); 5] = [
            |row| row.epoch = None,
            |row| row.is_heard = false,
            |row| row.is_suspected = true,
            |row| row.is_leaving = true,
            |row| row.offer.server.clear(),
        ];
        for harm in harms {
            let mut status = status();
            harm(status.members.get_mut(&NodeId(2)).unwrap());
            assert_eq!(table_of(&status), [None, None, None]);
        }
    }

    #[test]
    fn a_client_is_sent_away_once_in_a_while_and_only_if_that_is_asked_for() {
        let sent = references(true, &status());
        assert_eq!(sent.redirect("c", 1, NOW_MS), None, "it is right here");
        assert_eq!(sent.redirect("c", 0, NOW_MS), said("n2:1883"));
        assert_eq!(sent.redirect("c", 0, NOW_MS + TOLD_MS - 1), None);
        assert_eq!(sent.redirect("d", 0, NOW_MS), said("n2:1883"));
        assert_eq!(sent.redirect("c", 0, NOW_MS + TOLD_MS), said("n2:1883"));
        assert_eq!(sent.sent(), (3, 0));

        let never = references(false, &status());
        assert_eq!(never.redirect("c", 0, NOW_MS), None);
        let why = Why::Rebalance;
        assert_eq!(never.send_away("c", 0, NOW_MS, why), said("n2:1883"));
    }

    #[tokio::test]
    async fn who_was_sent_away_by_another_node_is_served() {
        let (one, other) = (references(true, &status()), references(true, &status()));
        assert!(one.redirect("c", 0, NOW_MS).is_some());
        other.handle_told(&one.unsaid().await, NOW_MS);
        assert_eq!(other.redirect("c", 0, NOW_MS), None);
        assert!(other.was_told("c", NOW_MS) && !other.was_told("d", NOW_MS));
    }

    #[test]
    fn whoever_cannot_be_remembered_or_told_of_is_served() {
        let sent = references(true, &status());
        let count = (0..2 * UNSAID_MAX).filter(|n| {
            let client = format!("c{n}");
            sent.redirect(&client, 0, NOW_MS).is_some()
        });
        assert_eq!(count.count(), UNSAID_MAX);

        let full = references(true, &status());
        let others: Vec<u64> = (0..TOLD_MAX as u64).collect();
        full.handle_told(&others, NOW_MS);
        assert_eq!(full.redirect("c", 0, NOW_MS), None);
        assert!(full.redirect("c", 0, NOW_MS + TOLD_MS).is_some());
    }
}
