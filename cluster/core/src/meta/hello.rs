//! What a peer says of itself when a link begins, and whether it is one of us.

use super::{Meta, Refusal};
use crate::{FeatureLevel, FolderId, NodeId};

/// What a peer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The cluster that its data folder belongs to, by the folder of its founder; `None` for a
    /// folder that is to join.
    pub cluster: Option<FolderId>,
    /// Its number, if it has one or wants a certain one.
    pub node: Option<NodeId>,
    /// Its data folder.
    pub folder: FolderId,
    /// What it understands.
    pub level: FeatureLevel,
}

impl Meta {
    /// Which cluster this is: the data folder of its founder.
    pub fn cluster(&self) -> Option<FolderId> {
        self.founded.as_ref().map(|founded| founded.folder)
    }

    /// Whether a peer may speak with this cluster's nodes. Whether it may join, or begin an epoch,
    /// the log decides.
    ///
    /// # Errors
    /// Says what is wrong with the peer, with the value in question. Nothing has changed.
    pub fn check_hello(&self, hello: &Hello) -> Result<(), Refusal> {
        let known = self.cluster().ok_or(Refusal::NotFounded)?;
        if let Some(asked) = hello.cluster.filter(|asked| *asked != known) {
            return Err(Refusal::OtherCluster {
                asked: asked.0,
                known: known.0,
            });
        }
        self.check_level(hello.level)?;
        let owner = self.members.iter().find(|(_, m)| m.folder == hello.folder);
        match (hello.node, owner) {
            (Some(asked), Some((&node, _))) if asked != node => Err(Refusal::FolderTaken(node)),
            (Some(asked), None) if self.used.contains(&asked) => Err(Refusal::OtherFolder(asked)),
            // A folder of this cluster that belongs to no member: its node has left.
            (Some(asked), None) if hello.cluster.is_some() => Err(Refusal::NoMember(asked)),
            _ => Ok(()),
        }
    }
}
