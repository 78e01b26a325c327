//! What a client keeps across its connections: messages under way, both ways.

use std::collections::{BTreeMap, VecDeque};

/// Is the client's half of a session. Packet ids are the lowest that are free, so that they come again
/// soon: what a node forgot to forget shows.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// In the order in which they were sent first; as many as the actor's window permits.
    outgoing: VecDeque<Outgoing>,
    /// Messages of QoS 2 that were received and not released: publisher and number, by packet id.
    incoming: BTreeMap<u16, (u32, u32)>,
}

/// Is a message of QoS 1 or 2 on its way to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) packet_id: u16,
    pub(crate) number: u32,
    pub(crate) topic: u32,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) stage: Stage,
}

/// Says how far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// PUBLISH is sent.
    Sent,
    /// PUBREC has come; from now on PUBREL is sent.
    Received,
}

/// Says what a PUBLISH of QoS 2 is to its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// A message.
    New,
    /// A packet that has come before.
    Again,
    /// A packet under the id of another message, which is not released.
    InUse,
}

impl Session {
    /// Takes a message into the window and gives it its packet id.
    pub(crate) fn publish(&mut self, number: u32, topic: u32, qos: u8, retain: bool) -> Outgoing {
        let is_free = |id: &u16| self.outgoing.iter().all(|one| one.packet_id != *id);
        let packet_id = (1..u16::MAX).find(is_free).unwrap_or(u16::MAX);
        let outgoing = Outgoing {
            packet_id,
            number,
            topic,
            qos,
            retain,
            stage: Stage::Sent,
        };
        self.outgoing.push_back(outgoing);
        outgoing
    }

    /// Messages under way to the node, in the order in which they go again after a reconnect.
    pub(crate) fn outgoing(&self) -> impl ExactSizeIterator<Item = &Outgoing> {
        self.outgoing.iter()
    }

    /// PUBACK: returns the message, which is done.
    pub(crate) fn handle_puback(&mut self, packet_id: u16) -> Option<u32> {
        self.end(|one| one.packet_id == packet_id && one.qos == 1)
    }

    /// PUBREC: returns the message. After a failure it is done, else PUBREL is due.
    pub(crate) fn handle_pubrec(&mut self, packet_id: u16, is_failure: bool) -> Option<u32> {
        if is_failure {
            return self.end(|one| one.packet_id == packet_id && one.qos == 2);
        }
        let mut all = self.outgoing.iter_mut();
        let one = all.find(|one| one.packet_id == packet_id && one.qos == 2)?;
        one.stage = Stage::Received;
        Some(one.number)
    }

    /// PUBCOMP: returns the message, which is done.
    pub(crate) fn handle_pubcomp(&mut self, packet_id: u16) -> Option<u32> {
        self.end(|one| one.packet_id == packet_id && one.qos == 2 && one.stage == Stage::Received)
    }

    /// PUBLISH of QoS 2 from the node.
    pub(crate) fn handle_publish(&mut self, packet_id: u16, message: (u32, u32)) -> Incoming {
        match self.incoming.insert(packet_id, message) {
            None => Incoming::New,
            Some(known) if known == message => Incoming::Again,
            Some(_) => Incoming::InUse,
        }
    }

    /// PUBREL from the node: whether a message waited for it.
    pub(crate) fn handle_pubrel(&mut self, packet_id: u16) -> bool {
        self.incoming.remove(&packet_id).is_some()
    }

    /// The node has no session: forgets everything and returns the messages that were under way to it.
    pub(crate) fn forget(&mut self) -> Vec<u32> {
        self.incoming.clear();
        self.outgoing.drain(..).map(|one| one.number).collect()
    }

    fn end(&mut self, is_it: impl Fn(&Outgoing) -> bool) -> Option<u32> {
        let at = self.outgoing.iter().position(is_it)?;
        self.outgoing.remove(at).map(|one| one.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_ids_are_the_lowest_that_are_free() {
        let mut session = Session::default();
        let ids = [0, 1, 2].map(|number| session.publish(number, 9, 1, false).packet_id);
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!(session.handle_puback(2), Some(1));
        assert_eq!(session.publish(3, 9, 1, false).packet_id, 2);
        let order: Vec<u32> = session.outgoing().map(|one| one.number).collect();
        assert_eq!(order, [0, 2, 3], "as sent first");
    }

    #[test]
    fn qos_2_goes_on_where_it_was_after_any_reconnect() {
        let mut session = Session::default();
        session.publish(5, 0, 2, false);
        assert_eq!(session.handle_puback(1), None, "no PUBACK for QoS 2");
        assert_eq!(session.handle_pubcomp(1), None, "not before PUBREC");
        assert_eq!(session.handle_pubrec(1, false), Some(5));
        assert_eq!(
            session.outgoing().next().map(|one| one.stage),
            Some(Stage::Received)
        );
        assert_eq!(session.handle_pubcomp(1), Some(5));
        assert_eq!(session.handle_pubrec(1, false), None);

        session.publish(6, 0, 2, false);
        assert_eq!(session.handle_pubrec(1, true), Some(6));
        assert_eq!(session.outgoing().len(), 0, "a failure ends it");
    }

    #[test]
    fn a_packet_of_qos_2_is_a_message_once_until_it_is_released() {
        let mut session = Session::default();
        assert_eq!(session.handle_publish(8, (1, 1)), Incoming::New);
        assert_eq!(session.handle_publish(8, (1, 1)), Incoming::Again);
        assert_eq!(session.handle_publish(8, (1, 2)), Incoming::InUse);
        assert!(session.handle_pubrel(8));
        assert!(!session.handle_pubrel(8));
        assert_eq!(session.handle_publish(8, (1, 2)), Incoming::New);
    }

    #[test]
    fn without_a_session_everything_under_way_is_given_up() {
        let mut session = Session::default();
        session.publish(3, 0, 2, false);
        session.publish(4, 0, 1, false);
        session.handle_publish(8, (1, 1));
        assert_eq!(session.forget(), [3, 4]);
        assert!(!session.handle_pubrel(8));
    }
}
