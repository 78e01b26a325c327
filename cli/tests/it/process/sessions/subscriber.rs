//! A subscriber whose session outlives its node, and what reached it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;

use super::packet::{self, Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, SUBACK};
use super::publisher::{self, Publisher};
use crate::process::wire::Wire;

/// When a subscriber is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Always, as far as the node is.
    Online,
    /// In some rounds, for some messages.
    Seldom,
    /// At the end only.
    Offline,
}

/// A client that keeps the QoS 2 ids which it received and which were not released.
pub(crate) struct Subscriber {
    pub(crate) id: String,
    pub(crate) presence: Presence,
    /// The publishers that it hears; `None` for all.
    follows: Option<Vec<usize>>,
    qos: u8,
    receive_maximum: u16,
    /// Ids of QoS 2 that wait for their PUBREL [MQTT-4.3.3-8].
    held: BTreeSet<u16>,
    /// What came from each publisher, in order of arrival, repeats included.
    arrived: BTreeMap<usize, Vec<Arrival>>,
    /// How often each will came.
    wills: BTreeMap<String, u32>,
    marks: BTreeSet<u32>,
    /// Messages that came.
    pub(crate) count: u64,
    /// Each publisher's first message after the SUBACK.
    from: Vec<u32>,
    /// The first round whose wills come after the SUBACK.
    round: usize,
}

impl Subscriber {
    pub(crate) fn new(id: &str, presence: Presence, qos: u8, receive_maximum: u16) -> Self {
        Self {
            id: id.to_owned(),
            presence,
            follows: None,
            qos,
            receive_maximum,
            held: BTreeSet::new(),
            arrived: BTreeMap::new(),
            wills: BTreeMap::new(),
            marks: BTreeSet::new(),
            count: 0,
            from: Vec::new(),
            round: 0,
        }
    }

    /// Hears these publishers only, and all wills.
    pub(crate) fn following(mut self, publishers: Vec<usize>) -> Self {
        self.follows = Some(publishers);
        self
    }

    pub(crate) fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Connects for the first time and subscribes; what is published from now on must come.
    pub(crate) fn subscribe(
        mut self,
        address: SocketAddr,
        publishers: &[Publisher],
        round: usize,
    ) -> Self {
        let mut wire = Wire::open(address).expect("the node listens");
        let connack = self.connect(&mut wire).expect("the node answers");
        assert!(!connack, "{} has no session yet", self.id);
        let filters = self.filters();
        wire.send(&packet::subscribe(&filters, self.qos))
            .expect("the node reads");
        let suback = wire.read().expect("the node answers");
        let granted = vec![self.qos; filters.len()];
        assert_eq!(
            (suback.first, &suback.body[3..]),
            (SUBACK, &*granted),
            "{}",
            self.id
        );
        self.from = publishers.iter().map(|publisher| publisher.next).collect();
        self.round = round;
        self
    }

    /// Everything that whom it hears publishes.
    fn filters(&self) -> Vec<String> {
        let mut filters = match &self.follows {
            None => vec!["live/#".to_owned(), "kept/#".to_owned()],
            Some(publishers) => {
                let of = |number: &usize| [format!("live/{number}/#"), format!("kept/{number}")];
                publishers.iter().flat_map(of).collect()
            }
        };
        filters.extend(["wills/#".to_owned(), "mark".to_owned()]);
        filters
    }

    fn hears(&self, publisher: &Publisher) -> bool {
        let follows = self.follows.as_ref();
        follows.is_none_or(|numbers| numbers.contains(&publisher.number))
    }

    /// Resumes the session and takes what comes until `enough`, or until the connection breaks.
    pub(crate) fn run(
        &mut self,
        address: SocketAddr,
        enough: impl Fn(&Self) -> bool,
    ) -> io::Result<()> {
        let mut wire = Wire::open(address)?;
        let present = self.connect(&mut wire)?;
        assert!(present, "{} has a session", self.id);
        while !enough(self) {
            let packet = wire.read()?;
            if let Some(publish) = Publish::decode(&packet) {
                let answer = self.handle_publish(&publish);
                wire.send(&packet::ack(answer, publish.id))?;
            } else {
                packet::not_closing(&packet)?;
                assert_eq!(packet.first, PUBREL, "{}: {packet:?}", self.id);
                let id = packet::acknowledged(&packet);
                self.held.remove(&id);
                wire.send(&packet::ack(PUBCOMP, id))?;
            }
        }
        Ok(())
    }

    /// Whether mark `mark` has come, all wills have, and no handshake is open.
    pub(crate) fn is_drained(&self, mark: u32, wills: &[Vec<Testament>]) -> bool {
        let expected = self.expected(wills);
        self.marks.contains(&mark)
            && self.held.is_empty()
            && expected
                .iter()
                .all(|will| self.wills.contains_key(&will.topic))
    }

