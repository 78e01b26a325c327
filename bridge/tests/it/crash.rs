//! The line over a disk that loses and tears what was not synced, stopped at random operations:
//! every acknowledged message is in the store exactly once, and nothing else is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use storage::fs::FaultFs;
use storage::{log, tsdb};
use tidewire_bridge::{Config, Defects, LogConfig, Message, OpenError, Outcome, RefusedReason};
use tokio::sync::oneshot;

use crate::harness::{FOLDER, Line, NOW_MS, message_at, small};
use crate::lazy_fs::LazyFs;

/// Lives of a node in one run; each but the last ends in a crash.
const LIVES: u32 = 5;
/// Batches sent in one life at most.
const BATCHES: u32 = 60;
const DEVICES: u32 = 5;

/// Is what a run passed, to see that it was worth something.
#[derive(Clone, Copy, Debug, Default)]
struct Passed {
    acknowledged: usize,
    resent: usize,
    seals: u64,
    merges: u64,
    crashes_while_open: u32,
    log_segments: u64,
}

#[test]
fn every_acknowledged_message_is_stored_exactly_once_whatever_a_crash_takes() {
    let mut all = Passed::default();
    for seed in 0..32 {
        let passed = run(seed, Defects::default(), seed % 4 == 3);
        let passed = passed.unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        all.acknowledged += passed.acknowledged;
        all.resent += passed.resent;
        all.seals += passed.seals;
        all.merges += passed.merges;
        all.crashes_while_open += passed.crashes_while_open;
        all.log_segments = all.log_segments.max(passed.log_segments);
    }
    assert!(all.acknowledged > 1_000 && all.resent > 100, "{all:?}");
    assert!(all.seals > 100 && all.merges > 30, "{all:?}");
    assert!(
        all.crashes_while_open > 0 && all.log_segments > 1,
        "{all:?}"
    );
}

#[test]
fn an_acknowledgement_before_the_fsync_is_found() {
    let log = log::Defects {
        acknowledge_before_fsync: true,
        ..log::Defects::default()
    };
    assert_found(Defects {
        log,
        ..Defects::default()
    });
}

#[test]
fn a_reader_ahead_of_the_fsync_is_found() {
    let log = log::Defects {
        read_before_fsync: true,
        ..log::Defects::default()
    };
    assert_found(Defects {
        log,
        ..Defects::default()
    });
}

#[test]
fn a_manifest_commit_before_the_segments_sync_is_found() {
    let tsdb = tsdb::Defects {
        commit_before_sync: true,
        ..tsdb::Defects::default()
    };
    assert_found(Defects {
        tsdb,
        ..Defects::default()
    });
}

#[test]
fn offsets_committed_before_their_segment_are_found() {
    let tsdb = tsdb::Defects {
        offsets_before_segment: true,
        ..tsdb::Defects::default()
    };
    assert_found(Defects {
        tsdb,
        ..Defects::default()
    });
}

#[test]
fn rows_taken_without_looking_at_sealed_ones_are_found() {
    let tsdb = tsdb::Defects {
        insert_without_lookup: true,
        ..tsdb::Defects::default()
    };
    assert_found(Defects {
        tsdb,
        ..Defects::default()
    });
}

fn assert_found(defects: Defects) {
    let lazy = defects.log.read_before_fsync;
    let found = (0..200).find_map(|seed| run(seed, defects, lazy).err().map(|what| (seed, what)));
    let (seed, violation) = found.unwrap_or_else(|| panic!("no run of 200 noticed {defects:?}"));
    println!("seed {seed}: {violation}");
}

fn run(seed: u64, defects: Defects, lazy: bool) -> Result<Passed, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime
        .expect("a runtime")
        .block_on(Run::new(seed, lazy).lives(defects))
}

struct Run {
    random: SmallRng,
    fs: FaultFs,
    /// Whether the log's fsync is slow; see [`LazyFs`].
    lazy: bool,
    sent: Vec<Sent>,
    passed: Passed,
}

#[derive(Clone, Debug)]
struct Sent {
    device: String,
    ts: i64,
    sequence: usize,
    acknowledged: bool,
}

fn config() -> Config {
    Config {
        head_bytes_limit: 2_000,
        log: LogConfig {
            segment_bytes: 4 << 10,
            ..small().log
        },
        ..small()
    }
}

