//! The data folder: whose it is, and that one process has it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cluster_core::{FolderId, StartCount};
use mqtt::Templates;
use runtime::Random;
use serde::{Deserialize, Serialize};
use storage::fs::{Fs, LOCK_FILE, LockError};

use crate::Config;

/// The file that makes a folder a data folder.
const IDENTITY_FILE: &str = "node.json";
/// The file that counts the starts on the folder.
const STARTS_FILE: &str = "starts.json";
/// Version of the folder's layout.
const LAYOUT: u32 = 1;

/// What was fixed when the folder was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// Layout of the folder.
    pub(crate) layout: u32,
    /// Node number.
    pub(crate) node: u32,
    /// Session shards.
    pub(crate) shards: u16,
    /// Telemetry buckets.
    pub(crate) buckets: u16,
    /// Device-owned templates; there are none in a folder of a cluster that was founded before there
    /// were any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) device_templates: Vec<String>,
    /// The cluster that the node joined, by its founder's folder in hexadecimal; none for the
    /// founder itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<String>,
}

/// What a cluster is founded with, for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fixed {
    pub(crate) shards: u16,
    pub(crate) buckets: u16,
    pub(crate) templates: Templates,
}

impl Identity {
    /// The device-owned templates.
    ///
    /// # Panics
    /// If they are none: [`read`] has looked at them.
    pub(crate) fn templates(&self) -> Templates {
        Templates::parse(&self.device_templates).expect("they were looked at when they were read")
    }
}

/// What distinguishes the folder, and its starts, from all others for the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Birth {
    pub(crate) folder: FolderId,
    /// Counted and synced before it is told.
    pub(crate) start: StartCount,
}

/// [`Birth`] as stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Starts {
    /// 128 random bits, in hexadecimal.
    folder: String,
    starts: u64,
}

/// A data folder that this process has, until it is dropped.
pub(crate) struct DataFolder {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    /// None while its node has not joined yet.
    identity: Option<Identity>,
    pub(crate) birth: Birth,
    _lock: Box<dyn storage::fs::FolderLock>,
}

/// Why a folder cannot serve. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The operating system refuses.
    #[error("data folder {folder}: {error}")]
    Io {
        /// The folder.
        folder: PathBuf,
        /// What it says.
        error: String,
    },
    /// Another process has it.
    #[error(
        "data folder {folder}: another process serves from it ({held}); stop that one, or \
             choose another --data"
    )]
    Held {
        /// The folder.
        folder: PathBuf,
        /// Who.
        held: LockError,
    },
    /// It has files, and none of them says that it is ours.
    #[error(
        "data folder {folder} holds {file} and no {IDENTITY_FILE}: it is not a Tidewire data \
             folder; choose an empty or a new one with --data"
    )]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// One of its files.
        file: String,
    },
    /// It is ours, but of another layout or with other fixed numbers.
    #[error("data folder {folder}: {text}")]
    Differs {
        /// The folder.
        folder: PathBuf,
        /// What differs, both values, and what to do.
        text: String,
    },
}

impl DataFolder {
    /// Opens or creates the folder and takes it for this process.
    pub(crate) fn open(fs: &Arc<dyn Fs>, config: &Config) -> Result<Self, FolderError> {
        let folder = config.data.as_path();
        let io = |error: &dyn std::fmt::Display| FolderError::Io {
            folder: folder.into(),
            error: error.to_string(),
        };
        fs.create_dir_all(folder).map_err(|error| io(&error))?;
        let names = fs.list(folder).map_err(|error| io(&error))?;
        let is_new = !names.iter().any(|name| name == IDENTITY_FILE);
        // A node that has not joined yet has counted its starts.
        let own = [LOCK_FILE, STARTS_FILE];
        let foreign = names.into_iter().find(|name| !own.contains(&name.as_str()));
        if is_new && let Some(file) = foreign {
            return Err(FolderError::Foreign {
                folder: folder.into(),
                file,
            });
        }
        let lock = fs.lock(folder).map_err(|held| match held {
            LockError::Held { .. } => FolderError::Held {
                folder: folder.into(),
                held,
            },
            other => io(&other),
        })?;
        let identity = match is_new {
            true => None,
            false => Some(read(&**fs, folder, config)?),
        };
        let birth = count_start(&**fs, folder)?;
        let mut opened = Self {
            fs: Arc::clone(fs),
            path: folder.into(),
            identity,
            birth,
            _lock: lock,
        };
        if is_new && config.cluster.join.is_empty() {
            let templates = config.cluster.templates();
            let fixed = Fixed {
                shards: config.cluster.shards,
                buckets: config.telemetry.buckets,
                templates: templates.expect("the configuration was validated"),
            };
            opened.set_identity(config.node.unwrap_or(1), &fixed, None)?;
        }
        Ok(opened)
    }

