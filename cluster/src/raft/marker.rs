//! Whether this node ever had a log of its groups.
//!
//! A group's state file says so only once it was flushed. A node whose log is gone before that would
//! come back as an empty voter, vote again and make a majority of what it has forgotten (SEMANTICS,
//! Damage).

use std::path::PathBuf;
use std::sync::Arc;

use defects::Defect;
use storage::fs::Fs;

use super::config::RaftConfig;
use super::failure::OpenError;

/// Lies beside the log, and is there once the log was.
const FILE: &str = "log.begun";
/// How the files of the log end.
const SEGMENT: &str = ".seg";

/// What was found before the log is opened.
pub(super) struct Marker {
    folder: PathBuf,
    is_set: bool,
}

impl Marker {
    /// Looks for it.
    ///
    /// # Errors
    /// There was a log, and there is none any more.
    pub(super) fn of(fs: &Arc<dyn Fs>, config: &RaftConfig) -> Result<Self, OpenError> {
        let folder = config.folder.clone();
        let (log, is_set) = (folder.join("log"), fs.exists(&folder.join(FILE))?);
        let has_log = fs.exists(&log)? && fs.list(&log)?.iter().any(|name| name.ends_with(SEGMENT));
        let forgives = config.forgives_lost_logs || defects::is(Defect::VoterAfterDamage);
        match is_set && !has_log && !forgives {
            true => Err(OpenError::AllLogsLost { folder: log }),
            false => Ok(Self { folder, is_set }),
        }
    }

    /// Sets it: the log is there, and durable.
    ///
    /// # Errors
    /// It may be set or not.
    pub(super) fn set(&self, fs: &Arc<dyn Fs>) -> Result<(), OpenError> {
        if !self.is_set {
            fs.create(&self.folder.join(FILE))?;
            fs.sync_dir(&self.folder)?;
        }
        Ok(())
    }
}
