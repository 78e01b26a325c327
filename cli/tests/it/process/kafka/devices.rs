//! Devices that publish at a steady pace, whatever the answers do.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::node::Node;
use crate::process::rows;
use crate::process::wait::{pause_for, until};
use crate::process::wire::{self, V311, Wire};

/// Pause between two messages of a device.
const INTERVAL: Duration = Duration::from_millis(20);
/// Messages of a device without PUBACK; more wait, as a device with a small memory does.
const WINDOW: usize = 32;

/// Devices on threads of their own.
pub(crate) struct Fleet {
    devices: Vec<Arc<Device>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

/// What devices saw.
pub(crate) struct Report {
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) disconnects: u64,
    /// Longest time from a PUBLISH to its PUBACK on one connection, since waits were forgotten.
    pub(crate) longest: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent, {} acknowledged, {} disconnects, longest wait for a PUBACK {:.2} s",
            self.sent,
            self.acked,
            self.disconnects,
            self.longest.as_secs_f64()
        )
    }
}

impl Fleet {
    pub(crate) fn start(address: SocketAddr, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = rows::ms_now() - 3_600_000;
        let new = |number| Arc::new(Device::new(format!("car{number}"), start));
        let devices: Vec<Arc<Device>> = (0..count).map(new).collect();
        let begin = |device: &Arc<Device>| {
            let (device, stop) = (Arc::clone(device), Arc::clone(&stop));
            std::thread::spawn(move || device.run(address, &stop))
        };
        Self {
            threads: devices.iter().map(begin).collect(),
            devices,
            stop,
        }
    }

