//! What a line is made of, on disk and towards Kafka, before its writer runs.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use runtime::Clock;
use storage::fs::Fs;
use storage::log::{self, EmbeddedLog};
use storage::tsdb::{self, Tsdb};

use crate::config::Config;
use crate::counters::Counters;
use crate::dead_letter::{self, DeadLetterError, DeadLetters, SharedDeadLetters};
use crate::embedded::Embedded;
use crate::ingest::OutletId;
use crate::kafka;
use crate::kafka::sender::Handle;
use crate::line::{Defects, Fatal, OnFatal, OpenError};
use crate::log::{Append, Log, Ports};
use crate::writer::{positions_in, positions_of};

/// Bytes of a dead-letter segment file.
const DLQ_SEGMENT_BYTES: u32 = 4 << 20;

/// Where the parts of a line lie.
pub(crate) struct Folders {
    pub(crate) log: PathBuf,
    pub(crate) spool: PathBuf,
    pub(crate) dead_letters: PathBuf,
    pub(crate) tsdb: PathBuf,
}

impl Folders {
    pub(crate) fn of(data_dir: &Path) -> Self {
        Self {
            log: data_dir.join("log"),
            spool: data_dir.join("spool"),
            dead_letters: data_dir.join("dlq"),
            tsdb: data_dir.join("tsdb"),
        }
    }
}

/// Log and store, opened and matched; of the line only what sends to Kafka runs.
pub(crate) struct Parts {
    pub(crate) log: Arc<dyn Log>,
    /// The same, if it is the embedded one.
    pub(crate) embedded: Option<EmbeddedLog>,
    pub(crate) outlets: Vec<Arc<dyn Append>>,
    pub(crate) by_stream: Vec<OutletId>,
    pub(crate) ports: Ports,
    pub(crate) tsdb: Tsdb,
    pub(crate) dead_letters: SharedDeadLetters,
    /// This node's own log of dead letters.
    pub(crate) letters: EmbeddedLog,
    pub(crate) counters: Arc<Counters>,
    pub(crate) kafka: Option<Handle>,
    pub(crate) stop: Arc<AtomicBool>,
}

/// Checks the ranges of a configuration.
pub(crate) fn check(config: &Config) -> Result<(), OpenError> {
    let refuse = |what: String| Err(OpenError::Config(what));
    if config.buckets == 0 {
        return refuse("telemetry.buckets = 0: there must be at least 1".to_owned());
    }
    if !(1..=4096).contains(&config.block_rows) {
        return refuse(format!(
            "block_rows = {} is outside 1 to 4096",
            config.block_rows
        ));
    }
    if !(2..=64).contains(&config.merge_fan_in) {
        return refuse(format!(
            "merge_fan_in = {} is outside 2 to 64",
            config.merge_fan_in
        ));
    }
    if config.head_bytes_limit == 0 || config.inflight_bytes_limit == 0 {
        return refuse("head_bytes_limit and inflight_bytes_limit must be at least 1".to_owned());
    }
    if let Some(kafka) = &config.kafka {
        kafka
            .check()
            .map_err(|error| OpenError::Config(error.to_string()))?;
    }
    Ok(())
}

pub(crate) fn log_config(config: &Config) -> log::Config {
    log::Config {
        partitions: config.buckets,
        segment_bytes: config.log.segment_bytes,
        log_bytes_limit: config.log.log_bytes_limit,
        read_retention: config.log.read_retention,
        read_retention_bytes: config.log.read_retention_bytes,
        ..log::Config::default()
    }
}

pub(crate) fn tsdb_config(config: &Config) -> tsdb::Config {
    tsdb::Config {
        buckets: config.buckets,
        block_rows: config.block_rows,
        merge_fan_in: config.merge_fan_in,
    }
}

/// Opens everything that lies on disk. Blocks while what a crash left is checked.
///
/// # Errors
/// Nothing runs after one.
pub(crate) fn open(
    fs: &Arc<dyn Fs>,
    folders: &Folders,
    config: &Config,
    clock: &Arc<dyn Clock>,
    on_fatal: &OnFatal,
    defects: Defects,
) -> Result<Parts, OpenError> {
    let tsdb = Tsdb::open_with_defects(
        Arc::clone(fs),
        &folders.tsdb,
        tsdb_config(config),
        defects.tsdb,
    )
    .map_err(|error| OpenError::Store(error.to_string()))?;
    let stop = Arc::new(AtomicBool::new(false));
    let counters = Arc::new(Counters::default());
    let (letters, own_letters) = open_letters(fs, folders, config, on_fatal, &stop)?;
    let base = Base {
        tsdb,
        stop,
        counters,
        letters,
        own_letters,
    };
    match &config.kafka {
        None => open_embedded(fs, folders, config, on_fatal, defects, base),
        Some(settings) => {
            refuse_unread_log(fs, folders)?;
            let opening = kafka::open::Opening {
                fs: Arc::clone(fs),
                settings: settings.clone(),
                streams: config.streams.clone(),
                buckets: config.buckets,
                node: config.node,
                payload_bytes_max: config.payload_bytes_max,
                inflight_bytes_limit: config.inflight_bytes_limit,
                ports: Ports::default(),
                clock: Arc::clone(clock),
                counters: Arc::clone(&base.counters),
                on_fatal: Arc::clone(on_fatal),
                stop: Arc::clone(&base.stop),
                letters: Arc::clone(&base.own_letters),
            };
            open_kafka(opening, folders, base)
        }
    }
}