    /// Whether the node is still to join.
    pub(crate) fn is_to_join(&self) -> bool {
        self.identity.is_none()
    }

    /// What was fixed when the folder was created.
    ///
    /// # Panics
    /// If the node is still to join.
    pub(crate) fn identity(&self) -> &Identity {
        self.identity.as_ref().expect("the node has joined")
    }

    /// Whether this node made its cluster.
    pub(crate) fn is_founder(&self) -> bool {
        self.identity().cluster.is_none()
    }

    /// The cluster: the folder of its founder.
    pub(crate) fn cluster(&self) -> FolderId {
        let joined = self.identity().cluster.as_ref();
        let parsed = joined.map(|text| u128::from_str_radix(text, 16));
        // It was looked at when it was read.
        parsed.map_or(self.birth.folder, |id| FolderId(id.unwrap_or_default()))
    }

    /// Fixes what the node is from now on.
    ///
    /// # Errors
    /// It is not fixed.
    pub(crate) fn set_identity(
        &mut self,
        node: u32,
        fixed: &Fixed,
        cluster: Option<FolderId>,
    ) -> Result<(), FolderError> {
        let identity = Identity {
            layout: LAYOUT,
            node,
            shards: fixed.shards,
            buckets: fixed.buckets,
            device_templates: fixed.templates.iter().map(str::to_owned).collect(),
            cluster: cluster.map(|folder| format!("{:032x}", folder.0)),
        };
        write(&*self.fs, &self.path, IDENTITY_FILE, &identity).map_err(|error| {
            FolderError::Io {
                folder: self.path.clone(),
                error: error.to_string(),
            }
        })?;
        self.identity = Some(identity);
        Ok(())
    }
}

/// Writes a file of the folder, whole or not at all, and makes it durable.
pub(crate) fn write(
    fs: &dyn Fs,
    folder: &Path,
    name: &str,
    value: &impl Serialize,
) -> Result<(), storage::fs::Error> {
    let mut text = serde_json::to_vec_pretty(value).expect("plain values are JSON");
    text.push(b'\n');
    let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
    if fs.exists(&new)? {
        fs.unlink(&new)?;
    }
    let file = fs.create(&new)?;
    file.write_at(0, &text)?;
    file.sync_data()?;
    fs.rename(&new, &path)?;
    fs.sync_dir(folder)
}

/// Counts this start, before anything is asked of the cluster under its number.
fn count_start(fs: &dyn Fs, folder: &Path) -> Result<Birth, FolderError> {
    let io = |error: storage::fs::Error| FolderError::Io {
        folder: folder.into(),
        error: error.to_string(),
    };
    let path = folder.join(STARTS_FILE);
    let mut random = Random::from_os();
    let (id, before) = if fs.exists(&path).map_err(io)? {
        let damaged = |what: &dyn std::fmt::Display| FolderError::Differs {
            folder: folder.into(),
            text: format!("{STARTS_FILE} cannot be read: {what}"),
        };
        let bytes = fs.read(&path).map_err(io)?;
        let Starts { folder: id, starts } =
            serde_json::from_slice(&bytes).map_err(|error| damaged(&error))?;
        let id = u128::from_str_radix(&id, 16).map_err(|error| damaged(&error))?;
        (id, starts)
    } else {
        let halves = (random.next_u64(), random.next_u64());
        (u128::from(halves.0) << 64 | u128::from(halves.1), 0)
    };
    let starts = before + 1;
    let stored = Starts {
        folder: format!("{id:032x}"),
        starts,
    };
    write(fs, folder, STARTS_FILE, &stored).map_err(io)?;
    Ok(Birth {
        folder: FolderId(id),
        start: StartCount(starts),
    })
}

