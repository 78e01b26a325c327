//! How a log record looks in Kafka.
//!
//! Key = device id, value = the payload untouched, timestamp = receive time. Headers are text, so
//! that any tool shows them: `content-type` (where the device or its format said one),
//! `tidewire-received` (milliseconds since 1970), `tidewire-source` (`NODE/EPOCH/SEQ`: node,
//! connection epoch, number of the packet), `tidewire-retransmit` (`1` when the DUP flag was set).

use bytes::Bytes;
use rdkafka::Timestamp;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use storage::log::{ContentType, Record};

use crate::ingest::{content_type_of, media_type_of};

const CONTENT_TYPE: &str = "content-type";
const RECEIVED: &str = "tidewire-received";
const SOURCE: &str = "tidewire-source";
const RETRANSMIT: &str = "tidewire-retransmit";

/// Is the headers of a record.
pub(crate) fn headers_of(record: &Record) -> OwnedHeaders {
    let mut text = Text::default();
    let mut headers = OwnedHeaders::new_with_capacity(5);
    if let Some(media_type) = media_type_of(record.content_type) {
        headers = insert(headers, CONTENT_TYPE, media_type.as_bytes());
    }
    text.signed(record.received_ms);
    headers = insert(headers, RECEIVED, text.as_bytes());
    text.clear();
    text.unsigned(u64::from(record.node));
    text.push(b'/');
    text.unsigned(record.connection_epoch);
    text.push(b'/');
    text.unsigned(record.packet_seq);
    headers = insert(headers, SOURCE, text.as_bytes());
    if record.retransmit {
        headers = insert(headers, RETRANSMIT, b"1");
    }
    headers
}

/// Adds a header.
pub(crate) fn insert(headers: OwnedHeaders, key: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Header {
        key,
        value: Some(value),
    })
}

/// Reads a record and its offset. Lenient with foreign producers: without our headers it is of
/// node 0, received when its timestamp says; without key or value these are empty, and whoever
/// takes it makes a dead letter of it.
pub(crate) fn record_of(message: &BorrowedMessage<'_>) -> (u64, Record) {
    let mut record = Record {
        partition: u16::try_from(message.partition()).unwrap_or(0),
        key: message
            .key()
            .map_or_else(Bytes::new, Bytes::copy_from_slice),
        payload: message
            .payload()
            .map_or_else(Bytes::new, Bytes::copy_from_slice),
        content_type: ContentType::Unspecified,
        received_ms: match message.timestamp() {
            Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => ms.max(0),
            Timestamp::NotAvailable => 0,
        },
        node: 0,
        connection_epoch: 0,
        packet_seq: 0,
        retransmit: false,
        droppable: false,
    };
    for header in message.headers().into_iter().flat_map(|all| all.iter()) {
        let text = header
            .value
            .and_then(|value| std::str::from_utf8(value).ok());
        let Some(text) = text else { continue };
        match header.key {
            CONTENT_TYPE => record.content_type = content_type_of(text),
            RECEIVED => record.received_ms = text.parse().unwrap_or(record.received_ms),
            SOURCE => read_source(text, &mut record),
            RETRANSMIT => record.retransmit = text == "1",
            _ => {}
        }
    }
    (u64::try_from(message.offset()).unwrap_or(0), record)
}

fn read_source(text: &str, record: &mut Record) {
    let mut parts = text.split('/');
    let mut next = || parts.next().and_then(|part| part.parse::<u64>().ok());
    let (Some(node), Some(epoch), Some(seq)) = (next(), next(), next()) else {
        return;
    };
    // The header of somebody who counts differently names nothing of ours, in no part.
    let (Ok(node), None) = (u32::try_from(node), parts.next()) else {
        return;
    };
    record.node = node;
    record.connection_epoch = epoch;
    record.packet_seq = seq;
}

/// Writes numbers without an allocation: three of 20 digits and two slashes fit.
struct Text {
    bytes: [u8; 64],
    len: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self {
            bytes: [0; 64],
            len: 0,
        }
    }
}

impl Text {
    fn clear(&mut self) {
        self.len = 0;
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn signed(&mut self, number: i64) {
        if number < 0 {
            self.push(b'-');
        }
        self.unsigned(number.unsigned_abs());
    }

    fn unsigned(&mut self, mut number: u64) {
        let begin = self.len;
        loop {
            self.push(b'0' + (number % 10) as u8);
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.bytes[begin..self.len].reverse();
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(headers: &OwnedHeaders, key: &str) -> Option<String> {
        let found = headers.iter().find(|header| header.key == key)?;
        let value = found.value.expect("ours have values");
        Some(String::from_utf8(value.to_vec()).expect("ours are text"))
    }

    #[test]
    fn headers_say_what_the_record_says() {
        let record = Record {
            partition: 3,
            key: Bytes::from_static(b"car"),
            payload: Bytes::new(),
            content_type: ContentType::Json,
            received_ms: i64::MIN,
            node: u32::MAX,
            connection_epoch: u64::MAX,
            packet_seq: u64::MAX,
            retransmit: true,
            droppable: false,
        };

        let headers = headers_of(&record);

        let json = Some("application/json".to_owned());
        assert_eq!(text_of(&headers, CONTENT_TYPE), json);
        assert_eq!(text_of(&headers, RECEIVED), Some(i64::MIN.to_string()));
        let source = format!("{}/{}/{}", u32::MAX, u64::MAX, u64::MAX);
        assert_eq!(text_of(&headers, SOURCE), Some(source.clone()));
        assert_eq!(text_of(&headers, RETRANSMIT), Some("1".to_owned()));
        let mut read = Record {
            node: 0,
            connection_epoch: 0,
            packet_seq: 0,
            ..record.clone()
        };
        read_source(&source, &mut read);
        assert_eq!(read, record);
    }

    #[test]
    fn what_a_record_does_not_say_has_no_header() {
        let record = Record {
            partition: 0,
            key: Bytes::new(),
            payload: Bytes::new(),
            content_type: ContentType::Unspecified,
            received_ms: 0,
            node: 0,
            connection_epoch: 0,
            packet_seq: 0,
            retransmit: false,
            droppable: false,
        };

        let headers = headers_of(&record);

        let names: Vec<&str> = headers.iter().map(|header| header.key).collect();
        assert_eq!(names, [RECEIVED, SOURCE]);
        assert_eq!(text_of(&headers, SOURCE), Some("0/0/0".to_owned()));
    }

    #[test]
    fn a_source_that_is_none_changes_nothing() {
        let record = Record {
            partition: 0,
            key: Bytes::new(),
            payload: Bytes::new(),
            content_type: ContentType::Unspecified,
            received_ms: 0,
            node: 7,
            connection_epoch: 8,
            packet_seq: 9,
            retransmit: false,
            droppable: false,
        };
        for text in ["", "1/2", "a/b/c", "1/2/-3", "1/2/3/4", "4294967296/2/3"] {
            let mut read = record.clone();
            read_source(text, &mut read);
            assert_eq!(read, record, "{text}");
        }
    }
}
