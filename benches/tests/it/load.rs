//! The load generator against its own sink, and its parts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tidewire_benches::chart;
use tidewire_benches::compare::median;
use tidewire_benches::load::packet::{self, Malformed, Template};
use tidewire_benches::load::{
    Case, Histogram, Launch, Load, LoadError, OrderCheck, Other, Outcome, Sink, Verdict, Version,
    run,
};

#[test]
fn a_quantile_is_the_value_at_its_nearest_rank() {
    let mut histogram = Histogram::default();
    assert_eq!(histogram.quantile(0.5), None);
    for value in 1..=50 {
        histogram.record(value);
    }
    assert_eq!(histogram.quantile(0.0), Some(1));
    assert_eq!(histogram.quantile(0.5), Some(25));
    assert_eq!(histogram.quantile(0.99), Some(50));
}

#[test]
fn a_reported_value_is_never_below_the_true_one_and_at_most_a_64th_above() {
    for value in (0..40).flat_map(|bits| [1_u64 << bits, (1 << bits) + 1, (3 << bits) / 2]) {
        let mut histogram = Histogram::default();
        histogram.record(value);
        // A greater one, or the greatest value would hide the bucket's end.
        histogram.record(u64::MAX);
        let reported = histogram.quantile(0.5).unwrap();
        assert!(reported >= value, "{value} is told as {reported}");
        assert!(
            reported - value <= value / 64,
            "{value} is told as {reported}"
        );
    }
}

#[test]
fn what_is_beyond_the_last_bucket_is_told_as_the_greatest_value() {
    let mut histogram = Histogram::default();
    histogram.record(u64::MAX);
    assert_eq!(histogram.quantile(0.5), Some(u64::MAX));
    assert_eq!(histogram.max(), u64::MAX);
}

#[test]
fn merged_and_transferred_histograms_count_the_same() {
    let (mut one, mut two, mut both) = <(Histogram, Histogram, Histogram)>::default();
    for value in 0..1_000_u64 {
        let ns = value * value * 977;
        if value % 3 == 0 { &mut one } else { &mut two }.record(ns);
        both.record(ns);
    }
    let text = serde_json::to_string(&two).unwrap();
    one.merge(&serde_json::from_str(&text).unwrap());
    assert_eq!(one, both);
    assert_eq!(one.count(), 1_000);
}

#[test]
fn a_bucket_that_does_not_exist_is_refused() {
    let text = r#"{"buckets":[[1000000,1]],"max":1}"#;
    assert!(serde_json::from_str::<Histogram>(text).is_err());
}

#[test]
fn the_order_check_notices_a_gap_and_what_fills_it() {
    let mut check = OrderCheck::default();
    let verdicts: Vec<_> = [0, 1, 4, 2, 5].map(|n| check.handle(n)).into();
    let expected = [
        Verdict::InOrder,
        Verdict::InOrder,
        Verdict::Gap(2),
        Verdict::Late,
        Verdict::InOrder,
    ];
    assert_eq!(verdicts, expected);
}

#[test]
fn the_order_check_notices_a_swap() {
    let mut check = OrderCheck::default();
    let verdicts: Vec<_> = [0, 2, 1, 3].map(|n| check.handle(n)).into();
    let expected = [
        Verdict::InOrder,
        Verdict::Gap(1),
        Verdict::Late,
        Verdict::InOrder,
    ];
    assert_eq!(verdicts, expected);
}

#[test]
fn the_order_check_notices_what_comes_again() {
    let mut check = OrderCheck::default();
    for number in 0..200 {
        assert_eq!(check.handle(number), Verdict::InOrder);
    }
    assert_eq!(check.handle(199), Verdict::Again);
    assert_eq!(check.handle(140), Verdict::Again);
    assert_eq!(check.handle(0), Verdict::Again);
    assert_eq!(check.handle(300), Verdict::Gap(100));
    assert_eq!(check.handle(299), Verdict::Late);
    assert_eq!(check.handle(299), Verdict::Again);
}

#[test]
fn a_patched_packet_is_read_back_with_its_values_and_nothing_else_changes() {
    for (version, qos) in [
        (Version::V311, 0),
        (Version::V311, 1),
        (Version::V5, 0),
        (Version::V5, 1),
    ] {
        let template = Template::new(version, "a/b", qos, 7, 256);
        let mut bytes = Vec::new();
        template.write(&mut bytes, 0x1234, 1 << 40, 99);
        template.write(&mut bytes, 0x1235, 5, 100);
        assert_eq!(bytes.len(), 2 * template.packet_bytes());

        let mut payloads = Vec::new();
        for (id, sequence, stamp) in [(0x1234, 1 << 40, 99), (0x1235, 5, 100)] {
            let frame = packet::frame(&bytes).unwrap().unwrap();
            let publish = packet::publish(version, frame.first, frame.body).unwrap();
            assert_eq!(publish.topic, b"a/b");
            assert_eq!(publish.packet_id, if qos > 0 { id } else { 0 });
            assert_eq!(publish.payload.len(), 256);
            let head = packet::payload_head(publish.payload).unwrap();
            assert_eq!(
                (head.publisher, head.sequence, head.stamp_ns),
                (7, sequence, stamp)
            );
            payloads.push(publish.payload[packet::PAYLOAD_HEAD_BYTES..].to_vec());
            let length = frame.packet_bytes;
            bytes.drain(..length);
        }
        assert_eq!(payloads[0], payloads[1]);
    }
}

