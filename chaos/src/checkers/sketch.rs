//! Histories by hand, for tests: each event a millisecond after the one before.

use std::time::Duration;

use crate::history::{Actor, End, Event, Flags, History, Role, What};

/// Is a history that is being written.
#[derive(Debug, Default)]
pub(super) struct Sketch {
    history: History,
    now_us: u64,
    /// By actor: attempts so far, and the QoS subscribed last.
    connections: Vec<u32>,
    granted: Vec<u8>,
}

impl Sketch {
    pub(super) fn actor(&mut self, client_id: &str, role: Role, expiry_s: u32) -> u32 {
        self.history.actors.push(Actor {
            client_id: client_id.to_owned(),
            role,
            expiry_s,
            events: Vec::new(),
        });
        self.connections.push(0);
        self.granted.push(0);
        self.history.actors.len() as u32 - 1
    }

    pub(super) fn history(&self) -> History {
        History {
            taken_us: self.now_us + 1_000,
            ..self.history.clone()
        }
    }

    pub(super) fn pass(&mut self, time: Duration) -> &mut Self {
        self.now_us += time.as_micros() as u64;
        self
    }

    pub(super) fn event(&mut self, actor: u32, what: What) -> &mut Self {
        self.now_us += 1_000;
        let at_us = self.now_us;
        let events = &mut self.history.actors[actor as usize].events;
        events.push(Event { at_us, what });
        self
    }

    fn connects(&mut self, actor: u32, clean_start: bool, session_present: bool) -> &mut Self {
        let connection = self.connections[actor as usize];
        self.connections[actor as usize] += 1;
        let will = self.history.actors[actor as usize].role == Role::Willing;
        self.event(
            actor,
            What::Connecting {
                connection,
                node: 0,
                clean_start,
                will,
            },
        );
        self.event(actor, What::Connected { session_present })
    }

    pub(super) fn connected(&mut self, actor: u32, session_present: bool) -> &mut Self {
        let is_clean = self.history.actors[actor as usize].expiry_s == 0;
        self.connects(actor, is_clean, session_present)
    }

    pub(super) fn started_clean(&mut self, actor: u32, session_present: bool) -> &mut Self {
        self.connects(actor, true, session_present)
    }

    pub(super) fn ended(&mut self, actor: u32, why: End) -> &mut Self {
        self.event(actor, What::Ended { why, reason: 0 })
    }

    pub(super) fn told(&mut self, actor: u32, reason: u8) -> &mut Self {
        let why = End::Told;
        self.event(actor, What::Ended { why, reason })
    }

    pub(super) fn subscribed(&mut self, actor: u32, filter: &str, qos: u8) -> &mut Self {
        let filter = place(&mut self.history.filters, filter);
        self.granted[actor as usize] = qos;
        self.event(actor, What::Subscribing { filter, qos });
        self.event(
            actor,
            What::Subscribed {
                filter,
                reason: qos,
            },
        )
    }

    pub(super) fn publishing(
        &mut self,
        actor: u32,
        number: u32,
        topic: &str,
        qos: u8,
    ) -> &mut Self {
        let topic = place(&mut self.history.topics, topic);
        let flags = Flags {
            qos,
            ..Flags::default()
        };
        self.event(
            actor,
            What::Publishing {
                number,
                topic,
                packet_id: 1,
                flags,
            },
        )
    }

    /// PUBACK or PUBREC, whatever goes with the QoS.
    pub(super) fn acked(&mut self, actor: u32, number: u32) -> &mut Self {
        let (_, qos) = self.sent(actor, number);
        let (packet_id, reason) = (1, 0);
        let what = match qos {
            1 => What::PubAcked {
                number,
                packet_id,
                reason,
            },
            _ => What::PubReced {
                number,
                packet_id,
                reason,
            },
        };
        self.event(actor, what)
    }

    pub(super) fn delivered(&mut self, actor: u32, publisher: u32, number: u32) -> &mut Self {
        self.delivers(actor, publisher, number, Flags::default())
    }

    pub(super) fn delivered_again(&mut self, actor: u32, publisher: u32, number: u32) -> &mut Self {
        let flags = Flags {
            again: true,
            dup: true,
            ..Flags::default()
        };
        self.delivers(actor, publisher, number, flags)
    }

    pub(super) fn retained(&mut self, actor: u32, publisher: u32, number: u32) -> &mut Self {
        let flags = Flags {
            retain: true,
            ..Flags::default()
        };
        self.delivers(actor, publisher, number, flags)
    }

    /// A will comes with QoS 2.
    pub(super) fn will(&mut self, actor: u32, publisher: u32, number: u32) -> &mut Self {
        let topic = place(&mut self.history.topics, "will/0");
        let flags = Flags {
            qos: 2,
            ..Flags::default()
        };
        self.event(
            actor,
            What::Delivered {
                publisher,
                number,
                topic,
                packet_id: 1,
                flags,
            },
        )
    }

    fn delivers(&mut self, actor: u32, publisher: u32, number: u32, flags: Flags) -> &mut Self {
        let (topic, qos) = self.sent(publisher, number);
        let flags = Flags {
            qos: qos.min(self.granted[actor as usize]),
            ..flags
        };
        self.event(
            actor,
            What::Delivered {
                publisher,
                number,
                topic,
                packet_id: 1,
                flags,
            },
        )
    }

    /// Topic and QoS of a message.
    fn sent(&self, actor: u32, wanted: u32) -> (u32, u8) {
        let events = self.history.actors[actor as usize].events.iter();
        let mut sent = events.filter_map(|event| match event.what {
            What::Publishing {
                number,
                topic,
                flags,
                ..
            } if number == wanted => Some((topic, flags.qos)),
            _ => None,
        });
        sent.next().expect("the sketch published it")
    }
}

fn place(texts: &mut Vec<String>, text: &str) -> u32 {
    let known = texts.iter().position(|one| one == text);
    let place = known.unwrap_or_else(|| {
        texts.push(text.to_owned());
        texts.len() - 1
    });
    place as u32
}
