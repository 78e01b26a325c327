//! A disk that is full while messages come for a session that is away: what cannot be kept is not
//! acknowledged, what was acknowledged is there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::packet::{self, Connect, PUBACK, Publish};
use crate::process::node::{Node, Place};
use crate::process::wait::{pause_for, until};
use crate::process::wire::Wire;

/// How tests that want a small disk are named where they are skipped.
const GROUP: &str = "full disk";
const DISK_BYTES: u64 = 64 << 20;
/// What the ballast leaves.
const ROOM_BYTES: u64 = 8 << 20;
/// Payloads, which nothing can compress.
const PAYLOAD_BYTES: usize = 4 << 10;
/// Messages that the publisher has under way.
const WINDOW: u32 = 16;
/// How long nothing comes once everything is withheld.
const SILENCE: Duration = Duration::from_secs(3);
/// A shard that takes nothing for so long, beyond [`SILENCE`], takes no more than its limit.
const BLOCKED: Duration = Duration::from_secs(9);

/// 64 MiB beside program and groups, of which an eighth in two shards: 4 MiB of payloads of each may
/// wait for a flush.
const CONFIG: &str = "\
no_telemetry = true
memory_bytes_limit = 146_800_640

[mqtt]
queue_messages_limit = 10_000_000
queue_bytes_limit = 4_000_000_000
settle_deadline = \"10m\"

[cluster]
shards = 2
state_flush_age = \"2s\"
";
const UNFLUSHED_BYTES: usize = 4 << 20;
/// An entry of the log beyond that, and what the publisher has under way.
const OVERSHOOT_BYTES: usize = (1 << 20) + WINDOW as usize * PAYLOAD_BYTES;

#[test]
fn a_disk_that_is_full_loses_nothing_that_was_acknowledged() {
    let Some(disk) = SmallDisk::mounted() else {
        return;
    };
    let place = Place::with_data(&disk.folder().join("data")).with_config(CONFIG);
    let node = place.start();
    let ballast = disk.fill_up_to(ROOM_BYTES);

    let acked = outage(&place, node, &ballast, |_, _| {});

    eprintln!("{acked} messages were acknowledged");
}

#[test]
fn state_files_on_a_full_disk_bound_what_is_taken_although_the_log_has_room() {
    let Some(disk) = SmallDisk::mounted() else {
        return;
    };
    let place = Place::with_data(&disk.folder().join("data")).with_config(CONFIG);
    let node = place.start();
    node.terminate();
    assert!(node.ended().success());
    // Only the log leaves the small disk.
    let elsewhere = tempfile::tempdir().expect("a temporary folder can be made");
    let (log, moved) = (place.data().join("raft/log"), elsewhere.path().join("log"));
    fs::create_dir(&moved).expect("the folder is new");
    for file in fs::read_dir(&log).expect("it is there") {
        let file = file.expect("listed");
        fs::copy(file.path(), moved.join(file.file_name())).expect("it can be copied");
    }
    fs::remove_dir_all(&log).expect("it can be removed");
    symlink(&moved, &log).expect("it can be linked");
    let node = place.start();
    let ballast = disk.fill_up_to(1 << 20);

    let acked = outage(&place, node, &ballast, come_again_and_again);

    let bytes = acked as usize * PAYLOAD_BYTES;
    eprintln!("{acked} messages of {bytes} bytes were acknowledged");
    assert!(bytes <= UNFLUSHED_BYTES + OVERSHOOT_BYTES + (2 << 20));
}

