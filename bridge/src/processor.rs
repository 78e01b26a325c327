//! One message of the log on its way into the store.

use std::sync::Arc;

use storage::log::{ContentType, StoredRecord};
use storage::tsdb::{self, Inserted, Tsdb};
use telemetry::payload::{Decoder, PayloadError};
use telemetry::{DeviceId, Stamp};

use crate::counters::{Counters, DeadLetterReason};

/// Decodes messages and inserts their rows. Its effects depend on the log and the sealed store
/// alone, so that a replay agrees with the first time.
#[derive(Debug)]
pub(crate) struct Processor {
    tsdb: Tsdb,
    decoder: Decoder,
    counters: Arc<Counters>,
}

/// Is what must go to the dead letters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) reason: DeadLetterReason,
    pub(crate) text: String,
}

impl Processor {
    pub(crate) fn new(tsdb: Tsdb, counters: Arc<Counters>) -> Self {
        Self {
            tsdb,
            decoder: Decoder::new(),
            counters,
        }
    }

    /// Stores what can be stored of a message and says what cannot.
    ///
    /// # Errors
    /// When the store cannot be read; nothing was stored.
    pub(crate) fn process(
        &mut self,
        source: &StoredRecord,
    ) -> Result<Option<Complaint>, tsdb::Error> {
        let record = &source.record;
        Counters::add(&self.counters.processed_messages, 1_u64);
        let device = match DeviceId::from_bytes(&record.key) {
            Ok(device) => device,
            Err(error) => {
                return Ok(Some(complain(
                    DeadLetterReason::DeviceId,
                    error.to_string(),
                )));
            }
        };
        if !matches!(
            record.content_type,
            ContentType::Unspecified | ContentType::Json
        ) {
            let text = format!("content type {:?} is not read", record.content_type);
            return Ok(Some(complain(DeadLetterReason::ContentType, text)));
        }
        let decoded = match self
            .decoder
            .decode_json(&record.payload, record.received_ms)
        {
            Ok(decoded) => decoded,
            Err(error) => return Ok(Some(complain(reason_of(&error), error.to_string()))),
        };
        let mut complaint = decoded
            .reason()
            .map(|text| complain(DeadLetterReason::RejectedMetric, text));
        if decoded.row.is_empty() {
            return Ok(complaint);
        }
        // Offsets of a partition rise with receipt on its node, and a device has one partition.
        let stamp = Stamp {
            received_ms: record.received_ms,
            node: record.node,
            sequence: source.offset,
        };
        let inserted = self
            .tsdb
            .insert(record.partition, &device, &decoded.row, stamp)?;
        self.count(&inserted);
        complaint = join(complaint, row_full(&inserted));
        Ok(join(complaint, conflict(&inserted)))
    }

    fn count(&self, inserted: &Inserted) {
        let head = &inserted.head;
        let duplicates = head.duplicate_points + inserted.sealed_duplicates;
        Counters::add(&self.counters.stored_points, head.new_points);
        Counters::add(&self.counters.duplicate_points, duplicates);
        Counters::add(
            &self.counters.replaced_points,
            head.replaced_points + head.outdated_points,
        );
        Counters::add(&self.counters.stored_rows, inserted.new_row);
        Counters::add(&self.counters.late_rows, inserted.late && inserted.new_row);
    }
}

fn complain(reason: DeadLetterReason, text: String) -> Complaint {
    Complaint { reason, text }
}

/// One message makes one dead letter: its offset is what a replay recognises it by.
fn join(first: Option<Complaint>, second: Option<Complaint>) -> Option<Complaint> {
    match (first, second) {
        (Some(first), Some(second)) => {
            let text = format!("{}; {}", first.text, second.text);
            Some(complain(first.reason, text))
        }
        (first, second) => first.or(second),
    }
}

fn reason_of(error: &PayloadError) -> DeadLetterReason {
    match error {
        PayloadError::NoTs | PayloadError::TsNotAnInteger | PayloadError::Implausible(_) => {
            DeadLetterReason::Time
        }
        _ => DeadLetterReason::Unparsable,
    }
}

fn row_full(inserted: &Inserted) -> Option<Complaint> {
    let refused = inserted.head.refused_points;
    let text = || {
        let max = telemetry::Head::ROW_METRICS_MAX;
        format!("{refused} metrics beyond the {max} that one time of a device may have")
    };
    (refused > 0).then(|| complain(DeadLetterReason::RowFull, text()))
}

fn conflict(inserted: &Inserted) -> Option<Complaint> {
    if inserted.conflicts.is_empty() {
        return None;
    }
    let texts = inserted.conflicts.iter().map(|conflict| {
        let (stored, refused) = (conflict.stored, conflict.refused);
        format!(
            "metric {:?} is stored as {stored}, not {refused}",
            conflict.metric.as_str()
        )
    });
    let text = texts.collect::<Vec<_>>().join("; ");
    Some(complain(DeadLetterReason::Conflict, text))
}