fn read(fs: &dyn Fs, folder: &Path, config: &Config) -> Result<Identity, FolderError> {
    let differs = |text: String| FolderError::Differs {
        folder: folder.into(),
        text,
    };
    let bytes = fs
        .read(&folder.join(IDENTITY_FILE))
        .map_err(|error| FolderError::Io {
            folder: folder.into(),
            error: error.to_string(),
        })?;
    let identity: Identity = serde_json::from_slice(&bytes)
        .map_err(|error| differs(format!("{IDENTITY_FILE} cannot be read: {error}")))?;
    if identity.layout != LAYOUT {
        return Err(differs(format!(
            "its layout is version {}, this program knows {LAYOUT}; use the program that wrote it",
            identity.layout
        )));
    }
    if let Some(node) = config.node
        && node != identity.node
    {
        return Err(differs(format!(
            "it belongs to node {}, not to node {node}; leave --node out, or choose another --data",
            identity.node
        )));
    }
    let cluster = identity.cluster.as_ref();
    if cluster.is_some_and(|id| u128::from_str_radix(id, 16).is_err()) {
        return Err(differs(format!(
            "{IDENTITY_FILE} cannot be read: `cluster` is no hexadecimal number"
        )));
    }
    // Who joined took the numbers of the cluster.
    let asked = match cluster {
        Some(_) => (identity.shards, identity.buckets),
        None => (config.cluster.shards, config.telemetry.buckets),
    };
    for (key, asked, fixed) in [
        ("cluster.shards", asked.0, identity.shards),
        ("telemetry.buckets", asked.1, identity.buckets),
    ] {
        if asked != fixed {
            return Err(differs(format!(
                "{key} is {fixed} since it was created and cannot become {asked}"
            )));
        }
    }
    Templates::parse(&identity.device_templates)
        .map_err(|error| differs(format!("{IDENTITY_FILE} cannot be read: {error}")))?;
    let asked = config.cluster.device_templates.as_ref();
    if cluster.is_none() && asked.is_some_and(|asked| *asked != identity.device_templates) {
        return Err(differs(format!(
            "cluster.device_templates is {:?} since it was created and cannot become {:?}; leave \
             the key out",
            identity.device_templates,
            asked.expect("it differs")
        )));
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use storage::fs::RealFs;

    use super::*;

    fn real() -> Arc<dyn Fs> {
        Arc::new(RealFs)
    }

    fn config(folder: &Path) -> Config {
        Config {
            data: folder.join("data"),
            ..Config::default()
        }
    }

    #[test]
    fn a_folder_keeps_its_node_number() {
        let scratch = tempfile::tempdir().expect("a folder");
        let mut config = config(scratch.path());
        config.node = Some(7);
        drop(DataFolder::open(&real(), &config).expect("new"));
        config.node = None;
        assert_eq!(
            DataFolder::open(&real(), &config)
                .expect("again")
                .identity()
                .node,
            7
        );
        config.node = Some(8);
        let error = DataFolder::open(&real(), &config)
            .err()
            .expect("another number")
            .to_string();
        assert!(
            error.contains("node 7") && error.contains("node 8"),
            "{error}"
        );
    }

    #[test]
    fn each_start_is_counted_under_the_same_identity() {
        let scratch = tempfile::tempdir().expect("a folder");
        let config = config(scratch.path());
        let first = DataFolder::open(&real(), &config).expect("new").birth;
        let second = DataFolder::open(&real(), &config).expect("again").birth;
        assert_eq!(first.folder, second.folder);
        assert_eq!((first.start, second.start), (StartCount(1), StartCount(2)));
    }

    #[test]
    fn a_folder_serves_one_process() {
        let scratch = tempfile::tempdir().expect("a folder");
        let config = config(scratch.path());
        let _first = DataFolder::open(&real(), &config).expect("free");
        assert!(matches!(
            DataFolder::open(&real(), &config),
            Err(FolderError::Held { .. })
        ));
    }

    #[test]
    fn a_folder_with_foreign_files_is_left_alone() {
        let scratch = tempfile::tempdir().expect("a folder");
        std::fs::write(scratch.path().join("thesis.tex"), "x").expect("writable");
        let config = Config {
            data: scratch.path().into(),
            ..Config::default()
        };
        let error = DataFolder::open(&real(), &config)
            .err()
            .expect("foreign")
            .to_string();
        assert!(error.contains("thesis.tex"), "{error}");
        assert_eq!(
            std::fs::read_dir(scratch.path()).expect("readable").count(),
            1
        );
    }

    #[test]
    fn the_number_of_shards_is_fixed() {
        let scratch = tempfile::tempdir().expect("a folder");
        let mut config = config(scratch.path());
        drop(DataFolder::open(&real(), &config).expect("new"));
        config.cluster.shards = 8;
        let error = DataFolder::open(&real(), &config)
            .err()
            .expect("fixed")
            .to_string();
        assert!(error.contains("32") && error.contains('8'), "{error}");
    }

    fn templates(texts: &[&str]) -> Option<Vec<String>> {
        Some(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn the_device_templates_are_fixed() {
        let scratch = tempfile::tempdir().expect("a folder");
        let mut config = config(scratch.path());
        drop(DataFolder::open(&real(), &config).expect("new"));
        config.cluster.device_templates = templates(&["cmd/{client_id}/#"]);
        drop(DataFolder::open(&real(), &config).expect("the default, said aloud"));
        config.cluster.device_templates = templates(&["dev/{client_id}"]);
        let error = DataFolder::open(&real(), &config)
            .err()
            .expect("fixed")
            .to_string();
        let expected = "cluster.device_templates is [\"cmd/{client_id}/#\"] since it was created \
                        and cannot become [\"dev/{client_id}\"]";
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_folder_from_before_the_templates_has_none_and_gets_none() {
        let scratch = tempfile::tempdir().expect("a folder");
        let mut config = config(scratch.path());
        std::fs::create_dir(&config.data).expect("writable");
        let before = r#"{"layout": 1, "node": 1, "shards": 32, "buckets": 64}"#;
        let file = config.data.join(IDENTITY_FILE);
        std::fs::write(&file, before).expect("writable");
        config.telemetry.buckets = 64;

        let folder = DataFolder::open(&real(), &config).expect("of ours");
        assert!(folder.identity().templates().is_empty());
        drop(folder);
        config.cluster.device_templates = templates(&["cmd/{client_id}/#"]);
        let error = DataFolder::open(&real(), &config)
            .err()
            .expect("it is late");
        let expected = "cluster.device_templates is [] since it was created";
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn templates_that_are_none_are_not_read() {
        let scratch = tempfile::tempdir().expect("a folder");
        let config = config(scratch.path());
        drop(DataFolder::open(&real(), &config).expect("new"));
        let file = config.data.join(IDENTITY_FILE);
        let text = std::fs::read_to_string(&file).expect("it was written");
        assert!(text.contains("cmd/{client_id}/#"), "{text}");
        std::fs::write(&file, text.replace("{client_id}", "{device}")).expect("writable");
        let error = DataFolder::open(&real(), &config).err().expect("damaged");
        assert!(error.to_string().contains("exactly one level"), "{error}");
    }
}