    /// Asserts that all came that must, QoS 2 once, in the order in which it was sent.
    pub(crate) fn assert_complete(&self, publishers: &[Publisher], wills: &[Vec<Testament>]) {
        let publishers = publishers.iter().zip(&self.from);
        for (publisher, from) in publishers.filter(|(publisher, _)| self.hears(publisher)) {
            self.assert_publisher(publisher, *from);
        }
        for will in self.expected(wills) {
            let times = self.wills.get(&will.topic).copied().unwrap_or(0);
            let once = will.qos.min(self.qos) == 2;
            assert!(
                times == 1 || (times > 1 && !once),
                "{} has {} {times} times",
                self.id,
                will.topic
            );
        }
        let all: BTreeSet<_> = wills.iter().flatten().map(|will| &will.topic).collect();
        let unknown: Vec<_> = self
            .wills
            .keys()
            .filter(|will| !all.contains(will))
            .collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", self.id);
    }

    fn assert_publisher(&self, publisher: &Publisher, from: u32) {
        let number = publisher.number;
        let none = Vec::new();
        let arrived = self.arrived.get(&number).unwrap_or(&none);
        let mut seen = BTreeSet::new();
        let mut repeats = Vec::new();
        let mut newest = BTreeMap::new();
        for arrival in arrived {
            let message = arrival.number;
            if !seen.insert(message) {
                repeats.push(*arrival);
                continue;
            }
            let before = newest.insert(publisher::topic(number, message), message);
            assert!(
                before < Some(message),
                "{}: {message} of publisher {number} came after {before:?}",
                self.id
            );
        }
        let lost: Vec<_> = (from..publisher.next)
            .filter(|message| !seen.contains(message))
            .collect();
        assert!(
            lost.is_empty(),
            "{} lost {} of publisher {number}: {:?}",
            self.id,
            lost.len(),
            &lost[..lost.len().min(20)]
        );
        // A QoS 1 publisher sends again, which is a new message; what it sent with QoS 2 stands in
        // the queue once, and comes again only as a QoS 1 delivery that says so.
        let twice = |arrival: &&Arrival| match (publisher.qos, self.qos) {
            (1, _) => false,
            (_, 1) => !arrival.dup,
            _ => true,
        };
        let twice: Vec<_> = repeats.iter().filter(twice).collect();
        assert!(
            twice.is_empty(),
            "{} has twice of publisher {number}: {twice:?}",
            self.id
        );
        eprintln!(
            "{}: {} of publisher {number} (QoS {}), {} again",
            self.id,
            seen.len(),
            publisher.qos,
            repeats.len()
        );
    }

    fn expected<'a>(&self, wills: &'a [Vec<Testament>]) -> Vec<&'a Testament> {
        wills.iter().skip(self.round).flatten().collect()
    }

    fn connect(&self, wire: &mut Wire) -> io::Result<bool> {
        let connect = Connect {
            id: &self.id,
            expiry_s: 3_600,
            receive_maximum: self.receive_maximum,
            will: None,
        };
        wire.send(&connect.encode())?;
        packet::session_present(&wire.read()?)
    }

    /// Takes a message, unless it is a QoS 2 one that is held already, and says what to answer.
    fn handle_publish(&mut self, publish: &Publish) -> u8 {
        if publish.qos == 1 {
            self.take(publish);
            return PUBACK;
        }
        assert_eq!(publish.qos, 2, "{}: {publish:?}", self.id);
        if self.held.insert(publish.id) {
            self.take(publish);
        } else {
            assert!(publish.dup, "{} holds the id: {publish:?}", self.id);
        }
        PUBREC
    }

    fn take(&mut self, publish: &Publish) {
        self.count += 1;
        let topic = &publish.topic;
        if topic == "mark" {
            self.marks.insert(publish.payload.parse().expect("a mark"));
        } else if topic.starts_with("wills/") {
            *self.wills.entry(topic.clone()).or_default() += 1;
        } else {
            let (publisher, number) = packet::numbers(&publish.payload);
            assert_eq!(
                *topic,
                publisher::topic(publisher, number),
                "a message keeps its topic"
            );
            let dup = publish.dup;
            let arrived = self.arrived.entry(publisher).or_default();
            arrived.push(Arrival { number, dup });
        }
    }
}

/// A message as it came.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    number: u32,
    dup: bool,
}

/// A will that a kill made due.
pub(crate) struct Testament {
    pub(crate) topic: String,
    pub(crate) qos: u8,
}
