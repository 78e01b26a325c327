//! What a cluster is founded with, and who may be a member of one that was.

use std::sync::Arc;

use cluster::MetaMachine;
use cluster::raft::Group;
use cluster_core::{FeatureLevel, Found, MetaAnswer, MetaCommand, NodeId, WallMs};
use mqtt::Templates;
use runtime::Clock;

use super::MembershipError;
use crate::data_folder::DataFolder;

/// What this program reads and writes: with 2, device-owned templates.
pub(super) const LEVEL: FeatureLevel = FeatureLevel(2);
/// What a cluster without templates uses.
const LEVEL_WITHOUT_TEMPLATES: FeatureLevel = FeatureLevel(1);

/// What a cluster with these templates uses at least.
pub(super) fn used(templates: &Templates) -> FeatureLevel {
    match templates.is_empty() {
        true => LEVEL_WITHOUT_TEMPLATES,
        false => LEVEL,
    }
}

/// Makes the cluster.
pub(super) async fn found(
    meta: &Group<MetaMachine>,
    folder: &DataFolder,
    clock: &Arc<dyn Clock>,
) -> Result<(), MembershipError> {
    let identity = folder.identity();
    let positive = |number| std::num::NonZeroU16::new(number).expect("validated");
    let templates = identity.templates();
    let found = Found {
        node: NodeId(identity.node),
        folder: folder.birth.folder,
        shards: positive(identity.shards),
        buckets: positive(identity.buckets),
        level: used(&templates),
    };
    let command = match templates.is_empty() {
        true => MetaCommand::Found(found),
        false => MetaCommand::FoundWith { found, templates },
    };
    let time = WallMs(clock.wall_ms());
    let entry = cluster::MetaEntry { time, command }.encode();
    let refused = |reason: String| MembershipError::Refused {
        node: identity.node,
        reason,
    };
    match meta.propose(entry.into()).await {
        Ok(MetaAnswer::Refused(refusal)) => Err(refused(refusal.to_string())),
        Ok(_) => Ok(()),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// Refuses other templates than the cluster was founded with: on them depends what the shards'
/// replicas make of their logs.
pub(super) fn check_templates(
    meta: &Group<MetaMachine>,
    node: NodeId,
    templates: &Templates,
) -> Result<(), MembershipError> {
    let founded = meta.with(|machine| {
        let meta = machine.meta();
        (meta.shards() > 0).then(|| meta.templates().clone())
    });
    match founded {
        Some(founded) if founded != *templates => Err(MembershipError::Refused {
            node: node.0,
            reason: format!(
                "its folder names the device templates {:?}, the cluster was founded with {:?}",
                Vec::from_iter(templates.iter()),
                Vec::from_iter(founded.iter()),
            ),
        }),
        // A replica of meta that begins has not been told yet; the folder has.
        _ => Ok(()),
    }
}