/// Publishes until nothing is acknowledged any more, gives room, kills; how much was acknowledged
/// before there was room again.
fn outage(
    place: &Place,
    node: Node<'_>,
    ballast: &Path,
    meanwhile: impl Fn(SocketAddr, &Node<'_>),
) -> u32 {
    subscribe(place.mqtt);
    let publisher = Publisher::start(place.mqtt);
    // The log may have been full first.
    until("a state file without space", || {
        (node.metric("tidewire_raft_state_files_without_space") > 0.0).then_some(())
    });
    let stopped = until("everything to be withheld", || {
        let before = publisher.acked();
        pause_for(SILENCE);
        (publisher.acked() == before).then_some(before)
    });
    assert_eq!(
        node.get("/health/ready"),
        "ready, degraded: the disk is full\n"
    );
    assert!(node.metric("tidewire_raft_state_flushes_refused_total") > 0.0);
    let log = node.log();
    let warnings = log
        .lines()
        .filter(|line| line.contains("make room on its disk"));
    let files: Vec<&str> = warnings
        .map(|line| line.rsplit(' ').next().expect("the file is last"))
        .collect();
    let different: BTreeSet<&str> = files.iter().copied().collect();
    assert!(
        different.iter().any(|file| file.contains("shard-")),
        "{log}"
    );
    assert_eq!(files.len(), different.len(), "one warning a file: {log}");

    meanwhile(place.mqtt, &node);

    fs::remove_file(ballast).expect("it can be removed");
    until("acknowledgements", || {
        (publisher.acked() > stopped + 500).then_some(())
    });
    until("the flush", || {
        let waiting = node.metric("tidewire_raft_state_files_without_space")
            + node.metric("tidewire_raft_log_without_space");
        (waiting == 0.0).then_some(())
    });
    assert_eq!(node.get("/health/ready"), "ready\n");
    node.kill_9();
    let acked = publisher.ended();

    let _node = place.start();
    let arrived = drain(place.mqtt, acked);
    let lost: Vec<u32> = (0..acked).filter(|n| !arrived.contains(n)).collect();
    assert!(
        lost.is_empty(),
        "{} of {acked} are lost: {lost:?}",
        lost.len()
    );
    stopped
}

/// Clients that publish, are not answered and go add nothing once so much waits; those who would
/// wait for their own session are told so.
fn come_again_and_again(address: SocketAddr, node: &Node<'_>) {
    const ROUNDS: usize = 60;
    pause_for(BLOCKED);
    let payload = "x".repeat(16 << 10);
    let mut refused = 0;
    for round in 0..ROUNDS {
        let mut wire = Wire::open(address).expect("the node listens");
        let connect = Connect {
            id: &format!("again{round}"),
            expiry_s: 0,
            receive_maximum: 1_000,
            will: None,
        };
        wire.send(&connect.encode()).expect("the node reads");
        let connack = wire.read().expect("the node answers");
        if connack.body[1] != 0 {
            assert_eq!(connack.body[1], 0x88, "{connack:?}");
            refused += 1;
            continue;
        }
        for id in 1..=32 {
            let publish = Publish {
                topic: "kept/2".to_owned(),
                payload: payload.clone(),
                qos: 1,
                id,
                dup: false,
                retain: false,
            };
            wire.send(&publish.encode()).expect("the node reads");
        }
        assert!(wire.is_alive(), "nothing is acknowledged");
    }
    let (waits, withheld) = (
        node.metric("tidewire_session_held_bytes"),
        node.metric("tidewire_broker_shard_withheld_total"),
    );
    eprintln!("{waits} bytes wait, {withheld} messages were withheld, {refused} clients refused");
    assert!(refused > 0 && refused < ROUNDS, "{refused}");
    assert!(withheld > 0.0);
    // One client's window may be on its way to the shard when it is full.
    assert!(waits <= (UNFLUSHED_BYTES + 64 * payload.len()) as f64);
}

/// A file system of its own, as small as it must be; unmounted in the end.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` after the test was reported as skipped.
    fn mounted() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={DISK_BYTES}"),
                "tidewire",
            ])
            .arg(folder.path())
            .output();
        let refused = match mounted {
            Ok(output) if output.status.success() => return Some(Self { folder }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        let reason = format!("no file system can be mounted: {refused}");
        xtask::skip(GROUP, &reason);
        None
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file that leaves so many bytes free.
    fn fill_up_to(&self, free: u64) -> PathBuf {
        let path = self.folder().join("ballast");
        let mut file = File::create(&path).expect("the disk has room");
        let block = [0; 64 << 10];
        let mut bytes = 0;
        loop {
            match file.write(&block) {
                Ok(written) => bytes += written as u64,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
        file.set_len(bytes.saturating_sub(free)).expect("possible");
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.folder.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.folder.path().display());
        }
    }
}

fn connect(address: SocketAddr, id: &str) -> (Wire, bool) {
    let mut wire = Wire::open(address).expect("the node listens");
    let connect = Connect {
        id,
        expiry_s: 3_600,
        receive_maximum: 1_000,
        will: None,
    };
    wire.send(&connect.encode()).expect("the node reads");
    let present = packet::session_present(&wire.read().expect("the node answers"))
        .expect("the client may connect");
    (wire, present)
}

fn subscribe(address: SocketAddr) {
    let (mut wire, _) = connect(address, "sleeper");
    wire.send(&packet::subscribe(&["kept/#"], 1))
        .expect("the node reads");
    let suback = wire.read().expect("the node answers");
    assert_eq!(suback.first, packet::SUBACK);
}

/// What came until all up to `acked` should have.
fn drain(address: SocketAddr, acked: u32) -> BTreeSet<u32> {
    let (mut wire, present) = connect(address, "sleeper");
    assert!(present);
    let mut arrived = BTreeSet::new();
    while arrived.last().is_none_or(|last| *last + 1 < acked) {
        let packet = wire.read().expect("all that was acknowledged comes");
        let publish = Publish::decode(&packet).expect("a message");
        let number = publish.payload.split(' ').next().expect("a number");
        let Ok(number) = number.parse() else {
            // Of those who came again and again.
            wire.send(&packet::ack(PUBACK, publish.id))
                .expect("the node reads");
            continue;
        };
        let is_next = arrived.last().is_none_or(|last| *last < number);
        assert!(is_next || arrived.contains(&number), "{number} comes late");
        arrived.insert(number);
        wire.send(&packet::ack(PUBACK, publish.id))
            .expect("the node reads");
    }
    arrived
}

/// Publishes numbers until its connection ends.
struct Publisher {
    acked: Arc<AtomicU32>,
    thread: JoinHandle<()>,
}

impl Publisher {
    fn start(address: SocketAddr) -> Self {
        let (wire, _) = connect(address, "publisher");
        let acked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&acked);
        let thread = std::thread::spawn(move || publish(wire, &count));
        Self { acked, thread }
    }

    fn acked(&self) -> u32 {
        self.acked.load(Ordering::Relaxed)
    }

    fn ended(self) -> u32 {
        self.thread.join().expect("it only ends");
        self.acked.load(Ordering::Relaxed)
    }
}

fn publish(mut wire: Wire, acked: &AtomicU32) {
    let mut random = 1_u64;
    let mut sent = 0;
    loop {
        while sent < acked.load(Ordering::Relaxed) + WINDOW {
            let mut payload = format!("{sent} ");
            while payload.len() < PAYLOAD_BYTES {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                payload.push_str(&format!("{:x}", random >> 8));
            }
            let publish = Publish {
                topic: "kept/1".to_owned(),
                payload,
                qos: 1,
                id: packet_id(sent),
                dup: false,
                retain: false,
            };
            if wire.send(&publish.encode()).is_err() {
                return;
            }
            sent += 1;
        }
        match wire.read() {
            Ok(puback) => {
                let number = acked.fetch_add(1, Ordering::Relaxed);
                assert_eq!(
                    (puback.first, packet::acknowledged(&puback)),
                    (PUBACK, packet_id(number))
                );
            }
            // Nothing was acknowledged for long.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

fn packet_id(number: u32) -> u16 {
    u16::try_from(1 + number % 65_535).expect("below 65 536")
}
