//! An entry of one name is the same entry in the log of every replica (Log Matching, Raft, §5.3).
//!
//! Clients see a difference only once the wrong replica leads and somebody asks for just that entry.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use storage::fs::RealFs;
use storage::raft::{Config, GroupId, LogId, RaftLog};
use tempfile::TempDir;

use super::Verdict;

/// Where a data folder has the log of its replicas.
const FOLDER: &str = "raft/log";
/// Bytes of entries that are read at once.
const READ_BYTES_MAX: usize = 4 << 20;

/// Compares the logs in the data folders of stopped nodes, as far as they still have them. Blocks.
///
/// A copy of each is opened, since opening mends and tidies.
#[must_use]
pub fn replicas(data: &[PathBuf]) -> Verdict {
    let mut verdict = Verdict::new("replicas");
    let logs: Result<Vec<Log>, String> = data.iter().map(|data| Log::open(data)).collect();
    match logs {
        Ok(logs) => compare(&logs, &mut verdict),
        Err(error) => verdict.find(|| error),
    }
    verdict
}

/// Is the log of one node.
struct Log {
    node: String,
    log: RaftLog,
    _copy: TempDir,
}

impl Log {
    fn open(data: &Path) -> Result<Self, String> {
        let folder = data.join(FOLDER);
        let failed = |what: &dyn std::fmt::Display| format!("{}: {what}", folder.display());
        let copy = benches::demo::copy(&folder).map_err(|error| failed(&error))?;
        let log = RaftLog::open(Arc::new(RealFs), copy.path(), &Config::default(), |_| {})
            .map_err(|error| failed(&error))?;
        let node = data.file_name().unwrap_or(data.as_os_str());
        Ok(Self {
            node: node.to_string_lossy().into_owned(),
            log,
            _copy: copy,
        })
    }

    /// Hands out every entry of a group: its name, and a hash of its bytes.
    fn for_each(&self, group: GroupId, mut each: impl FnMut(LogId, u64)) -> Result<(), String> {
        let mut from = 0;
        loop {
            let entries = self.log.entries(group, from..u64::MAX, READ_BYTES_MAX);
            let entries = entries.map_err(|error| format!("{}: {error}", self.node))?;
            let Some(last) = entries.last() else {
                return Ok(());
            };
            from = last.id.index + 1;
            for entry in &entries {
                let mut hasher = DefaultHasher::new();
                entry.payload.hash(&mut hasher);
                each(entry.id, hasher.finish());
            }
        }
    }
}

fn compare(logs: &[Log], verdict: &mut Verdict) {
    let mut groups: Vec<GroupId> = logs.iter().flat_map(|one| one.log.groups()).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        // By name: what it is, and who had it first.
        let mut known: HashMap<LogId, (u64, &str)> = HashMap::new();
        for one in logs {
            let read = one.for_each(group, |id, hash| match known.get(&id) {
                None => {
                    known.insert(id, (hash, &one.node));
                }
                Some((other, at)) => verdict.check(*other == hash, || {
                    format!(
                        "group {group}: entry {id} is not the same at {at} and at {}",
                        one.node
                    )
                }),
            });
            if let Err(error) = read {
                verdict.find(|| error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use storage::raft::LogEntry;

    use super::*;

    /// The data folder of a node whose log has these entries: their terms, and what they are.
    fn node(entries: &[(u64, &'static str)]) -> TempDir {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(data.path().join("raft")).unwrap();
        let folder = data.path().join(FOLDER);
        let log = RaftLog::open(Arc::new(RealFs), &folder, &Config::default(), |_| {}).unwrap();
        let entries: Vec<LogEntry> = (1..)
            .zip(entries)
            .map(|(index, (term, text))| LogEntry {
                id: LogId {
                    index,
                    term: *term,
                    leader: 0,
                },
                payload: Bytes::from_static(text.as_bytes()),
            })
            .collect();
        let bytes = entries.iter().map(LogEntry::log_bytes).sum();
        let room = log.reserve(bytes).unwrap();
        log.append(room, GroupId(7), &entries, |_| {}).unwrap();
        log.close();
        // A disk under strain leaves such a thing beside each file.
        std::fs::write(folder.join("00.synced"), b"").unwrap();
        data
    }

    fn of(nodes: &[TempDir]) -> Verdict {
        let data: Vec<PathBuf> = nodes.iter().map(|one| one.path().to_owned()).collect();
        replicas(&data)
    }

    #[test]
    fn logs_that_agree_as_far_as_they_go_are_green() {
        // The last entry of the third came from another leader, and nobody has committed it.
        let verdict = of(&[
            node(&[(1, "a"), (1, "b"), (2, "c")]),
            node(&[(1, "a"), (1, "b")]),
            node(&[(1, "a"), (1, "b"), (3, "x")]),
        ]);
        assert_eq!(verdict.violations, [] as [String; 0]);
        assert_eq!((verdict.checked, verdict.count), (4, 0));
    }

    #[test]
    fn an_entry_that_is_another_one_elsewhere_is_named() {
        let verdict = of(&[node(&[(1, "a"), (1, "b")]), node(&[(1, "a"), (1, "other")])]);
        assert_eq!((verdict.checked, verdict.count), (2, 1));
        let words = &verdict.violations[0];
        assert!(
            words.starts_with("group 7: entry 1-0-2 is not the same"),
            "{words}"
        );
    }

    #[test]
    fn a_log_that_cannot_be_read_is_a_violation() {
        let verdict = replicas(&[PathBuf::from("/no/such/node")]);
        assert_eq!(verdict.count, 1);
        assert!(verdict.violations[0].contains("/no/such/node"));
    }
}