#[test]
fn another_implementation_reads_the_packets_of_mqtt_3() {
    use mqttbytes::v4::{Packet, read};

    let mut bytes = Vec::new();
    packet::connect(&mut bytes, Version::V311, "id", true);
    packet::subscribe(&mut bytes, Version::V311, "a/#", 1);
    packet::puback(&mut bytes, 515);
    Template::new(Version::V311, "a/b", 1, 0, 300).write(&mut bytes, 9, 0, 0);
    bytes.extend(packet::PINGREQ);
    bytes.extend(packet::DISCONNECT);
    let mut bytes = bytes::BytesMut::from(bytes.as_slice());
    let mut next = || read(&mut bytes, 1 << 20).unwrap();

    assert!(
        matches!(next(), Packet::Connect(connect) if connect.client_id == "id" && !connect.clean_session)
    );
    assert!(matches!(next(), Packet::Subscribe(subscribe) if subscribe.filters[0].path == "a/#"));
    assert!(matches!(next(), Packet::PubAck(puback) if puback.pkid == 515));
    assert!(
        matches!(next(), Packet::Publish(publish) if publish.pkid == 9 && publish.payload.len() == 300)
    );
    assert!(matches!(next(), Packet::PingReq));
    assert!(matches!(next(), Packet::Disconnect));
}

#[test]
fn bytes_that_are_no_packet_are_an_error_and_a_part_of_one_is_not() {
    assert_eq!(
        packet::frame(&[0x30, 0x80, 0x80, 0x80, 0x80]),
        Err(Malformed)
    );
    assert_eq!(packet::frame(&[0x30, 0x80]), Ok(None));
    assert_eq!(packet::frame(&[0x30, 3, 0, 1]), Ok(None));
    assert_eq!(
        packet::publish(Version::V311, 0x30, &[0, 9, b'a']),
        Err(Malformed)
    );
    assert_eq!(
        packet::publish(Version::V5, 0x30, &[0, 1, b'a', 200]),
        Err(Malformed)
    );
    assert_eq!(packet::payload_head(&[0; 23]), Err(Malformed));
}

#[test]
fn connections_are_counted_and_a_second_worker_has_its_part() {
    let sink = RunningSink::start();
    let load = Load {
        workers: 2,
        sources: 3,
        ..sink.load()
    };
    let case = Case::Conn {
        connections: 101,
        in_flight: 16,
        subscribe: true,
    };
    let outcome = run(&load, &case).unwrap();
    assert_eq!(outcome.violations, Vec::<String>::new());
    assert_eq!(outcome.figure("connected"), Some(101.0));
}

#[test]
fn everything_published_arrives_in_every_version_and_qos() {
    let sink = RunningSink::start();
    for version in [Version::V311, Version::V5] {
        for qos in [0, 1] {
            let load = Load {
                version,
                qos,
                ..sink.load()
            };
            let case = Case::Ingest {
                publishers: 20,
                window: 4,
                rate_per_s: None,
                subscriber: true,
            };
            all_arrived(&run(&load, &case).unwrap(), 1.0);
        }
    }
}

#[test]
fn a_run_without_a_subscriber_knows_what_was_acknowledged() {
    let sink = RunningSink::start();
    for qos in [0, 1] {
        let load = Load { qos, ..sink.load() };
        let case = Case::Ingest {
            publishers: 20,
            window: 4,
            rate_per_s: None,
            subscriber: false,
        };
        let outcome = run(&load, &case).unwrap();
        assert_eq!(outcome.violations, Vec::<String>::new());
        assert!(outcome.figure("acked") > Some(20.0), "{outcome}");
        assert_eq!(outcome.figure("acked"), outcome.figure("sent"));
    }
}

#[test]
fn an_open_loop_sends_what_is_due_and_no_more() {
    let sink = RunningSink::start();
    let case = Case::Ingest {
        publishers: 10,
        window: 100,
        rate_per_s: Some(500.0),
        subscriber: true,
    };
    let outcome = run(&sink.load(), &case).unwrap();
    all_arrived(&outcome, 1.0);
    // Due until it stopped: one more than whole intervals.
    let due = 500.0 * outcome.figure("seconds").unwrap() + 2.0;
    assert!(outcome.figure("sent").unwrap() <= due, "{outcome}");
}

#[test]
fn fan_out_reaches_every_subscriber() {
    let sink = RunningSink::start();
    let load = Load {
        workers: 2,
        ..sink.load()
    };
    let case = Case::Fanout {
        subscribers: 30,
        window: 4,
        rate_per_s: None,
    };
    all_arrived(&run(&load, &case).unwrap(), 30.0);
}

