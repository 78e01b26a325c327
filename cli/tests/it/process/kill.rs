//! `kill -9` in the middle of ingest, twenty times over one folder: what had its PUBACK is in the store exactly once.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::node::{Node, Place};
use super::rows;
use super::store;
use super::wire::{self, V311, Wire};

const KILLS: usize = 20;
const DEVICES: usize = 8;

/// Messages that a device has under way; more than one, so that a kill meets half-written groups.
const WINDOW: usize = 4;

/// Acknowledgements that the counting thread may be behind the devices, which then wait for it.
const BACKLOG: usize = 1_024;

/// Acknowledgements after the last of the four events within which the kill falls, at random.
const KILL_WITHIN: usize = 600;

/// Small enough that a second of ingest passes every kind of file change.
const CONFIG: &str = "\
[telemetry]
block_rows = 8
head_age_max = \"1s\"
merge_fan_in = 2

[telemetry.log]
segment_bytes = 65536
";

#[test]
fn what_was_acknowledged_survives_kill_9_at_random_moments_exactly_once() {
    let seed = std::env::var("TIDEWIRE_TEST_SEED")
        .map_or(20_261_125, |seed| seed.parse().expect("a number"));
    eprintln!("seed {seed}; set TIDEWIRE_TEST_SEED for another");
    let mut random = StdRng::seed_from_u64(seed);
    let place = Place::new().with_config(CONFIG);
    let start = rows::ms_now() - 3_600_000;
    let mut devices: Vec<Device> = (0..DEVICES)
        .map(|number| Device::new(number, start))
        .collect();

    for _ in 0..KILLS {
        let node = place.start();
        let first: Vec<i64> = devices.iter().map(Device::oldest_unsettled).collect();
        let (publishers, acks) = publish_on_threads(place.mqtt, devices);
        let events = Events::since_start(&node);
        let mut acked = 0;
        while !events.all_passed() {
            take(&acks, 64);
            acked += 64;
        }
        let moment = random.random_range(0..KILL_WITHIN);
        take(&acks, moment);
        eprintln!("kill after {} acknowledgements", acked + moment);
        node.kill_9();
        drop(acks);
        devices = publishers
            .into_iter()
            .map(|device| device.join().expect("a device does not panic"))
            .collect();

        let node = place.start();
        for (device, first) in devices.iter().zip(first) {
            device.assert_stored(&node, first);
        }
        node.kill_9();
    }

    let node = place.start();
    for device in &devices {
        device.assert_stored(&node, start);
    }
    assert_eq!(
        node.metric("tidewire_telemetry_dead_letters_total"),
        0.0,
        "every message was telemetry"
    );
    node.terminate();
    assert_eq!(node.ended().code(), Some(0));
    assert_eq!(store::points_twice(&place.data()), [""; 0]);
}

/// What a node must have gone through before it is killed: a seal and a merge, each of which
/// switches the manifest, and the roll of a log segment.
struct Events<'a> {
    node: &'a Node<'a>,
    segments: BTreeSet<PathBuf>,
}

impl<'a> Events<'a> {
    fn since_start(node: &'a Node<'a>) -> Self {
        Self {
            node,
            segments: node.log_segments(),
        }
    }

    fn all_passed(&self) -> bool {
        let counted = |name: &str| self.node.metric(name) > 0.0;
        counted("tidewire_telemetry_seals_total")
            && counted("tidewire_telemetry_merges_total")
            && !self.node.log_segments().is_subset(&self.segments)
    }
}

/// Waits for `count` acknowledgements.
fn take(acks: &Receiver<()>, count: usize) {
    for _ in 0..count {
        acks.recv()
            .expect("the devices publish until the node is killed");
    }
}

/// Lets each device publish on its own thread until its connection breaks.
fn publish_on_threads(
    address: SocketAddr,
    devices: Vec<Device>,
) -> (Vec<thread::JoinHandle<Device>>, Receiver<()>) {
    let (acked, acks) = sync_channel(BACKLOG);
    let threads = devices
        .into_iter()
        .map(|mut device| {
            let acked = acked.clone();
            thread::spawn(move || {
                // Every run ends with a broken connection: that is the kill.
                let Err(broken) = device.publish(address, &acked);
                eprintln!("{}: {broken}", device.id);
                device
            })
        })
        .collect();
    (threads, acks)
}

/// A device that sends one message a millisecond of its own time, and again what was not acknowledged.
struct Device {
    id: String,
    start: i64,
    /// Number of the next new message; message n has the time `start + n`.
    next: i64,
    /// Sent and not acknowledged, oldest first.
    unacked: VecDeque<i64>,
}

impl Device {
    fn new(number: usize, start: i64) -> Self {
        Self {
            id: format!("car{number}"),
            start,
            next: 0,
            unacked: VecDeque::new(),
        }
    }

    /// The time from which the store may have changed since the last check.
    fn oldest_unsettled(&self) -> i64 {
        self.start + self.unacked.front().copied().unwrap_or(self.next)
    }

    fn publish(&mut self, address: SocketAddr, acked: &SyncSender<()>) -> io::Result<Infallible> {
        let mut wire = Wire::connect(address, V311, &self.id)?;
        for number in self.unacked.clone() {
            wire.send(&self.message(number))?;
        }
        loop {
            while self.unacked.len() < WINDOW {
                let number = self.next;
                self.next += 1;
                self.unacked.push_back(number);
                wire.send(&self.message(number))?;
            }
            let puback = wire.read()?;
            let number = self.unacked.pop_front().expect("the window is full");
            assert_eq!(
                (puback.first, puback.id()),
                (0x40, packet_id(number)),
                "PUBACKs come in order"
            );
            // The counting thread stops listening once it has killed the node.
            if acked.send(()).is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }

    fn message(&self, number: i64) -> Vec<u8> {
        let Self { id, start, .. } = self;
        let ts = start + number;
        let payload = format!(
            r#"{{"ts":{ts},"metrics":{{"n":{number},"x":{:?}}}}}"#,
            x(number)
        );
        wire::publish(
            V311,
            &format!("fleet/{id}/telemetry"),
            packet_id(number),
            payload.as_bytes(),
        )
    }

    /// Reads back what was sent from `from` on: every acknowledged message once and as it was, others once or not at
    /// all, and nothing else.
    fn assert_stored(&self, node: &Node<'_>, from: i64) {
        let mut rows = rows::of_device(node, &self.id, from, self.start + self.next);
        for number in (from - self.start)..self.next {
            match rows.remove(&(self.start + number)) {
                Some(metrics) => {
                    let sent = serde_json::json!({"n": number as f64, "x": x(number)});
                    assert_eq!(
                        metrics, sent,
                        "message {number} of {} is stored differently",
                        self.id
                    );
                }
                None => assert!(
                    self.unacked.contains(&number),
                    "message {number} of {} is lost",
                    self.id
                ),
            }
        }
        assert!(rows.is_empty(), "{} never sent {rows:?}", self.id);
    }
}

/// A value that needs more digits than a block's decimals may keep, now and then.
fn x(number: i64) -> f64 {
    let number = number as f64;
    if number % 7.0 == 0.0 {
        (number + 1.0).sqrt()
    } else {
        number * 0.5 - 3.0
    }
}

fn packet_id(number: i64) -> u16 {
    u16::try_from(1 + number % 65_535).expect("below 65 536")
}
