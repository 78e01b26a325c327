//! A line over a disk in memory, with a clock that stands still.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use runtime::ManualClock;
use storage::fs::{FaultFs, Fs};
use tidewire_bridge::{
    Batch, Config, Defects, Fatal, LogConfig, Message, OnFatal, OpenError, Outcome, OutletId, Port,
    PortId, QueryRequest, Refused, StreamId, Telemetry, Ticket,
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

/// Tells each batch's sender its outcome: the tickets of a batch have one number.
#[derive(Default)]
pub(crate) struct Batches(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    last: u64,
    open: BTreeMap<u64, Open>,
}

struct Open {
    left: usize,
    outcome: Outcome,
    told: tokio::sync::oneshot::Sender<Outcome>,
}

impl Port for Batches {
    fn settled(&self, outcome: Outcome, tickets: Vec<Ticket>) {
        let open = &mut self.0.lock().expect("nobody panics with it").open;
        for ticket in tickets {
            let number = ticket.words[0];
            let one = open.get_mut(&number).expect("settled once");
            one.left -= 1;
            if outcome == Outcome::NotDurable {
                one.outcome = outcome;
            }
            if one.left == 0 {
                let one = open.remove(&number).expect("looked up above");
                // A test that gave up waiting does not care.
                let _unheard = one.told.send(one.outcome);
            }
        }
    }
}

pub(crate) struct Line {
    pub(crate) telemetry: Telemetry,
    batches: Arc<Batches>,
    port: PortId,
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
        Ok(Self::of(telemetry, clock, fatal))
    }

    pub(crate) fn of(
        telemetry: Telemetry,
        clock: ManualClock,
        fatal: Arc<Mutex<Option<Fatal>>>,
    ) -> Self {
        let batches: Arc<Batches> = Arc::default();
        let port = telemetry
            .ingest()
            .port(Arc::clone(&batches) as Arc<dyn Port>);
        Self {
            telemetry,
            batches,
            port,
            clock,
            fatal,
        }
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
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        let outcome = self.submit(&[message_at(device, &payload, received_ms)]);
        outcome
            .expect("there is room")
            .await
            .unwrap_or(Outcome::NotDurable)
    }

    /// Submits messages as one batch.
    pub(crate) fn submit(
        &self,
        messages: &[Message<'_>],
    ) -> Result<tokio::sync::oneshot::Receiver<Outcome>, Refused> {
        let (batch, outcome) = self.batch(messages);
        self.telemetry.ingest().submit(batch)?;
        Ok(outcome)
    }

    /// Makes a batch of which the receiver will hear.
    pub(crate) fn batch(
        &self,
        messages: &[Message<'_>],
    ) -> (Batch, tokio::sync::oneshot::Receiver<Outcome>) {
        let (told, outcome) = tokio::sync::oneshot::channel();
        let mut waiting = self.batches.0.lock().expect("nobody panics with it");
        waiting.last += 1;
        let number = waiting.last;
        let open = Open {
            left: messages.len(),
            outcome: Outcome::Durable,
            told,
        };
        waiting.open.insert(number, open);
        drop(waiting);
        let mut batch = self.telemetry.ingest().batch(OutletId(0), self.port);
        let ticket = Ticket {
            kind: 0,
            words: [number, 0],
        };
        for message in messages {
            batch.push(message, Some(ticket));
        }
        (batch, outcome)
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

pub(crate) fn message_at<'a>(device: &'a str, payload: &'a Bytes, received_ms: i64) -> Message<'a> {
    Message {
        stream: StreamId(0),
        device,
        payload,
        content_type: None,
        received_ms,
        connection_epoch: 1,
        packet_seq: 1,
        retransmit: false,
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
