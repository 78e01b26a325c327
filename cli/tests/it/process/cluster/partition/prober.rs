//! A client that does the same again and again, and when it could.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::cluster::nodes::since;
use crate::process::sessions::packet::{
    self, CONNACK, Connect, PUBACK, Publish, SUBACK, not_closing,
};
use crate::process::wait::pause_for;
use crate::process::wire::{Packet, Wire};

/// Between two probes.
const PAUSE: Duration = Duration::from_millis(20);
/// A probe that took longer was held up.
const HELD_UP: Duration = Duration::from_millis(500);

/// At one node: connects, subscribes to what nobody has subscribed to, publishes with QoS 1 to a
/// session that lasts, and again.
pub(super) struct Prober {
    probes: Arc<Mutex<Vec<Probe>>>,
    is_over: Arc<AtomicBool>,
}

/// One that succeeded.
#[derive(Clone, Copy)]
struct Probe {
    /// When it was begun first: one that fails is tried again.
    begun: Instant,
    done: Instant,
}

/// What was held up after a moment.
pub(super) struct HeldUp {
    probes: usize,
    /// For each: when it was done after that moment, and how long it took.
    slow: Vec<(Duration, Duration)>,
    /// The last one was not done in the end.
    unfinished: Option<Duration>,
}

impl Prober {
    pub(super) fn start(at: usize, address: SocketAddr) -> Self {
        let probes = Arc::default();
        let is_over = Arc::new(AtomicBool::new(false));
        let (told, ends) = (Arc::clone(&probes), Arc::clone(&is_over));
        // Where it is held up it ends with the test.
        thread::spawn(move || {
            let mut number = 0;
            let mut begun = Instant::now();
            while !ends.load(Ordering::Relaxed) {
                number += 1;
                if probe(address, &format!("{at}-{number}")).is_ok() {
                    let done = Instant::now();
                    lock(&told).push(Probe { begun, done });
                    pause_for(PAUSE);
                    begun = Instant::now();
                } else {
                    pause_for(PAUSE);
                }
            }
        });
        Self { probes, is_over }
    }

    /// Probes that were begun since then and have succeeded.
    pub(super) fn count_since(&self, then: Option<Instant>) -> usize {
        let probes = lock(&self.probes);
        let counts = |probe: &&Probe| then.is_none_or(|then| probe.begun > then);
        probes.iter().filter(counts).count()
    }

    /// What was held up since then. A probe under way is not waited for.
    pub(super) fn stop(self, since_then: Instant) -> HeldUp {
        self.is_over.store(true, Ordering::Relaxed);
        let probes = lock(&self.probes);
        let after = probes.iter().filter(|probe| probe.done > since_then);
        let slow = after
            .clone()
            .filter(|probe| probe.done - probe.begun > HELD_UP);
        let last = probes.last().map(|probe| since(probe.done));
        HeldUp {
            probes: after.count(),
            slow: slow
                .map(|probe| (probe.done - since_then, probe.done - probe.begun))
                .collect(),
            unfinished: last.filter(|last| *last > HELD_UP),
        }
    }
}

impl fmt::Display for HeldUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} probes since the cut", self.probes)?;
        for (done, took) in &self.slow {
            write!(
                f,
                "; one took {took:.1?} and was done {done:.1?} after the cut"
            )?;
        }
        match self.unfinished {
            Some(time) => write!(f, "; nothing was done in the last {time:.1?}"),
            None => Ok(()),
        }
    }
}

fn lock(probes: &Mutex<Vec<Probe>>) -> MutexGuard<'_, Vec<Probe>> {
    probes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn probe(address: SocketAddr, name: &str) -> io::Result<()> {
    let mut wire = Wire::open(address)?;
    let connect = Connect {
        id: &format!("prober{name}"),
        expiry_s: 0,
        receive_maximum: 10,
        will: None,
    };
    wire.send(&connect.encode())?;
    packet::session_present(&answer(&mut wire, CONNACK)?)?;
    wire.send(&packet::subscribe(&[format!("probes/{name}")], 1))?;
    answer(&mut wire, SUBACK)?;
    let publish = Publish {
        topic: "probes".to_owned(),
        payload: name.to_owned(),
        qos: 1,
        id: 2,
        dup: false,
        retain: false,
    };
    wire.send(&publish.encode())?;
    answer(&mut wire, PUBACK)?;
    wire.send(&[packet::DISCONNECT, 0])
}

fn answer(wire: &mut Wire, first: u8) -> io::Result<Packet> {
    let packet = wire.read()?;
    not_closing(&packet)?;
    assert_eq!(packet.first, first, "{packet:?}");
    Ok(packet)
}
