//! Topics of a real Kafka for tests, and records in them.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use storage::log::Record;

use super::contact::{block_on, check_topic};
use super::message::headers_of;
use super::settings::Settings;
use super::test_kafka::Turn;
use super::watch::incarnation_of;
use crate::log::Position;

/// Longest wait for an answer of Kafka.
pub(super) const WAIT: Duration = Duration::from_secs(30);

/// A topic of a real Kafka, with its records.
pub(super) struct Topic {
    pub(super) settings: Settings,
    pub(super) name: String,
    pub(super) partitions: u16,
    cluster_id: String,
}

impl Topic {
    pub(super) fn new(kafka: &mut Turn, name: &str, partitions: u16) -> Self {
        Self::at_kafka(kafka.settings(), name, partitions)
    }

    pub(super) fn at_kafka(settings: Settings, name: &str, partitions: u16) -> Self {
        let made = check_topic(&settings, name, partitions, 1_000_000, WAIT);
        Self {
            settings,
            name: name.to_owned(),
            partitions,
            cluster_id: made.expect("it is created").cluster_id,
        }
    }

    pub(super) fn incarnation(&self) -> u64 {
        incarnation_of(&self.cluster_id, &self.name)
    }

    pub(super) fn at(&self, offset: u64) -> Option<Position> {
        let incarnation = self.incarnation();
        Some(Position {
            incarnation,
            offset,
        })
    }

    pub(super) fn producer(&self, more: &[(&str, &str)]) -> BaseProducer {
        let mut config: ClientConfig = self.settings.client();
        config.set("acks", "all").set("enable.idempotence", "true");
        for (name, value) in more {
            config.set(*name, *value);
        }
        config.create().expect("good settings")
    }

    pub(super) fn send(&self, producer: &BaseProducer, record: &Record) {
        let one = BaseRecord::to(&self.name)
            .partition(i32::from(record.partition))
            .key(&record.key[..])
            .payload(&record.payload[..])
            .timestamp(record.received_ms)
            .headers(headers_of(record));
        producer
            .send(one)
            .map_err(|(error, _)| error)
            .expect("there is room");
    }

    pub(super) fn produce(&self, records: impl IntoIterator<Item = Record>) {
        let producer = self.producer(&[]);
        for record in records {
            self.send(&producer, &record);
        }
        producer.flush(WAIT).expect("Kafka takes them");
    }

    pub(super) fn delete_before(&self, partition: i32, offset: i64) {
        let admin: AdminClient<DefaultClientContext> =
            self.settings.client().create().expect("good settings");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition, Offset::Offset(offset))
            .expect("a good offset");
        let deleted = block_on(admin.delete_records(&list, &AdminOptions::new()));
        let deleted = deleted.expect("it answers");
        for one in deleted.elements() {
            one.error().expect("it deletes");
        }
    }
}
