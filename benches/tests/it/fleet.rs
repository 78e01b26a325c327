//! The fleet against a broker that was written by others.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet, PubAck};
use tidewire_benches::fleet::{self, Config, Stats, Summary};
use tidewire_benches::ledger::{Entry, Header, Reader, Writer};
use tidewire_benches::profile::METRIC_NAMES;
use tokio_util::sync::CancellationToken;

/// Time for anything that must come to pass.
const DEADLINE: Duration = Duration::from_secs(30);

struct Mosquitto {
    child: Child,
    address: SocketAddr,
}

impl Mosquitto {
    /// Returns `None`, with a loud word, where the program is missing.
    fn start(folder: &Path, port: Option<u16>) -> Option<Self> {
        let known = Command::new("mosquitto")
            .arg("-h")
            .stdout(Stdio::null())
            .status();
        if known.is_err() {
            eprintln!("SKIPPED fleet (2 tests of 3): no mosquitto; install the package mosquitto");
            return None;
        }
        let port = port.unwrap_or_else(|| {
            TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port()
        });
        let config = folder.join("mosquitto.conf");
        std::fs::write(
            &config,
            format!("listener {port} 127.0.0.1\nallow_anonymous true\n"),
        )
        .unwrap();
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let node = Self { child, address };
        wait_until("mosquitto listens", || TcpStream::connect(address).is_ok());
        Some(node)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !met() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::yield_now();
    }
}

struct Run {
    summary: Summary,
    stats: Arc<Stats>,
    entries: Vec<Entry>,
}

/// Runs a fleet, doing `meanwhile` on this thread.
fn run(folder: &Path, config: Config, meanwhile: impl FnOnce(&Stats)) -> Run {
    let path = folder.join("ledger");
    let metrics = METRIC_NAMES.map(str::to_owned).to_vec();
    let header = Header {
        seed: config.seed,
        devices: config.devices,
        metrics,
    };
    let ledger = Writer::create(&path, &header).unwrap();
    let stats = Arc::new(Stats::default());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let running = runtime.spawn(fleet::run(
        config,
        ledger.handle(),
        Arc::clone(&stats),
        CancellationToken::new(),
    ));
    meanwhile(&stats);
    let summary = runtime.block_on(running).unwrap().unwrap();
    ledger.finish().unwrap();
    let mut reader = Reader::open(&path).unwrap();
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        entries.push(entry);
    }
    Run {
        summary,
        stats,
        entries,
    }
}

fn keys(entries: &[Entry], chosen: fn(&Entry) -> Option<(u32, u64)>) -> Vec<(u32, u64)> {
    entries.iter().filter_map(chosen).collect()
}

fn sent(entry: &Entry) -> Option<(u32, u64)> {
    match entry {
        Entry::Sent {
            device, sequence, ..
        } => Some((*device, *sequence)),
        _ => None,
    }
}

fn acknowledged(entry: &Entry) -> Option<(u32, u64)> {
    match entry {
        Entry::Acknowledged {
            device, sequence, ..
        } => Some((*device, *sequence)),
        _ => None,
    }
}

fn again(entry: &Entry) -> Option<(u32, u64)> {
    match entry {
        Entry::SentAgain { device, sequence } => Some((*device, *sequence)),
        _ => None,
    }
}

fn small(address: SocketAddr) -> Config {
    let (interval, duration) = (Duration::from_millis(100), Duration::from_secs(2));
    Config {
        seed: 3,
        ..Config::new(address, 50, interval, duration)
    }
}

#[test]
fn every_message_of_a_fleet_is_sent_once_acknowledged_and_in_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mosquitto) = Mosquitto::start(folder.path(), None) else {
        return;
    };

    let run = run(folder.path(), small(mosquitto.address), |_| {});

    assert_eq!(run.summary.devices_unfinished, 0);
    let sent = keys(&run.entries, sent);
    assert_eq!(sent.len(), 50 * 20, "20 messages in 2 s of 100 ms");
    assert_eq!(
        sent.iter().collect::<HashSet<_>>().len(),
        sent.len(),
        "each sent once"
    );
    let mut acknowledged = keys(&run.entries, acknowledged);
    acknowledged.sort_unstable();
    let mut all = sent;
    all.sort_unstable();
    assert_eq!(acknowledged, all);
    let on_purpose = keys(&run.entries, again);
    assert!(on_purpose.contains(&(0, 0)));
    assert_eq!(on_purpose.len() as u64, run.stats.sent_again());
    assert_eq!(
        run.stats.latencies().count(),
        50 * 20 + run.stats.sent_again()
    );
    assert_eq!(
        (
            run.stats.in_flight(),
            run.stats.reconnects(),
            run.stats.connected()
        ),
        (0, 0, 0)
    );
}

