//! All clients of a test: together on threads while a node runs, looked into between two nodes.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use super::packet::{self, Connect, PUBCOMP, PUBREC, PUBREL, Publish, Will};
use super::publisher::Publisher;
use super::subscriber::{Presence, Subscriber, Testament};
use crate::process::wire::{V5, Wire};

/// Acknowledgements that the counting thread may be behind the publishers, which then wait for it.
const BACKLOG: usize = 1_024;

pub(super) struct Crowd {
    pub(super) publishers: Vec<Publisher>,
    pub(super) subscribers: Vec<Subscriber>,
    /// The wills that each kill made due.
    pub(super) wills: Vec<Vec<Testament>>,
}

impl Crowd {
    /// Two publishers of each QoS, and subscribers that are subscribed at `address`.
    pub(super) fn subscribed(address: SocketAddr) -> Self {
        let publishers = [1, 1, 2, 2].into_iter().enumerate();
        let publishers: Vec<_> = publishers
            .map(|(number, qos)| Publisher::new(number, qos))
            .collect();
        let subscribers = [
            Subscriber::new("online", Presence::Online, 2, u16::MAX),
            Subscriber::new("narrow", Presence::Online, 2, 10),
            Subscriber::new("once", Presence::Online, 1, 100),
            Subscriber::new("seldom", Presence::Seldom, 2, 50),
            Subscriber::new("offline", Presence::Offline, 2, u16::MAX),
        ];
        let subscribers = subscribers
            .into_iter()
            .map(|subscriber| subscriber.subscribe(address, &publishers, 0))
            .collect();
        Self {
            publishers,
            subscribers,
            wills: Vec::new(),
        }
    }

    /// Adds a subscriber in the middle of the test: it gets what is sent from now on.
    pub(super) fn join_late(&mut self, address: SocketAddr) {
        let late = Subscriber::new("late", Presence::Online, 2, 20);
        let round = self.wills.len();
        let late = late.subscribe(address, &self.publishers, round);
        self.subscribers.push(late);
    }

    /// PUBACKs and first PUBRECs that the publishers have.
    pub(super) fn acked(&self) -> usize {
        self.publishers.iter().map(|one| one.acked as usize).sum()
    }

    /// Connects clients whose wills the next kill makes due, with a session and without.
    pub(super) fn leave_wills(&mut self, address: SocketAddr) -> [Wire; 2] {
        let round = self.wills.len();
        let wills = [("session", 2, 3_600), ("connection", 1, 0)].map(|(kind, qos, expiry_s)| {
            let topic = format!("wills/{round}/{kind}");
            (Testament { topic, qos }, kind, expiry_s)
        });
        let wires = wills.each_ref().map(|(will, kind, expiry_s)| {
            let id = format!("testator-{kind}");
            let (wire, present) = testator(address, &id, *expiry_s, will);
            assert_eq!(present, *expiry_s > 0 && round > 0, "{kind}");
            wire
        });
        self.wills.push(wills.map(|(will, ..)| will).into());
        wires
    }

    /// Asserts that each publisher's retained value is its last acknowledged one or a later one.
    pub(super) fn assert_retained(&self, address: SocketAddr) {
        let mut wire = Wire::connect(address, V5, "reader").expect("the node answers");
        let mut kept = BTreeMap::new();
        // QoS 0, with the retained messages.
        let subscribe = [
            0x82, 12, 0, 1, 0, 0, 6, b'k', b'e', b'p', b't', b'/', b'#', 0,
        ];
        wire.send(&subscribe).expect("the node reads");
        let expected = self.publishers.iter();
        let expected = expected.filter(|one| one.retained_acked.is_some()).count();
        let mut suback = false;
        while !suback || kept.len() < expected {
            let packet = wire.read().expect("the node answers");
            if packet.first & 0xF0 == 0x30 {
                let (publisher, number) = packet::retained_number(&packet);
                kept.insert(publisher, number);
            } else {
                assert_eq!(packet.first, packet::SUBACK, "{packet:?}");
                suback = true;
            }
        }
        for publisher in &self.publishers {
            let kept = kept.get(&publisher.number).copied();
            let number = publisher.number;
            assert!(
                publisher.retained_acked <= kept && kept <= publisher.retained_sent(),
                "publisher {number}: {kept:?} is retained, {:?} was acknowledged",
                publisher.retained_acked
            );
        }
    }

