//! Dead letters as an operator names and reads them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use storage::log::{EmbeddedLog, Record, StoredRecord};

use crate::dead_letter::{DeadLetter, DeadLetterError, read_between};
use crate::stream::DEAD_LETTER_SUFFIX;

/// Letters that one question looks at, in each of the two places.
pub(crate) const LOOKED_AT_MAX: u64 = 100_000;
/// Bytes of keys and payloads that one answer or one replay holds.
const BYTES_MAX: usize = 8 << 20;

/// Says where a letter is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// In this node's own log.
    Node,
    /// In the topic of the store's dead letters.
    Kafka,
}

/// Names a letter, as `kafka:PARTITION:OFFSET` or `node:PARTITION:OFFSET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LetterId {
    pub(crate) place: Place,
    pub(crate) partition: u16,
    pub(crate) offset: u64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.place {
            Place::Node => "node",
            Place::Kafka => "kafka",
        };
        write!(f, "{place}:{}:{}", self.partition, self.offset)
    }
}

impl FromStr for LetterId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split(':');
        let mut part = || parts.next().ok_or(());
        let place = match part()? {
            "node" => Place::Node,
            "kafka" => Place::Kafka,
            _ => return Err(()),
        };
        let id = Self {
            place,
            partition: part()?.parse().map_err(drop)?,
            offset: part()?.parse().map_err(drop)?,
        };
        parts.next().map_or(Ok(id), |_| Err(()))
    }
}

/// Is a letter's place among all: they go by the time at which their messages were received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cursor {
    received_ms: i64,
    id: LetterId,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.received_ms, self.id)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (received_ms, id) = text.split_once('/').ok_or(())?;
        Ok(Self {
            received_ms: received_ms.parse().map_err(drop)?,
            id: id.parse()?,
        })
    }
}

/// Is a letter with the message as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) id: LetterId,
    /// Why, as counted.
    pub(crate) reason: String,
    /// Why, in words.
    pub(crate) text: String,
    /// The topic of Kafka that the message is of; none with the embedded log.
    pub(crate) topic: Option<String>,
    /// Its partition there.
    pub(crate) partition: u16,
    /// Its offset there, if it ever had one.
    pub(crate) offset: Option<u64>,
    /// The message with its own payload.
    pub(crate) record: Record,
}

impl Letter {
    fn cursor(&self) -> Cursor {
        Cursor {
            received_ms: self.record.received_ms,
            id: self.id,
        }
    }

    fn bytes(&self) -> usize {
        self.record.stored_bytes() + self.text.len()
    }

    /// Reads a record of this node's own log; `source` is the topic that the store reads.
    fn of_node(stored: &StoredRecord, source: Option<&str>) -> Result<Self, String> {
        let letter = DeadLetter::decode(&stored.record)?;
        let id = LetterId {
            place: Place::Node,
            partition: stored.record.partition,
            offset: stored.offset,
        };
        let of_letters = letter.topic.as_deref();
        let of_letters = of_letters.and_then(|topic| topic.strip_suffix(DEAD_LETTER_SUFFIX));
        if let Some(topic) = of_letters {
            // Kafka refused a letter: what it is about is in it.
            let inner = DeadLetter::decode(&Record {
                payload: letter.payload.clone(),
                ..stored.record.clone()
            })?;
            let text = format!(
                "{}; and Kafka refused the letter: {}",
                inner.text, letter.text
            );
            return Ok(Self::new(
                id,
                inner,
                text,
                Some(topic.to_owned()),
                &stored.record,
            ));
        }
        let topic = letter.topic.clone().or(source.map(str::to_owned));
        let text = letter.text.clone();
        Ok(Self::new(id, letter, text, topic, &stored.record))
    }

    fn new(
        id: LetterId,
        letter: DeadLetter,
        text: String,
        topic: Option<String>,
        record: &Record,
    ) -> Self {
        Self {
            id,
            reason: letter.reason.label().to_owned(),
            text,
            topic,
            partition: letter.partition,
            offset: (letter.incarnation != 0).then_some(letter.offset),
            record: Record {
                payload: letter.payload,
                ..record.clone()
            },
        }
    }

    /// Puts the letter into the form of the admin API.
    pub(crate) fn shown(&self) -> admin::bridge::DeadLetter {
        let payload = match std::str::from_utf8(&self.record.payload) {
            Ok(text) => admin::bridge::Payload::Text(text.to_owned()),
            Err(_) => admin::bridge::Payload::Base64(BASE64_STANDARD.encode(&self.record.payload)),
        };
        admin::bridge::DeadLetter {
            id: self.id.to_string(),
            reason: self.reason.clone(),
            text: self.text.clone(),
            device: String::from_utf8_lossy(&self.record.key).into_owned(),
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
            received_ms: self.record.received_ms,
            payload,
        }
    }
}

/// Says which letters are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// The newest of each partition, up to [`LOOKED_AT_MAX`] together.
    Newest,
    /// One.
    One { partition: u16, offset: u64 },
}

