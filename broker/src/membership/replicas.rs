//! The replicas that this node has, as a file: under which Raft id each group lies on its disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cluster::member::group_id;
use cluster_core::{Group, RaftId};
use serde::{Deserialize, Serialize};
use storage::fs::Fs;

use crate::data_folder::{FolderError, write};

const FILE: &str = "replicas.json";

/// Under which Raft id this node has which group. A replica is entered before it starts, so that
/// none is started again under another's log.
pub(super) struct Replicas {
    fs: Arc<dyn Fs>,
    folder: PathBuf,
    known: Stored,
}

/// By the number of the group in the log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    replicas: BTreeMap<u32, u64>,
}

impl Replicas {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn open(fs: Arc<dyn Fs>, folder: &Path) -> Result<Self, FolderError> {
        let failed = |error: String| FolderError::Io {
            folder: folder.into(),
            error: format!("{FILE}: {error}"),
        };
        let path = folder.join(FILE);
        let known = if fs
            .exists(&path)
            .map_err(|error| failed(error.to_string()))?
        {
            let bytes = fs.read(&path).map_err(|error| failed(error.to_string()))?;
            serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?
        } else {
            Stored::default()
        };
        Ok(Self {
            fs,
            folder: folder.into(),
            known,
        })
    }

    /// The replica of a group that lies on the disk, or lay there.
    pub(super) fn get(&self, group: Group) -> Option<RaftId> {
        let found = self.known.replicas.get(&group_id(group).0);
        found.map(|id| RaftId(*id))
    }

    /// Enters a replica, or that there is none any longer. Returns once that is durable.
    ///
    /// # Errors
    /// The file is as it was, or as it is to be.
    pub(super) fn set(&mut self, group: Group, replica: Option<RaftId>) -> Result<(), FolderError> {
        let mut changed = self.known.clone();
        let number = group_id(group).0;
        match replica {
            Some(RaftId(id)) => changed.replicas.insert(number, id),
            None => changed.replicas.remove(&number),
        };
        write(&*self.fs, &self.folder, FILE, &changed).map_err(|error| FolderError::Io {
            folder: self.folder.clone(),
            error: format!("{FILE}: {error}"),
        })?;
        self.known = changed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster_core::ShardId;
    use storage::fs::FaultFs;

    #[test]
    fn what_was_entered_is_there_after_a_crash() {
        let folder = Path::new("/data");
        let fs = FaultFs::new(1);
        fs.create_dir_all(folder).unwrap();
        let mut replicas = Replicas::open(Arc::new(fs.clone()), folder).unwrap();
        let shard = Group::Shard(ShardId(3));
        replicas.set(Group::Meta, Some(RaftId(1))).unwrap();
        replicas.set(shard, Some(RaftId(1 << 32))).unwrap();
        replicas.set(Group::Meta, None).unwrap();

        let fs = fs.crash();
        let replicas = Replicas::open(Arc::new(fs), folder).unwrap();
        assert_eq!(replicas.get(shard), Some(RaftId(1 << 32)));
        assert_eq!(replicas.get(Group::Meta), None);
    }
}