#[test]
fn a_fleet_whose_broker_dies_connects_again_and_gets_every_message_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mosquitto) = Mosquitto::start(folder.path(), None) else {
        return;
    };
    let address = mosquitto.address;
    let mut second = None;

    let run = run(folder.path(), small(address), |stats| {
        wait_until("a quarter is acknowledged", || stats.acknowledged() > 250);
        drop(mosquitto);
        wait_until("all have noticed", || {
            stats.connected() == 0 && stats.refused() > 0
        });
        second = Mosquitto::start(folder.path(), Some(address.port()));
    });

    assert_eq!(run.summary.devices_unfinished, 0);
    assert!(
        run.stats.reconnects() >= 50,
        "{} reconnects",
        run.stats.reconnects()
    );
    assert_eq!(keys(&run.entries, sent).len(), 50 * 20);
    let acknowledged = keys(&run.entries, acknowledged);
    assert_eq!(acknowledged.len(), 50 * 20);
    assert_eq!(
        acknowledged.iter().collect::<HashSet<_>>().len(),
        acknowledged.len()
    );
    assert_eq!(run.stats.in_flight(), 0);
}

/// Takes two connections of one device: the first closes after three PUBLISHes without a PUBACK,
/// the second acknowledges everything. Returns the packets of each.
fn swallow_then_serve(listener: &TcpListener) -> [Vec<Packet>; 2] {
    let first = serve_one(listener, |packets| {
        packets
            .iter()
            .filter(|packet| matches!(packet, Packet::Publish(_)))
            .count()
            == 3
    });
    let second = serve_one(listener, |packets| {
        packets.last() == Some(&Packet::Disconnect)
    });
    [first, second]
}

/// Serves one connection until `is_over`, acknowledging only if that needs a DISCONNECT.
fn serve_one(listener: &TcpListener, is_over: impl Fn(&[Packet]) -> bool) -> Vec<Packet> {
    let acknowledges = is_over(&[Packet::Disconnect]);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let (mut packets, mut buffer) = (Vec::new(), BytesMut::new());
    while !is_over(&packets) {
        let mut chunk = [0; 4_096];
        let Ok(packet) = mqttbytes::v4::read(&mut buffer, 65_536) else {
            let read = stream.read(&mut chunk).unwrap();
            assert_ne!(read, 0, "the device closed after {packets:?}");
            buffer.extend_from_slice(&chunk[..read]);
            continue;
        };
        let mut answer = BytesMut::new();
        match &packet {
            Packet::Connect(_) => {
                let connack = ConnAck::new(ConnectReturnCode::Success, false);
                connack.write(&mut answer).unwrap();
            }
            Packet::Publish(publish) if acknowledges => {
                PubAck::new(publish.pkid).write(&mut answer).unwrap();
            }
            _ => {}
        }
        stream.write_all(&answer).unwrap();
        packets.push(packet);
    }
    packets
}

fn publishes(packets: &[Packet]) -> Vec<(u16, bool, bytes::Bytes)> {
    let publish = |packet: &Packet| match packet {
        Packet::Publish(publish) => Some((publish.pkid, publish.dup, publish.payload.clone())),
        _ => None,
    };
    packets.iter().filter_map(publish).collect()
}

#[test]
fn what_lacks_its_puback_is_sent_again_after_a_reconnect_with_dup_in_a_persistent_session() {
    for clean_session in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (interval, duration) = (Duration::from_millis(10), Duration::from_millis(50));
        let config = Config {
            clean_session,
            inflight_max: 3,
            resend_one_in: 0,
            backfill_device: None,
            ..Config::new(address, 1, interval, duration)
        };
        let mut served = None;

        let run = run(folder.path(), config, |_| {
            served = Some(swallow_then_serve(&listener));
        });

        let [first, second] = served.unwrap();
        assert!(
            matches!(&first[0], Packet::Connect(connect) if connect.clean_session == clean_session)
        );
        let (first, second) = (publishes(&first), publishes(&second));
        assert_eq!((first.len(), second.len()), (3, 5));
        for (sent, again) in first.iter().zip(&second) {
            assert_eq!(
                (again.0, again.1, &again.2),
                (sent.0, !clean_session, &sent.2)
            );
            assert!(!sent.1);
        }
        assert!(second[3..].iter().all(|publish| !publish.1));
        assert_eq!(keys(&run.entries, again), [(0, 0), (0, 1), (0, 2)]);
        assert_eq!(keys(&run.entries, acknowledged).len(), 5);
        assert_eq!(run.stats.reconnects(), 1);
    }
}