impl Run {
    fn new(seed: u64, lazy: bool) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            fs: FaultFs::new(seed),
            lazy,
            sent: Vec::new(),
            passed: Passed::default(),
        }
    }

    async fn open(&self, defects: Defects) -> Result<Line, OpenError> {
        // Where the reader may be ahead, it must have the time for it.
        if self.lazy {
            let config = Config {
                head_age_max: Duration::ZERO,
                ..config()
            };
            return Line::open_on(Arc::new(LazyFs::over(&self.fs)), config, defects).await;
        }
        Line::open_on(Arc::new(self.fs.clone()), config(), defects).await
    }

    async fn lives(mut self, defects: Defects) -> Result<Passed, String> {
        for _ in 1..LIVES {
            let operations = self.random.random_range(20..1_200);
            self.fs.freeze_at(self.fs.operations() + operations);
            match self.open(defects).await {
                Ok(line) => self.life(&line).await?,
                Err(_) if self.fs.is_frozen() => self.passed.crashes_while_open += 1,
                Err(error) => return Err(format!("the line does not open again: {error}")),
            }
            self.fs = self.fs.crash();
        }
        let line = self.open(defects).await;
        let line = line.map_err(|error| format!("the line does not open again: {error}"))?;
        self.life(&line).await?;
        line.telemetry.seal().await;
        self.check_answers(&line).await?;
        line.telemetry.shutdown().await;
        drop(line);
        self.check_blocks()?;
        self.passed.acknowledged = self.sent.iter().filter(|sent| sent.acknowledged).count();
        Ok(self.passed)
    }

    /// Sends until the machine stops or the life is over.
    async fn life(&mut self, line: &Line) -> Result<(), String> {
        let mut batches = 0;
        while batches < BATCHES && !self.fs.is_frozen() {
            // Several at once, so that the writer reads one while the next is being synced.
            let together = self.random.random_range(1..5);
            batches += together;
            let mut waiting = Vec::new();
            for _ in 0..together {
                let batch = self.next_batch();
                let outcome = self.submit(line, &batch);
                waiting.push((batch, outcome));
            }
            for (batch, outcome) in waiting {
                // A completion that was dropped uncalled promises nothing.
                let outcome = outcome.await.unwrap_or(Outcome::NotDurable);
                if outcome == Outcome::Durable {
                    batch
                        .iter()
                        .for_each(|&at| self.sent[at].acknowledged = true);
                } else if !self.fs.is_frozen() {
                    return Err("a running line did not keep a batch".to_owned());
                }
            }
        }
        let fatal = line.fatal.lock().expect("nobody panics with it").clone();
        if let Some(fatal) = fatal.filter(|_| !self.fs.is_frozen()) {
            return Err(format!("a running line gave up: {fatal}"));
        }
        let status = line.telemetry.status();
        self.passed.seals += status.seals;
        self.passed.merges += status.merges;
        let segments = status.log_bytes / u64::from(config().log.segment_bytes);
        self.passed.log_segments = self.passed.log_segments.max(segments);
        Ok(())
    }

    /// Chooses new messages, also older than what was sent, and some that were sent before.
    fn next_batch(&mut self) -> Vec<usize> {
        let count = self.random.random_range(1..6);
        (0..count)
            .map(|_| {
                if !self.sent.is_empty() && self.random.random_bool(0.2) {
                    self.passed.resent += 1;
                    return self.random.random_range(0..self.sent.len());
                }
                let sequence = self.sent.len();
                let backfill = if self.random.random_bool(0.1) {
                    10_000_000
                } else {
                    0
                };
                self.sent.push(Sent {
                    device: format!("car{}", self.random.random_range(0..DEVICES)),
                    ts: NOW_MS - backfill + sequence as i64,
                    sequence,
                    acknowledged: false,
                });
                sequence
            })
            .collect()
    }

    fn submit(&self, line: &Line, messages: &[usize]) -> oneshot::Receiver<Outcome> {
        let payloads = messages
            .iter()
            .map(|&at| Bytes::from(self.sent[at].payload()));
        let payloads: Vec<Bytes> = payloads.collect();
        let batch = messages.iter().zip(&payloads).map(|(&at, payload)| {
            let sent = &self.sent[at];
            Message {
                packet_seq: sent.sequence as u64,
                ..message_at(&sent.device, payload, NOW_MS)
            }
        });
        match line.submit(&batch.collect::<Vec<_>>()) {
            Ok(outcome) => outcome,
            Err(refused) => {
                assert_eq!(refused.reason, RefusedReason::Stopped);
                // Its sender is dropped: nothing was promised.
                oneshot::channel().1
            }
        }
    }

    async fn check_answers(&self, line: &Line) -> Result<(), String> {
        let mut stored = BTreeMap::new();
        for device in 0..DEVICES {
            let device = format!("car{device}");
            for (ts, metrics) in line.rows(&device).await {
                stored.insert((device.clone(), ts), metrics);
            }
        }
        for sent in &self.sent {
            match stored.remove(&(sent.device.clone(), sent.ts)) {
                Some(metrics) if metrics == sent.metrics() => {}
                Some(metrics) => return Err(format!("{sent:?} became {metrics:?}")),
                None if sent.acknowledged => return Err(format!("{sent:?} is lost")),
                None => {}
            }
        }
        if stored.is_empty() {
            Ok(())
        } else {
            Err(format!("{stored:?} was never sent"))
        }
    }

    /// Counts points in the blocks as they lie.
    fn check_blocks(&self) -> Result<(), String> {
        let config = tsdb::Config {
            buckets: config().buckets,
            ..tsdb::Config::default()
        };
        let folder = Path::new(FOLDER).join("tsdb");
        let store = tsdb::Tsdb::open(Arc::new(self.fs.clone()), &folder, config)
            .map_err(|error| error.to_string())?;
        let mut found: BTreeMap<(String, i64, String), u32> = BTreeMap::new();
        let visit = |point: &tsdb::RawPoint<'_>| {
            let key = (
                point.device.to_string(),
                point.ts_ms,
                point.metric.to_owned(),
            );
            *found.entry(key).or_default() += 1;
        };
        store.scan_raw(visit).map_err(|error| error.to_string())?;
        match found.iter().find(|(_, count)| **count > 1) {
            Some((point, count)) => Err(format!("{point:?} is stored {count} times")),
            None => Ok(()),
        }
    }
}

impl Sent {
    fn metrics(&self) -> BTreeMap<String, f64> {
        let sequence = self.sequence as f64;
        [
            ("sequence".to_owned(), sequence),
            ("x".to_owned(), sequence / 8.0),
        ]
        .into()
    }

    fn payload(&self) -> String {
        let (ts, sequence) = (self.ts, self.sequence);
        let x = sequence as f64 / 8.0;
        format!("{{\"ts\":{ts},\"metrics\":{{\"sequence\":{sequence},\"x\":{x}}}}}")
    }
}
