//! A line over a disk in memory, with a clock that stands still.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use runtime::ManualClock;
use storage::fs::{FaultFs, Fs};
use tidewire_bridge::{
    Config, Defects, Fatal, LogConfig, Message, OnFatal, OpenError, Outcome, QueryRequest,
    StreamId, Telemetry,
};

pub(crate) const NOW_MS: i64 = 1_700_000_000_000;
pub(crate) const FOLDER: &str = "/data";

/// Small enough that a short run passes segment rolls, seals and merges.
pub(crate) fn small() -> Config {
    Config {
        buckets: 4,
        head_bytes_limit: 64 << 10,
        head_age_max: Duration::from_secs(60),
        block_rows: 8,
        merge_fan_in: 2,
        log: LogConfig {
            segment_bytes: 16 << 10,
            read_retention_bytes: 0,
            ..LogConfig::default()
        },
        ..Config::default()
    }
}

pub(crate) struct Line {
    pub(crate) telemetry: Telemetry,
    pub(crate) clock: ManualClock,
    pub(crate) fatal: Arc<Mutex<Option<Fatal>>>,
}

impl Line {
    pub(crate) async fn open(fs: &FaultFs, config: Config) -> Self {
        Self::try_open(fs, config, Defects::default())
            .await
            .expect("the line opens")
    }

    pub(crate) async fn try_open(
        fs: &FaultFs,
        config: Config,
        defects: Defects,
    ) -> Result<Self, OpenError> {
        Self::open_on(Arc::new(fs.clone()), config, defects).await
    }

    pub(crate) async fn open_on(
        fs: Arc<dyn Fs>,
        config: Config,
        defects: Defects,
    ) -> Result<Self, OpenError> {
        let clock = ManualClock::at(NOW_MS as u64);
        let fatal: Arc<Mutex<Option<Fatal>>> = Arc::default();
        let on_fatal: OnFatal = {
            let fatal = Arc::clone(&fatal);
            Arc::new(move |why| {
                fatal
                    .lock()
                    .expect("nobody panics with it")
                    .get_or_insert(why);
            })
        };
        let telemetry = Telemetry::open_sabotaged(
            Path::new(FOLDER),
            fs,
            Arc::new(clock.clone()),
            config,
            on_fatal,
            defects,
        )
        .await?;
        Ok(Self {
            telemetry,
            clock,
            fatal,
        })
    }

    /// Waits until no level has segments enough for a merge.
    pub(crate) async fn merged(&self, fan_in: usize) {
        let many = |level: &admin::query::LevelStatus| level.segments >= fan_in as u64;
        while self.telemetry.tsdb_status().levels.iter().any(many) {
            tokio::task::yield_now().await;
        }
    }

    /// Sends one message and waits for its outcome.
    pub(crate) async fn send(&self, device: &str, payload: &str) -> Outcome {
        self.send_at(device, payload, NOW_MS).await
    }

    pub(crate) async fn send_at(&self, device: &str, payload: &str, received_ms: i64) -> Outcome {
        let ingest = self.telemetry.ingest();
        let mut batch = ingest.batch();
        batch.push(&Message {
            stream: StreamId(0),
            device,
            payload: &Bytes::copy_from_slice(payload.as_bytes()),
            content_type: None,
            received_ms,
            connection_epoch: 1,
            packet_seq: 1,
            retransmit: false,
        });
        let (told, outcome) = tokio::sync::oneshot::channel();
        let done = Box::new(move |outcome| {
            // A test that gave up waiting does not care.
            let _unheard = told.send(outcome);
        });
        ingest.submit(batch, done).expect("there is room");
        outcome.await.unwrap_or(Outcome::NotDurable)
    }

    pub(crate) async fn rows(&self, device: &str) -> Vec<(i64, BTreeMap<String, f64>)> {
        let request = QueryRequest {
            device: device.to_owned(),
            metrics: Vec::new(),
            from_ms: i64::MIN,
            to_ms: i64::MAX,
            step_ms: None,
            limit: usize::MAX,
        };
        let answer = self
            .telemetry
            .query()
            .query(request)
            .await
            .expect("the store answers");
        assert!(!answer.partial, "the writer passed the log's end");
        let row = |row: admin::query::QueryRow| {
            let metrics = row.metrics.into_iter().map(|(name, value)| (name, value.0));
            (row.ts, metrics.collect())
        };
        answer.rows.into_iter().map(row).collect()
    }
}

pub(crate) fn message(ts: i64, metrics: &[(&str, f64)]) -> String {
    let metrics: Vec<String> = metrics
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{\"ts\":{ts},\"metrics\":{{{}}}}}", metrics.join(","))
}

pub(crate) fn row(ts: i64, metrics: &[(&str, f64)]) -> (i64, BTreeMap<String, f64>) {
    (
        ts,
        metrics
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect(),
    )
}
