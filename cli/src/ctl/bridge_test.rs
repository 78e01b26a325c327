use admin::bridge::{DeadLetter, Kafka, PartitionLag, Reading, Store};

use super::*;

fn topic() -> Topic {
    Topic {
        topic: "tidewire.telemetry".into(),
        mode: "log".into(),
        contact: Contact::Good,
        lanes_away: 2,
        went_away: 3,
        accepted: 1_000,
        inflight_records: 5,
        inflight_bytes: 640,
        waiting_records: 6,
        delivered: 900,
        spooled: 80,
        drained: 70,
        shed: [("age".into(), 4), ("quota".into(), 0)].into(),
        poisoned: 1,
        failed: 7,
        spool_records: 10,
        spool_bytes: 4_096,
        spool_full: true,
    }
}

fn store(reading: Reading) -> Store {
    Store {
        source: Some("tidewire.telemetry".into()),
        reading,
    }
}

#[test]
fn a_status_shows_each_topic_now_and_since_the_start() {
    let kafka = Kafka {
        paused: true,
        producers_rebuilt: 1,
        topics: vec![topic()],
    };
    let reason = "the leader is away".to_owned();
    let status = Status::new(Some(kafka), None, store(Reading::Waiting { reason }));
    assert_eq!(
        status_table(&status),
        "kafka      paused; 1 producers rebuilt\n\
         store      does not read tidewire.telemetry: the store waits for Kafka: the leader is away\n\
         \n\
         TOPIC               MODE  CONTACT  AWAY  IN FLIGHT  WAITING  SPOOL  SPOOL BYTES\n\
         tidewire.telemetry  log   good        2          5        6     10    4096 full\n\
         \n\
         SINCE THE START     ACCEPTED  DELIVERED  SPOOLED  DRAINED  SHED   POISONED  FAILED  WENT AWAY\n\
         tidewire.telemetry      1000        900       80       70  age 4         1       7          3\n"
    );
}

#[test]
fn a_status_without_kafka_shows_the_log() {
    let log = LogSizes {
        partitions: 64,
        records: 9,
        unread_records: 2,
        disk_bytes: 512,
        inflight_bytes: 3,
    };
    let mut store = store(Reading::Reading);
    store.source = Some("log".into());
    let status = Status::new(None, Some(log), store);
    assert_eq!(
        status_table(&status),
        "log        embedded: 64 partitions, 9 records, 2 unread\n\
         on disk    512 bytes, and 3 on their way\n\
         store      reads log\n"
    );
}

#[test]
fn a_lag_ends_with_its_total_and_what_is_spooled() {
    let one = |partition, position, end| PartitionLag {
        partition,
        end,
        position,
        lag: end - position,
    };
    let mut lag = Lag {
        store: store(Reading::Reading),
        total: 7,
        partitions: vec![one(3, 10, 17)],
        spooled: [("t".into(), 5)].into(),
    };
    assert_eq!(
        lag_table(&lag),
        "PARTITION  POSITION  END  LAG\n        3        10   17    7\ntotal lag: 7\nspooled for t: 5\n"
    );
    lag.partitions.clear();
    (lag.total, lag.spooled) = (0, [].into());
    assert_eq!(lag_table(&lag), "total lag: 0\n");
}

#[test]
fn letters_are_cut_and_cannot_steer_the_terminal() {
    let letter = DeadLetter {
        id: "kafka:3:7".into(),
        reason: "unparsable".into(),
        text: "expected value at 1".into(),
        device: "car\u{1b}[31m".into(),
        topic: None,
        partition: 3,
        offset: None,
        received_ms: 1_000,
        payload: Payload::Text("x".repeat(CELL_CHARS_MAX + 1)),
    };
    let mut found = DeadLetters {
        letters: vec![letter],
        ..DeadLetters::default()
    };
    let text = letters_table(&found);
    let line = text.lines().nth(1).expect("a letter");
    let expected = "kafka:3:7  1970-01-01T00:00:01.000Z  unparsable  car\\u{1b}[31m  log/3/-  expected value at 1  ";
    assert_eq!(line, format!("{expected}{}…", "x".repeat(CELL_CHARS_MAX)));
    found.letters[0].payload = Payload::Base64("//4=".into());
    assert!(letters_table(&found).contains("base64 //4="));
    found.letters.clear();
    assert_eq!(letters_table(&found), "no dead letters\n");
}

#[test]
fn a_replay_is_degraded_by_what_is_not_known_to_have_arrived() {
    let mut answer = Replayed {
        replayed: 3,
        remaining: 5,
        ..Replayed::default()
    };
    assert_eq!(replayed_table(&answer), "replayed   3\nremaining  5\n");
    assert!(trouble_of(&answer).is_empty());
    answer.unsettled = 2;
    answer.refused = 1;
    answer.refusal = Some("no stream".into());
    answer.partial = Some("Kafka is away".into());
    let trouble = trouble_of(&answer);
    assert_eq!(trouble.len(), 3, "{trouble:?}");
}