#[test]
fn pairs_get_their_own_messages() {
    let sink = RunningSink::start();
    let load = Load {
        workers: 2,
        ..sink.load()
    };
    let case = Case::P2p {
        pairs: 31,
        window: 2,
        rate_per_s: None,
    };
    all_arrived(&run(&load, &case).unwrap(), 1.0);
}

#[test]
fn the_ends_of_a_pair_are_at_different_nodes_of_several() {
    // Two brokers that know nothing of each other: whatever crosses is lost.
    let (one, two) = (RunningSink::start(), RunningSink::start());
    let load = Load {
        others: vec![Other {
            address: two.address,
            pid: std::process::id(),
        }],
        ..one.load()
    };
    let case = Case::P2p {
        pairs: 7,
        window: 2,
        rate_per_s: Some(100.0),
    };
    let outcome = run(&load, &case).unwrap();
    assert!(outcome.figure("acked") > Some(0.0), "{outcome}");
    // The last subscriber and the first publisher are both at the first node, but no pair.
    assert_eq!(outcome.figure("delivered"), Some(0.0), "{outcome}");
    assert!(outcome.spent.is_some(), "each node is measured");
}

#[test]
fn a_broker_that_forgets_queued_messages_is_found_out() {
    let sink = RunningSink::start();
    let case = Case::Offline {
        sessions: 5,
        messages: 7,
        window: 3,
    };
    let outcome = run(&sink.load(), &case).unwrap();
    assert_eq!(outcome.figure("enqueued"), Some(35.0));
    assert_eq!(outcome.figure("lost"), Some(35.0));
    assert_eq!(outcome.violations, ["35 messages lost"]);
}

#[test]
fn after_a_storm_all_are_back_and_the_others_missed_nothing() {
    let sink = RunningSink::start();
    for jitter in [Duration::ZERO, Duration::from_millis(20)] {
        let case = Case::Storm {
            sessions: 50,
            jitter,
            pairs: 5,
            rate_per_s: 200.0,
        };
        let outcome = run(&sink.load(), &case).unwrap();
        assert_eq!(outcome.violations, Vec::<String>::new());
        assert_eq!(outcome.figure("reconnected"), Some(50.0));
        assert_eq!(outcome.figure("lost"), Some(0.0));
    }
}

#[test]
fn a_run_where_nobody_listens_says_so() {
    let sink = RunningSink::start();
    let load = sink.load();
    drop(sink);
    let case = Case::Conn {
        connections: 2,
        in_flight: 2,
        subscribe: false,
    };
    assert!(matches!(run(&load, &case), Err(LoadError::Unreachable(_))));
}

#[test]
fn settings_out_of_range_are_refused_before_anything_starts() {
    let load = Load::new(
        SocketAddr::from(([127, 0, 0, 1], 1)),
        PathBuf::from("absent"),
    );
    for case in [
        Case::P2p {
            pairs: 1,
            window: 0,
            rate_per_s: None,
        },
        Case::P2p {
            pairs: 1,
            window: 40_000,
            rate_per_s: None,
        },
        Case::P2p {
            pairs: 0,
            window: 1,
            rate_per_s: None,
        },
        Case::P2p {
            pairs: 1,
            window: 1,
            rate_per_s: Some(0.0),
        },
        Case::P2p {
            pairs: 1,
            window: 1,
            rate_per_s: Some(f64::NAN),
        },
    ] {
        assert!(
            matches!(run(&load, &case), Err(LoadError::Setting(_))),
            "{case:?}"
        );
    }
}

#[test]
fn a_median_is_the_middle_or_the_mean_of_the_two_there() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
}

#[test]
fn a_chart_is_a_png_whose_bars_are_as_long_as_their_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chart.png");
    let bar = |value, colour| chart::Bar {
        name: "b".into(),
        value,
        text: String::new(),
        colour,
    };
    let groups = [chart::Group {
        title: "g".into(),
        bars: vec![bar(10.0, 0), bar(5.0, 1)],
    }];
    chart::write(&path, "title", &groups).unwrap();

    let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let count = |colour: u8| pixels.iter().filter(|pixel| **pixel == colour).count();
    assert!(count(4) > 0);
    assert_eq!(count(3), 2 * count(4));
}

fn all_arrived(outcome: &Outcome, fan: f64) {
    assert_eq!(outcome.violations, Vec::<String>::new(), "{outcome}");
    let sent = outcome.figure("sent").unwrap();
    assert!(sent > 10.0, "{outcome}");
    assert_eq!(outcome.figure("delivered"), Some(sent * fan), "{outcome}");
    assert_eq!(outcome.figure("lost"), Some(0.0));
}

/// A sink in a thread; dropped, it stops.
struct RunningSink {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl RunningSink {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (bound, address) = std::sync::mpsc::sync_channel(1);
        // Bound where it runs: what it holds for the kernel stays on its thread.
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let sink = Sink::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
                bound.send(sink.address()).unwrap();
                sink.run(&stop)
            }
        });
        let address = address.recv().unwrap();
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }

    fn load(&self) -> Load {
        Load {
            duration: Duration::from_millis(150),
            launch: Launch::Threads,
            ..Load::new(self.address, PathBuf::new())
        }
    }
}

impl Drop for RunningSink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}
