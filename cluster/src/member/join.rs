//! Becoming a member: what a node does before it has a number.

use std::time::Duration;

use cluster_core::{FeatureLevel, FolderId, NodeId};
use mqtt::Templates;
use runtime::Random;

use super::message::{JoinAnswer, Joined, Message};
use crate::link::{self, Backoff, BackoffLimits, ClusterId, Net, NotAdmitted, RefusalCode, Wish};

/// Pauses between two rounds over the addresses.
const PAUSES: BackoffLimits = BackoffLimits {
    first_ms: 200,
    longest_ms: 2_000,
};

/// A node that wants to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applicant {
    /// The cluster that its data folder belongs to, if it joined one before.
    pub cluster: Option<FolderId>,
    /// Its data folder.
    pub folder: FolderId,
    /// The number that it has or wants; `None` for the lowest never used.
    pub node: Option<NodeId>,
    /// The highest feature level that it understands.
    pub understood: FeatureLevel,
}

/// Why a node did not join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotJoined {
    /// The cluster does not take it, and never will as it is.
    #[error("the cluster refuses this node: {0}")]
    Refused(link::Refusal),
    /// Nobody answered; it may be a member now, and may ask again.
    #[error("no member of the cluster answered: {0}")]
    Unanswered(String),
}

/// Asks the members at these addresses, one after the other and round again, until one answers or
/// the patience ends; says also which device-owned templates the cluster has. A node that is a member
/// already is told what it was told then.
///
/// # Errors
/// Says in one line what was wrong.
pub async fn join<N: Net>(
    net: &N,
    addresses: &[String],
    applicant: Applicant,
    random: &mut Random,
    patience: Duration,
) -> Result<(Joined, Templates), NotJoined> {
    let mut why = String::from("there is no address to ask at");
    let asking = async {
        let mut pauses = Backoff::new(PAUSES);
        loop {
            for address in addresses {
                match ask(net, address, applicant, random).await {
                    Ok(joined) => return Ok(joined),
                    Err(NotJoined::Unanswered(failed)) => why = failed,
                    Err(refused) => return Err(refused),
                }
            }
            tokio::time::sleep(Duration::from_millis(pauses.next_ms(random))).await;
        }
    };
    match tokio::time::timeout(patience, asking).await {
        Ok(outcome) => outcome,
        Err(_) => Err(NotJoined::Unanswered(why)),
    }
}

async fn ask<N: Net>(
    net: &N,
    address: &str,
    applicant: Applicant,
    random: &mut Random,
) -> Result<(Joined, Templates), NotJoined> {
    let wish = Wish {
        cluster: applicant.cluster.map(|folder| ClusterId(folder.0)),
        folder: applicant.folder,
        node: applicant.node,
        understood: applicant.understood,
        nonce: u128::from(random.next_u64()) << 64 | u128::from(random.next_u64()),
    };
    let payload = link::apply(net, address, wish)
        .await
        .map_err(|error| match error {
            NotAdmitted::Refused(refusal) if is_passing(refusal.code) => {
                NotJoined::Unanswered(format!("{address}: {refusal}"))
            }
            NotAdmitted::Refused(refusal) => NotJoined::Refused(refusal),
            NotAdmitted::Unanswered(why) => NotJoined::Unanswered(why),
        })?;
    match JoinAnswer::decode(&payload) {
        Ok(JoinAnswer::Joined(joined)) => Ok((joined, Templates::default())),
        Ok(JoinAnswer::JoinedWith { joined, templates }) => Ok((joined, templates)),
        Ok(_) => Err(NotJoined::Unanswered(format!("{address}: no decision"))),
        Err(error) => Err(NotJoined::Unanswered(format!("{address}: {error}"))),
    }
}

/// Whether another answer may come later, or elsewhere.
fn is_passing(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::Crowded
            | RefusalCode::Leaderless
            | RefusalCode::Silence
            | RefusalCode::Garbage
            | RefusalCode::Nonce
    )
}