/// What both kinds of log need.
struct Base {
    tsdb: Tsdb,
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    letters: EmbeddedLog,
    own_letters: SharedDeadLetters,
}

fn open_letters(
    fs: &Arc<dyn Fs>,
    folders: &Folders,
    config: &Config,
    on_fatal: &OnFatal,
    stop: &Arc<AtomicBool>,
) -> Result<(EmbeddedLog, SharedDeadLetters), OpenError> {
    let dlq = log::Config {
        segment_bytes: DLQ_SEGMENT_BYTES.min(config.log.segment_bytes),
        tail_cache_bytes: 0,
        ..log_config(config)
    };
    let on_fatal = Arc::clone(on_fatal);
    let failed = move |fatal: log::Fatal| on_fatal(Fatal(format!("dead letters: {fatal}")));
    let refused = |error: DeadLetterError| OpenError::DeadLetters(error.to_string());
    let log = dead_letter::open_log(Arc::clone(fs), &folders.dead_letters, dlq, failed)
        .map_err(refused)?;
    let letters = DeadLetters::local(&log, Arc::clone(stop)).map_err(refused)?;
    Ok((log, Arc::new(Mutex::new(letters))))
}

fn open_embedded(
    fs: &Arc<dyn Fs>,
    folders: &Folders,
    config: &Config,
    on_fatal: &OnFatal,
    defects: Defects,
    base: Base,
) -> Result<Parts, OpenError> {
    let on_fatal = Arc::clone(on_fatal);
    let failed = move |fatal: log::Fatal| on_fatal(Fatal(fatal.to_string()));
    let log_config = log_config(config);
    let log = if defects.log == log::Defects::default() {
        EmbeddedLog::open(Arc::clone(fs), &folders.log, log_config, failed)
    } else {
        let (fs, folder) = (Arc::clone(fs), &folders.log);
        EmbeddedLog::open_sabotaged(fs, folder, log_config, 0, defects.log, failed)
    };
    let log = log.map_err(|error| OpenError::Log(error.to_string()))?;
    let ports = Ports::default();
    let embedded = log.clone();
    let log = Arc::new(Embedded::new(
        log,
        config.node,
        ports.clone(),
        config.inflight_bytes_limit,
    ));
    // Said now, and not by the writer later: a log that does not fit the store must not serve.
    let from = positions_of(&base.tsdb, &*log).map_err(OpenError::Store)?;
    let (marks, taken) = (base.tsdb.marks(), std::collections::BTreeSet::new());
    log.consume(&positions_in(&*log, &from, &marks, &taken))
        .map_err(|error| OpenError::Log(error.to_string()))?;
    Ok(Parts {
        outlets: vec![Arc::clone(&log) as Arc<dyn Append>],
        log,
        embedded: Some(embedded),
        by_stream: Vec::new(),
        ports,
        tsdb: base.tsdb,
        dead_letters: base.own_letters,
        letters: base.letters,
        counters: base.counters,
        kafka: None,
        stop: base.stop,
    })
}

fn open_kafka(
    opening: kafka::open::Opening,
    folders: &Folders,
    base: Base,
) -> Result<Parts, OpenError> {
    let ports = opening.ports.clone();
    let side = kafka::open::open(opening, &folders.spool).map_err(OpenError::Log)?;
    if let Err(error) = positions_of(&base.tsdb, &*side.log) {
        side.log.close();
        return Err(OpenError::Store(error));
    }
    let dead_letters = match side.dead_letters {
        Some(letters) => Arc::new(Mutex::new(letters)),
        None => base.own_letters,
    };
    Ok(Parts {
        log: side.log,
        embedded: None,
        outlets: side.outlets,
        by_stream: side.by_stream,
        ports,
        tsdb: base.tsdb,
        dead_letters,
        letters: base.letters,
        counters: base.counters,
        kafka: Some(side.handle),
        stop: base.stop,
    })
}

/// A folder that was filled through the embedded log may hold messages there that the store has
/// not sealed: they were acknowledged, and nothing here would read them.
fn refuse_unread_log(fs: &Arc<dyn Fs>, folders: &Folders) -> Result<(), OpenError> {
    let exists = fs
        .exists(&folders.log)
        .map_err(|error| OpenError::Log(error.to_string()))?;
    if exists {
        return Err(OpenError::Config(format!(
            "{} was filled without Kafka: its log may hold messages that its store has not; \
             begin with another data folder",
            folders.log.display()
        )));
    }
    Ok(())
}
