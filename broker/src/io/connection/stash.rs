//! PUBLISH packets of a 3.1.1 client that sends more than the window has room for.

use bytes::Bytes;
use mqtt::{Packet, Publish, QoS};
use runtime::Exit;

use super::Connection;

impl Connection {
    pub(super) fn take_packet(&mut self, packet: Packet) {
        if self.io.shared.traces.is_on() {
            self.trace_received(&packet);
        }
        let packet = match packet {
            Packet::Publish(publish) => {
                self.io.counters.publish_received_total.add(1);
                let is_held =
                    publish.qos != QoS::AtMostOnce && (self.has_stash() || self.live.is_paused());
                if is_held {
                    return self.stash(publish);
                }
                Packet::Publish(publish)
            }
            other => other,
        };
        self.live.handle_packet(packet, self.io.now());
        if self.live.is_closed() && self.exit.is_none() {
            self.exit = Some(Exit::Normal);
        }
        // A PUBREL may have made room.
        self.drain_effects();
        self.unstash();
    }

    /// Holds a PUBLISH behind the full window: what follows it, PINGREQ and acknowledgements, is
    /// read on. Only a full stash stops the socket.
    fn stash(&mut self, mut publish: Publish) {
        let limit = self.io.shared.stash_bytes_limit;
        // Copied, so that it does not pin the shared buffer for as long as the window is full.
        publish.topic = publish.topic.detach();
        publish.payload = Bytes::copy_from_slice(&publish.payload);
        let extra = self.extra();
        extra.stash_bytes += held_bytes(&publish);
        extra.stash.push_back(publish);
        if extra.stash_bytes >= limit && !self.read_stopped {
            self.read_stopped = true;
            self.tell_read_stopped();
        }
    }

    /// Takes stashed packets while the window has room, and reads on.
    pub(super) fn unstash(&mut self) {
        while !self.live.is_paused()
            && let Some(extra) = self.extra.as_mut()
            && let Some(publish) = extra.stash.pop_front()
        {
            extra.stash_bytes -= held_bytes(&publish);
            self.live
                .handle_packet(Packet::Publish(publish), self.io.now());
            self.drain_effects();
        }
        let limit = self.io.shared.stash_bytes_limit;
        let bytes = self.extra.as_ref().map_or(0, |extra| extra.stash_bytes);
        if self.read_stopped && (bytes < limit || bytes == 0) {
            self.read_stopped = false;
            self.tell_read_stopped();
        }
    }

    fn has_stash(&self) -> bool {
        let extra = self.extra.as_ref();
        extra.is_some_and(|extra| !extra.stash.is_empty())
    }
}

/// What a held packet costs, in bytes.
fn held_bytes(publish: &Publish) -> usize {
    size_of::<Publish>() + publish.topic.len() + publish.payload.len()
}
