//! All clients of a test: together on threads while a node runs, looked into between two nodes.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use super::homes::Homes;
use super::packet::{self, Connect, PUBCOMP, PUBREC, PUBREL, Publish, Will};
use super::publisher::Publisher;
use super::subscriber::{Presence, Subscriber, Testament};
use crate::process::wait::until;
use crate::process::wire::{V5, Wire};

/// Acknowledgements that the counting thread may be behind the publishers, which then wait for it.
const BACKLOG: usize = 1_024;

pub(crate) struct Crowd {
    pub(crate) publishers: Vec<Publisher>,
    pub(crate) subscribers: Vec<Subscriber>,
    /// The wills that each kill made due.
    pub(crate) wills: Vec<Vec<Testament>>,
}

impl Crowd {
    /// Two publishers of each QoS, and subscribers that are subscribed at `address`.
    pub(crate) fn subscribed(address: SocketAddr) -> Self {
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

    /// So many publishers of either QoS in turn, and as many subscribers, each of two neighbours of
    /// them; all are spread over the nodes.
    pub(crate) fn spread(addresses: &[SocketAddr], count: usize) -> Self {
        let publishers: Vec<_> = (0..count)
            .map(|number| Publisher::new(number, if number % 2 == 0 { 1 } else { 2 }))
            .collect();
        let subscribers = (0..count).map(|number| {
            let presence = match number % 10 {
                9 => Presence::Offline,
                _ => Presence::Online,
            };
            let (qos, receive_maximum) = [(2, u16::MAX), (2, 10), (1, 100), (2, 50)][number % 4];
            let id = format!("subscriber{number}");
            Subscriber::new(&id, presence, qos, receive_maximum)
                .following(vec![number, (number + 1) % count])
                .subscribe(addresses[number % addresses.len()], &publishers, 0)
        });
        let subscribers = subscribers.collect();
        Self {
            publishers,
            subscribers,
            wills: Vec::new(),
        }
    }

    /// Adds a subscriber in the middle of the test: it gets what is sent from now on.
    pub(crate) fn join_late(&mut self, address: SocketAddr) {
        let late = Subscriber::new("late", Presence::Online, 2, 20);
        let round = self.wills.len();
        let late = late.subscribe(address, &self.publishers, round);
        self.subscribers.push(late);
    }

    /// PUBACKs and first PUBRECs that the publishers have.
    pub(crate) fn acked(&self) -> usize {
        self.publishers.iter().map(|one| one.acked as usize).sum()
    }

    /// Connects clients whose wills the next kill makes due, with a session and without.
    pub(crate) fn leave_wills(&mut self, address: SocketAddr) -> [Wire; 2] {
        leave_wills(&mut self.wills, address)
    }

    /// Asserts that each publisher's retained value is its last acknowledged one or a later one.
    pub(crate) fn assert_retained(&self, address: SocketAddr) {
        // A client of its own for each node: who changes nodes at once may be asked to come again.
        let id = format!("reader{}", address.port());
        let mut wire = Wire::connect(address, V5, &id).expect("the node answers");
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
    pub(crate) fn run(self, homes: impl Into<Homes>, seldom: Option<u64>) -> Running {
        let homes = homes.into();
        let stop = Arc::new(AtomicBool::new(false));
        let (acked, acks) = sync_channel(BACKLOG);
        let publishers = self.publishers.into_iter().map(|mut publisher| {
            let (acked, stop) = (acked.clone(), Arc::clone(&stop));
            let homes = homes.clone();
            thread::spawn(move || {
                let at = publisher.number;
                let ended = homes.visit(at, |address| publisher.run(address, &stop, &acked));
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
        let there = there.into_iter().enumerate().map(|(at, mut subscriber)| {
            let homes = homes.clone();
            let enough = (subscriber.presence == Presence::Seldom)
                .then(|| subscriber.count + seldom.unwrap_or(0));
            thread::spawn(move || {
                // Ends with the kill, or with enough.
                let enough = |one: &Subscriber| enough.is_some_and(|enough| one.count >= enough);
                let ended = homes.visit(at + 1, |address| subscriber.run(address, enough));
                (subscriber, ended)
            })
        });
        Running {
            publishers,
            there: there.collect(),
            away,
            wills: self.wills,
            homes,
            stop,
            acks,
        }
    }

    /// Publishes a mark behind everything and lets each subscriber read up to it.
    pub(crate) fn drain(&mut self, homes: impl Into<Homes>, mark: u32) {
        let homes = &homes.into();
        publish_mark(homes.first(), mark).expect("the node answers");
        let wills = &self.wills;
        thread::scope(|scope| {
            for (at, subscriber) in self.subscribers.iter_mut().enumerate() {
                scope.spawn(move || {
                    let is_drained = |one: &Subscriber| one.is_drained(mark, wills);
                    let ended = homes.visit(at, |address| subscriber.run(address, is_drained));
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
pub(crate) struct Running {
    publishers: Vec<Client<Publisher>>,
    there: Vec<Client<Subscriber>>,
    away: Vec<Subscriber>,
    wills: Vec<Vec<Testament>>,
    homes: Homes,
    stop: Arc<AtomicBool>,
    acks: Receiver<()>,
}

impl Running {
    /// Waits for `count` acknowledgements.
    pub(crate) fn take(&self, count: usize) {
        for _ in 0..count {
            let ack = self.acks.recv();
            ack.expect("the publishers go on until the node is killed");
        }
    }

    /// Counts the acknowledgements that come until `look` finds something.
    pub(crate) fn take_until(&self, what: &str, mut look: impl FnMut() -> bool) -> usize {
        let mut count = 0;
        until(what, || {
            // Not until none is left: the publishers may be as fast as this.
            count += self.acks.try_iter().take(BACKLOG).count();
            look().then_some(())
        });
        count
    }

    /// Takes acknowledgements, for which publishers would wait, beside what is done.
    pub(crate) fn during<T: Send>(&self, done: impl FnOnce() -> T + Send) -> T {
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let doing = scope.spawn(|| {
                let outcome = done();
                is_done.store(true, Ordering::Release);
                outcome
            });
            self.take_until("something beside it", || {
                is_done.load(Ordering::Acquire) || doing.is_finished()
            });
            doing.join().expect("it says itself what went wrong")
        })
    }

    /// Lets the publishers end their handshakes and begin no other.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        while self.acks.recv().is_ok() {}
    }

    /// Leaves a will at this node, as [`Crowd::leave_wills`] does.
    pub(crate) fn leave_wills(&mut self, address: SocketAddr) -> [Wire; 2] {
        leave_wills(&mut self.wills, address)
    }

    /// Takes the clients back once all nodes are dead.
    ///
    /// # Panics
    /// When one of them has waited in vain for an answer.
    pub(crate) fn killed(self) -> Crowd {
        self.homes.close();
        drop(self.acks);
        let mut subscribers = self.away;
        subscribers.extend(self.there.into_iter().map(joined));
        let publishers = self.publishers.into_iter().map(joined);
        Crowd {
            publishers: publishers.collect(),
            subscribers,
            wills: self.wills,
        }
    }
}

fn joined<T>(client: Client<T>) -> T {
    let (client, ended) = client.join().expect("what a client was told is right");
    let is_stuck = ended.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    assert!(!is_stuck, "a client has waited in vain");
    client
}

/// Connects clients with a will each, with a session and without, and counts them as another round.
fn leave_wills(all: &mut Vec<Vec<Testament>>, address: SocketAddr) -> [Wire; 2] {
    let round = all.len();
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
    all.push(wills.map(|(will, ..)| will).into());
    wires
}

/// Connects so many clients that leave a will and nothing else.
pub(crate) fn testators(address: SocketAddr, count: usize) -> Vec<Wire> {
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
    // One of several nodes may not know yet that the client was at another.
    until("a node that takes the testator", || {
        let mut wire = Wire::open(address).expect("the node listens");
        wire.send(&connect.encode()).expect("the node reads");
        let connack = wire.read().expect("the node answers");
        let present = packet::session_present(&connack).ok()?;
        Some((wire, present))
    })
}