impl Span {
    /// Says by partition what is read of what is there, `(first, one past the last)`, and whether
    /// that is all.
    pub(crate) fn of(self, there: &[(u64, u64)]) -> (Vec<(u64, u64)>, bool) {
        match self {
            Self::One { partition, offset } => {
                let of = |(at, &(begin, end)): (usize, &(u64, u64))| {
                    let is_wanted = at == usize::from(partition) && (begin..end).contains(&offset);
                    if is_wanted {
                        (offset, offset + 1)
                    } else {
                        (begin, begin)
                    }
                };
                (there.iter().enumerate().map(of).collect(), true)
            }
            Self::Newest => {
                let count = |&(begin, end): &(u64, u64)| end.saturating_sub(begin);
                let each = level(&there.iter().map(count).collect::<Vec<_>>(), LOOKED_AT_MAX);
                let of = |&(begin, end): &(u64, u64)| (end.saturating_sub(each).max(begin), end);
                let spans = there.iter().map(of).collect();
                (spans, there.iter().all(|one| count(one) <= each))
            }
        }
    }
}

/// Is the greatest number that can be taken of each count, where it has so many, so that all
/// together are at most `max`; at least 1.
fn level(counts: &[u64], max: u64) -> u64 {
    let taken = |each: u64| counts.iter().map(|count| (*count).min(each)).sum::<u64>();
    let (mut good, mut bad) = (1, max + 1);
    if taken(max) <= max {
        return max;
    }
    while bad - good > 1 {
        let middle = good.midpoint(bad);
        if taken(middle) <= max {
            good = middle;
        } else {
            bad = middle;
        }
    }
    good
}

/// Collects the newest of the letters that are offered in any order.
#[derive(Debug)]
pub(crate) struct Newest {
    limit: usize,
    reason: Option<String>,
    before: Option<Cursor>,
    kept: BTreeMap<Cursor, Letter>,
    bytes: usize,
    left_out: u64,
}

/// Is what was collected.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Newest first.
    pub(crate) letters: Vec<Letter>,
    /// Those that fit as well and are older.
    pub(crate) remaining: u64,
    /// Where to go on for these.
    pub(crate) next: Option<Cursor>,
    /// Why letters may be missing.
    pub(crate) partial: Option<String>,
}

impl Newest {
    pub(crate) fn new(limit: usize, reason: Option<String>, before: Option<Cursor>) -> Self {
        Self {
            limit,
            reason,
            before,
            kept: BTreeMap::new(),
            bytes: 0,
            left_out: 0,
        }
    }

    /// Looks at a letter; its bytes are copied if it is kept.
    pub(crate) fn offer(&mut self, letter: &Letter) {
        let cursor = letter.cursor();
        let is_wanted = self.reason.as_ref().is_none_or(|one| *one == letter.reason)
            && self.before.is_none_or(|before| cursor < before);
        if !is_wanted {
            return;
        }
        let is_full = self.kept.len() >= self.limit || self.bytes + letter.bytes() > BYTES_MAX;
        let oldest = self.kept.first_key_value().map(|(oldest, _)| *oldest);
        if is_full && oldest.is_some_and(|oldest| cursor < oldest) {
            self.left_out += 1;
            return;
        }
        self.bytes += letter.bytes();
        let record = Record {
            key: Bytes::copy_from_slice(&letter.record.key),
            payload: Bytes::copy_from_slice(&letter.record.payload),
            ..letter.record.clone()
        };
        let copy = Letter {
            record,
            ..letter.clone()
        };
        self.kept.insert(cursor, copy);
        while self.kept.len() > self.limit || (self.bytes > BYTES_MAX && self.kept.len() > 1) {
            if let Some((_, oldest)) = self.kept.pop_first() {
                self.bytes -= oldest.bytes();
                self.left_out += 1;
            }
        }
    }

    pub(crate) fn found(self, partial: Option<String>) -> Found {
        let oldest = self.kept.first_key_value().map(|(oldest, _)| *oldest);
        Found {
            remaining: self.left_out,
            next: oldest.filter(|_| self.left_out > 0),
            letters: self.kept.into_values().rev().collect(),
            partial,
        }
    }
}

/// Reads letters of this node's own log while `has_time`; says why some may be missing. Blocks on
/// the disk.
pub(crate) fn read_own(
    log: &EmbeddedLog,
    source: Option<&str>,
    span: Span,
    has_time: &dyn Fn() -> bool,
    mut each: impl FnMut(&Letter),
) -> Result<Option<String>, DeadLetterError> {
    let ends = log.ends();
    let there = (0_u16..).zip(&ends);
    let there: Vec<(u64, u64)> = there.map(|(at, end)| (log.start(at), *end)).collect();
    let (spans, is_whole) = span.of(&there);
    let (begins, ends): (Vec<u64>, Vec<u64>) = spans.into_iter().unzip();
    let mut is_cut = false;
    read_between(log, &begins, &ends, |stored| {
        each(&Letter::of_node(stored, source).map_err(DeadLetterError::Log)?);
        is_cut = !has_time();
        Ok(!is_cut)
    })?;
    Ok(if is_cut {
        Some("reading this node's dead letters took too long".to_owned())
    } else {
        not_whole(is_whole, "this node's log")
    })
}

/// Says so when not all of a place was looked at.
pub(crate) fn not_whole(is_whole: bool, place: &str) -> Option<String> {
    (!is_whole)
        .then(|| format!("only the newest {LOOKED_AT_MAX} letters of {place} were looked at"))
}

#[cfg(test)]
#[path = "letters_test.rs"]
mod tests;