    /// Lets all clients loose; who comes seldom takes so many messages, if it comes.
    pub(super) fn run(self, address: SocketAddr, seldom: Option<u64>) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let (acked, acks) = sync_channel(BACKLOG);
        let publishers = self.publishers.into_iter().map(|mut publisher| {
            let (acked, stop) = (acked.clone(), Arc::clone(&stop));
            thread::spawn(move || {
                let ended = publisher.run(address, &stop, &acked);
                (publisher, ended)
            })
        });
        let publishers = publishers.collect();
        let (there, away): (Vec<_>, Vec<_>) =
            self.subscribers
                .into_iter()
                .partition(|one| match one.presence {
                    Presence::Online => true,
                    Presence::Seldom => seldom.is_some(),
                    Presence::Offline => false,
                });
        let there = there.into_iter().map(|mut subscriber| {
            let enough = (subscriber.presence == Presence::Seldom)
                .then(|| subscriber.count + seldom.unwrap_or(0));
            thread::spawn(move || {
                // Ends with the kill, or with enough.
                let enough = |one: &Subscriber| enough.is_some_and(|enough| one.count >= enough);
                let ended = subscriber.run(address, enough);
                (subscriber, ended)
            })
        });
        Running {
            publishers,
            there: there.collect(),
            away,
            wills: self.wills,
            stop,
            acks,
        }
    }

    /// Publishes a mark behind everything and lets each subscriber read up to it.
    pub(super) fn drain(&mut self, address: SocketAddr, mark: u32) {
        publish_mark(address, mark).expect("the node answers");
        let wills = &self.wills;
        thread::scope(|scope| {
            for subscriber in &mut self.subscribers {
                scope.spawn(move || {
                    let ended = subscriber.run(address, |one| one.is_drained(mark, wills));
                    // Whatever is missing is named by who looks at what came.
                    if let Err(error) = ended {
                        eprintln!("{} is not drained: {error}", subscriber.id);
                    }
                });
            }
        });
    }
}

fn publish_mark(address: SocketAddr, mark: u32) -> io::Result<()> {
    let mut wire = Wire::connect(address, V5, "marker")?;
    let publish = Publish {
        topic: "mark".into(),
        payload: mark.to_string(),
        qos: 2,
        id: 1,
        dup: false,
        retain: false,
    };
    wire.send(&publish.encode())?;
    let pubrec = wire.read()?;
    assert_eq!((pubrec.first, packet::acknowledged(&pubrec)), (PUBREC, 1));
    wire.send(&packet::ack(PUBREL, 1))?;
    let pubcomp = wire.read()?;
    assert_eq!(
        (pubcomp.first, packet::acknowledged(&pubcomp)),
        (PUBCOMP, 1)
    );
    Ok(())
}

type Client<T> = JoinHandle<(T, io::Result<()>)>;

/// The clients on their threads.
pub(super) struct Running {
    publishers: Vec<Client<Publisher>>,
    there: Vec<Client<Subscriber>>,
    away: Vec<Subscriber>,
    wills: Vec<Vec<Testament>>,
    stop: Arc<AtomicBool>,
    acks: Receiver<()>,
}

impl Running {
    /// Waits for `count` acknowledgements.
    pub(super) fn take(&self, count: usize) {
        for _ in 0..count {
            let ack = self.acks.recv();
            ack.expect("the publishers go on until the node is killed");
        }
    }

    /// Lets the publishers end their handshakes and begin no other.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        while self.acks.recv().is_ok() {}
    }

    /// Takes the clients back once the node is dead.
    pub(super) fn killed(self) -> Crowd {
        drop(self.acks);
        let mut subscribers = self.away;
        subscribers.extend(self.there.into_iter().map(|one| joined(one).0));
        let publishers = self.publishers.into_iter().map(|one| joined(one).0);
        Crowd {
            publishers: publishers.collect(),
            subscribers,
            wills: self.wills,
        }
    }
}

fn joined<T>(client: Client<T>) -> (T, io::Result<()>) {
    client.join().expect("what a client was told is right")
}

/// Connects so many clients that leave a will and nothing else.
pub(super) fn testators(address: SocketAddr, count: usize) -> Vec<Wire> {
    let will = Testament {
        topic: "wills/all".to_owned(),
        qos: 1,
    };
    let connect = |number| testator(address, &format!("testator-{number}"), 0, &will).0;
    (0..count).map(connect).collect()
}

/// Connects a client with this will; and whether its session was present.
fn testator(address: SocketAddr, id: &str, expiry_s: u32, will: &Testament) -> (Wire, bool) {
    let connect = Connect {
        id,
        expiry_s,
        receive_maximum: 10,
        will: Some(Will {
            topic: &will.topic,
            qos: will.qos,
        }),
    };
    let mut wire = Wire::open(address).expect("the node listens");
    wire.send(&connect.encode()).expect("the node reads");
    let connack = wire.read().expect("the node answers");
    (wire, packet::session_present(&connack))
}
