//! What goes on at a node all the time: its disk works, values are proposed, and somebody looks.

use std::sync::Arc;
use std::time::Duration;

use cluster_core::StartCount;
use runtime::{Clock as _, Random};
use storage::Turns;

use super::ledger::entry;
use super::node::{Seat, SimClock, group_number, lock};
use super::record::Acknowledged;

/// How often a node is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Who asks a leader without a quorum may wait for long.
const PROPOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Writes and syncs what waits, after as long as a disk may take.
pub(crate) async fn disk(turns: Turns, mut random: Random) {
    loop {
        let ms = match random.below(100) {
            0..=2 => 50 + random.below(350),
            _ => 1 + random.below(8),
        };
        tokio::time::sleep(Duration::from_millis(ms)).await;
        turns.take();
    }
}

/// Notes who leads, in which term each replica is, and whether the node holds its lease.
pub(crate) async fn watch(seat: Arc<Seat>, clock: SimClock) {
    let (node, record) = (seat.node, seat.record.clone());
    loop {
        tokio::time::sleep(LOOK).await;
        seat.with_live(|live| {
            live.holds_lease = live.member.lease().is_held(clock.mono_ms());
            for claim in live.raft.claims() {
                if let Some(control) = live.raft.control(claim.group) {
                    record.leads(node, claim.group.0, claim.term, control.replica());
                }
            }
            for (group, ledger) in &live.ledgers {
                let replica = ledger.control().replica();
                record.is_in_term(node, *group, replica, ledger.status().term);
            }
        });
    }
}

/// Proposes values to a shard whenever this node leads it.
pub(crate) async fn propose(seat: Arc<Seat>, start: StartCount, shard: u16, client: u64) {
    let group = group_number(shard);
    let mut random = seat.random(start, 0x10 + u64::from(shard) * 4 + client);
    let from = u64::from(seat.node) << 56 | start.0 << 40 | client << 36;
    for count in 1.. {
        let pause = Duration::from_millis(5 + random.below(60));
        tokio::time::sleep(pause).await;
        if !*lock(&seat.works) {
            continue;
        }
        let mut ledger = None;
        seat.with_live(|live| ledger = live.ledgers.get(&group).cloned());
        let Some(ledger) = ledger.filter(|ledger| ledger.is_leading()) else {
            continue;
        };
        let (value, filling) = (from | count, random.below(400) as usize);
        let proposed = ledger.propose(entry(value, filling).into());
        if let Ok(Ok(index)) = tokio::time::timeout(PROPOSE_PATIENCE, proposed).await {
            seat.record.acknowledged(Acknowledged {
                group,
                index,
                value,
            });
        }
    }
}
