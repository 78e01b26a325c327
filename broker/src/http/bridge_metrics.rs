//! The bridge in `/metrics`: one sample for each topic that this node writes to Kafka.

use admin::bridge::{Contact, Kafka, Topic};

use crate::counters::{metric, metric_by};

type Of = fn(&Topic) -> u64;

const COUNTERS: [(&str, &str, Of); 7] = [
    ("accepted", "Records taken from the broker.", |one| {
        one.accepted
    }),
    ("delivered", "Records that Kafka confirmed.", |one| {
        one.delivered
    }),
    ("spooled", "Records made durable in the spool.", |one| {
        one.spooled
    }),
    ("drained", "Spooled records that Kafka confirmed.", |one| {
        one.drained
    }),
    ("poisoned", "Records that Kafka refused for good.", |one| {
        one.poisoned
    }),
    ("failed", "Attempts that failed and are repeated.", |one| {
        one.failed
    }),
    ("went_away", "Times that a partition went away.", |one| {
        one.went_away
    }),
];

const GAUGES: [(&str, &str, Of); 8] = [
    (
        "inflight_records",
        "Records with Kafka's client, not confirmed.",
        |one| one.inflight_records,
    ),
    (
        "inflight_bytes",
        "Bytes with Kafka's client, not confirmed.",
        |one| one.inflight_bytes,
    ),
    (
        "waiting_records",
        "Records in memory that wait for Kafka or the spool.",
        |one| one.waiting_records,
    ),
    (
        "spool_records",
        "Records in the spool that Kafka has not confirmed.",
        |one| one.spool_records,
    ),
    ("spool_bytes", "Bytes of the spool on disk.", |one| {
        one.spool_bytes
    }),
    (
        "spool_full",
        "1 while the spool is at its limit and PUBACKs are withheld.",
        |one| u64::from(one.spool_full),
    ),
    (
        "lanes_away",
        "Partitions whose records go to the spool.",
        |one| one.lanes_away,
    ),
    (
        "topic_refused",
        "1 while Kafka does not take the topic and somebody has to act.",
        |one| u64::from(matches!(one.contact, Contact::Refused { .. })),
    ),
];

/// Writes what is known of the way to Kafka.
pub(super) fn write(kafka: &Kafka, out: &mut String) {
    for (name, help, of) in COUNTERS {
        let name = format!("tidewire_bridge_{name}_total");
        metric_by(out, &name, help, "counter", &by_topic(kafka, of));
    }
    let shed = kafka.topics.iter().flat_map(|one| {
        let label = |reason: &str| format!("topic=\"{}\",reason=\"{reason}\"", one.topic);
        let reasons = one.shed.iter();
        reasons.map(move |(reason, count)| (label(reason), *count))
    });
    let shed: Vec<(String, u64)> = shed.collect();
    let help = "Spooled records of QoS 0 that a policy dropped.";
    metric_by(out, "tidewire_bridge_shed_total", help, "counter", &shed);
    for (name, help, of) in GAUGES {
        let name = format!("tidewire_bridge_{name}");
        metric_by(out, &name, help, "gauge", &by_topic(kafka, of));
    }
    let help = "Producers that failed for good and were replaced.";
    let rebuilt = kafka.producers_rebuilt;
    let name = "tidewire_bridge_producers_rebuilt_total";
    metric(out, name, help, "counter", rebuilt);
    let help = "1 while an operator holds the way to Kafka.";
    let paused = u64::from(kafka.paused);
    metric(out, "tidewire_bridge_paused", help, "gauge", paused);
}

/// Labels need no escape: a topic of Kafka has letters, digits and `._-`.
fn by_topic(kafka: &Kafka, of: Of) -> Vec<(String, u64)> {
    let sample = |one: &Topic| (format!("topic=\"{}\"", one.topic), of(one));
    kafka.topics.iter().map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topic_has_a_sample_of_each_metric_under_one_help() {
        let topic = |name: &str, delivered| Topic {
            topic: name.to_owned(),
            mode: "log".to_owned(),
            contact: Contact::Good,
            lanes_away: 0,
            went_away: 0,
            accepted: 0,
            inflight_records: 0,
            inflight_bytes: 0,
            waiting_records: 0,
            delivered,
            spooled: 0,
            drained: 0,
            shed: [("age".to_owned(), 4)].into(),
            poisoned: 0,
            failed: 0,
            spool_records: 0,
            spool_bytes: 0,
            spool_full: true,
        };
        let kafka = Kafka {
            topics: vec![topic("t.a", 1), topic("t.b", 2)],
            ..Kafka::default()
        };
        let mut text = String::new();

        write(&kafka, &mut text);

        let delivered = "# TYPE tidewire_bridge_delivered_total counter\n\
                         tidewire_bridge_delivered_total{topic=\"t.a\"} 1\n\
                         tidewire_bridge_delivered_total{topic=\"t.b\"} 2\n";
        assert!(text.contains(delivered), "{text}");
        let shed = "\ntidewire_bridge_shed_total{topic=\"t.b\",reason=\"age\"} 4\n";
        assert!(text.contains(shed), "{text}");
        assert!(text.contains("\ntidewire_bridge_spool_full{topic=\"t.a\"} 1\n"));
        assert!(text.contains("\ntidewire_bridge_paused 0\n"));
    }
}
