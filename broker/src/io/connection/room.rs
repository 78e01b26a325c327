//! Reading while the node is full of messages on their way into the shards' logs.

use super::super::serve::BUFFER_BYTES;
use super::Connection;

/// What a connection may read at once while there is no room, if nothing of it went to a shard
/// yet, in bytes: enough for CONNECT, SUBSCRIBE, PINGREQ and acknowledgements.
const READ_BYTES_WITHOUT_ROOM: usize = 2 << 10;

impl Connection {
    /// Bytes that may be read now. None if the connection publishes to shards and there is no room:
    /// then it waits until [`super::super::serve::Io::release_readers`] lets it read on, its
    /// messages in the socket, and keepalive with it.
    pub(super) fn may_read(&mut self) -> Option<usize> {
        if self.waits_for_room {
            return None;
        }
        if self.io.shared.shards.under_way().left() > 0 {
            return Some(BUFFER_BYTES);
        }
        if !self.enqueues {
            return Some(READ_BYTES_WITHOUT_ROOM);
        }
        self.waits_for_room = true;
        self.io.counters.reads_held_total.add(1);
        self.io.wait_for_room(self.id);
        self.tell_read_stopped();
        None
    }

    /// There is room again.
    pub(super) fn read_on(&mut self) {
        self.waits_for_room = false;
        self.tell_read_stopped();
    }

    pub(super) fn tell_read_stopped(&mut self) {
        let is_stopped = self.read_stopped || self.waits_for_room;
        self.live.handle_read_stopped(is_stopped, self.io.now());
    }
}