    pub(crate) fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().map(|device| &**device)
    }

    pub(crate) fn acked(&self) -> u64 {
        self.devices()
            .map(|one| one.acked.load(Ordering::Relaxed))
            .sum()
    }

    /// Waits for so many more acknowledgements.
    pub(crate) fn wait_for_acks(&self, count: u64) {
        let from = self.acked();
        until("acknowledgements", || {
            (self.acked() >= from + count).then_some(())
        });
    }

    /// Forgets how long PUBACKs took so far: those of a Kafka that has just started take seconds.
    pub(crate) fn forget_waits(&self) {
        for device in self.devices() {
            device.state().longest = Duration::ZERO;
        }
    }

    /// Lets the devices stop sending and wait for what they are owed.
    pub(crate) fn stop(&mut self) -> Report {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().expect("a device does not panic");
        }
        let sum = |count: fn(&Device) -> u64| self.devices().map(count).sum();
        Report {
            sent: sum(|device| device.state().next as u64),
            acked: self.acked(),
            disconnects: sum(|device| device.disconnects.load(Ordering::Relaxed)),
            longest: self
                .devices()
                .map(|device| device.state().longest)
                .max()
                .unwrap_or_default(),
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// One device; message n has the time `start + n` and the metric n.
pub(crate) struct Device {
    id: String,
    start: i64,
    state: Mutex<State>,
    acked: AtomicU64,
    disconnects: AtomicU64,
}

#[derive(Default)]
struct State {
    next: i64,
    /// Sent and not acknowledged, oldest first, with the time of sending on this connection.
    unacked: VecDeque<(i64, Instant)>,
    longest: Duration,
}

impl Device {
    fn new(id: String, start: i64) -> Self {
        Self {
            id,
            start,
            state: Mutex::default(),
            acked: AtomicU64::new(0),
            disconnects: AtomicU64::new(0),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Messages that it sent, each counted once.
    pub(crate) fn sent(&self) -> usize {
        self.state().next as usize
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    fn run(&self, address: SocketAddr, stop: &AtomicBool) {
        while !self.is_done(stop) {
            match Wire::connect(address, V311, &self.id) {
                Ok(wire) => {
                    let ended = self.publish(wire, stop);
                    if ended.is_err() && !self.is_done(stop) {
                        self.disconnects.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Err(_) => pause_for(INTERVAL),
            }
        }
    }

    fn is_done(&self, stop: &AtomicBool) -> bool {
        stop.load(Ordering::Acquire) && self.state().unacked.is_empty()
    }

    /// Sends on this thread and hears on another, until the connection breaks or all is done.
    fn publish(&self, mut wire: Wire, stop: &AtomicBool) -> io::Result<()> {
        let hears = wire.try_clone()?;
        let is_broken = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                self.hear(hears);
                is_broken.store(true, Ordering::Release);
            });
            let sent = self.send(&mut wire, stop, &is_broken);
            wire.close();
            sent
        })
    }

    fn send(&self, wire: &mut Wire, stop: &AtomicBool, is_broken: &AtomicBool) -> io::Result<()> {
        let again: Vec<i64> = {
            let mut state = self.state();
            let now = Instant::now();
            state.unacked.iter_mut().for_each(|(_, sent)| *sent = now);
            state.unacked.iter().map(|(number, _)| *number).collect()
        };
        for number in again {
            wire.send(&self.message(number))?;
        }
        while !self.is_done(stop) {
            if is_broken.load(Ordering::Acquire) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let number = self.next(stop);
            if let Some(number) = number {
                wire.send(&self.message(number))?;
            }
            pause_for(INTERVAL);
        }
        Ok(())
    }

    fn next(&self, stop: &AtomicBool) -> Option<i64> {
        let mut state = self.state();
        if stop.load(Ordering::Acquire) || state.unacked.len() >= WINDOW {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.unacked.push_back((number, Instant::now()));
        Some(number)
    }

    fn hear(&self, mut wire: Wire) {
        while let Ok(puback) = wire.read() {
            let mut state = self.state();
            let (number, sent) = state.unacked.pop_front().expect("one was owed");
            let is_next = (puback.first, puback.id()) == (0x40, packet_id(number));
            assert!(is_next, "PUBACKs come in order: {puback:?} for {number}");
            state.longest = state.longest.max(sent.elapsed());
            self.acked.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn message(&self, number: i64) -> Vec<u8> {
        let ts = self.start + number;
        let payload = format!(r#"{{"ts":{ts},"metrics":{{"n":{number}}}}}"#);
        let topic = format!("fleet/{}/telemetry", self.id);
        wire::publish(V311, &topic, packet_id(number), payload.as_bytes())
    }

    pub(crate) fn is_answer_whole(&self, node: &Node<'_>) -> bool {
        let answer = node.get(&format!("/v1/query/{}?limit=1", self.id));
        let answer: Value = serde_json::from_str(&answer).expect("the answer is JSON");
        answer["partial"] == false
    }

    /// Reads back everything: every message once and as it was.
    pub(crate) fn assert_stored(&self, node: &Node<'_>) {
        let sent = self.state().next;
        let mut rows = rows::of_device(node, &self.id, self.start, self.start + sent);
        for number in 0..sent {
            let stored = rows.remove(&(self.start + number));
            let expected = serde_json::json!({"n": number as f64});
            assert_eq!(stored, Some(expected), "message {number} of {}", self.id);
        }
        assert!(rows.is_empty(), "{} never sent {rows:?}", self.id);
    }

    /// Kafka has every message, and the first of each in the order of sending.
    pub(crate) fn assert_in_order(&self, numbers: &[i64]) {
        let mut next = 0;
        for &number in numbers {
            assert!(number <= next, "{}: {number} came before {next}", self.id);
            next = next.max(number + 1);
        }
        assert_eq!(
            next,
            self.state().next,
            "{}: the last ones are lost",
            self.id
        );
        let twice = numbers.len() as i64 - next;
        if twice > 0 {
            eprintln!("{}: {twice} messages lie twice in Kafka", self.id);
        }
    }
}

fn packet_id(number: i64) -> u16 {
    u16::try_from(1 + number % 65_535).expect("below 65 536")
}
