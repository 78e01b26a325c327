//! The handshakes of an io thread: sockets whose CONNECT is not answered.

use std::collections::{BTreeMap, HashMap};

use session::ConnectionId;

/// Part of the room that clients may take which are only to be told that they are refused.
const TOLD_PART: usize = 8;

/// Counts an io thread's handshakes, and says who gives way when there are too many: the oldest
/// client that has not sent its CONNECT. One that means to connect does so at once; one that only
/// holds a socket loses it.
#[derive(Debug)]
pub(crate) struct Handshakes {
    limit: usize,
    begun: u64,
    stages: HashMap<ConnectionId, Stage>,
    /// Without a whole CONNECT, the oldest first.
    silent: BTreeMap<u64, ConnectionId>,
    /// Of all of them, those that are to be told a refusal; they stay until their end.
    told: usize,
}

#[derive(Clone, Copy, Debug)]
struct Stage {
    number: u64,
    is_told: bool,
}

/// Whether there is room for another handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is.
    Free,
    /// There is once this one, which is counted no more, was ended.
    Of(ConnectionId),
    /// Everybody there waits for an answer.
    Full,
}

impl Handshakes {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            begun: 0,
            stages: HashMap::new(),
            silent: BTreeMap::new(),
            told: 0,
        }
    }

    /// A socket wants to begin; `is_told` if only to be told a refusal, for which nobody gives way.
    pub(crate) fn handle_arrival(&mut self, is_told: bool) -> Room {
        if is_told && self.told >= self.limit.div_ceil(TOLD_PART) {
            return Room::Full;
        }
        if self.stages.len() < self.limit {
            return Room::Free;
        }
        if is_told {
            return Room::Full;
        }
        match self.silent.first_key_value() {
            Some((_, oldest)) => {
                let oldest = *oldest;
                self.handle_done(oldest);
                Room::Of(oldest)
            }
            None => Room::Full,
        }
    }

    /// It has begun.
    pub(crate) fn handle_begun(&mut self, id: ConnectionId, is_told: bool) {
        let number = self.begun;
        self.begun += 1;
        self.stages.insert(id, Stage { number, is_told });
        self.silent.insert(number, id);
        self.told += usize::from(is_told);
    }

    /// Its CONNECT was read: it waits for us from now on.
    pub(crate) fn handle_connect(&mut self, id: ConnectionId) {
        if let Some(stage) = self.stages.get(&id) {
            self.silent.remove(&stage.number);
        }
    }

    /// It is connected, or has ended; perhaps a second time.
    pub(crate) fn handle_done(&mut self, id: ConnectionId) {
        if let Some(stage) = self.stages.remove(&id) {
            self.silent.remove(&stage.number);
            self.told -= usize::from(stage.is_told);
        }
    }

    /// Handshakes in progress.
    pub(crate) fn len(&self) -> usize {
        self.stages.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(number: u64) -> ConnectionId {
        ConnectionId(number)
    }

    fn begin(handshakes: &mut Handshakes, number: u64) -> Room {
        let room = handshakes.handle_arrival(false);
        if room != Room::Full {
            handshakes.handle_begun(id(number), false);
        }
        room
    }

    #[test]
    fn the_oldest_without_a_connect_gives_way_and_nobody_else() {
        let mut handshakes = Handshakes::new(3);
        for number in 1..=3 {
            assert_eq!(begin(&mut handshakes, number), Room::Free);
        }
        handshakes.handle_connect(id(1));
        assert_eq!(begin(&mut handshakes, 4), Room::Of(id(2)));
        handshakes.handle_connect(id(4));
        assert_eq!(begin(&mut handshakes, 5), Room::Of(id(3)));
        handshakes.handle_connect(id(5));
        assert_eq!(begin(&mut handshakes, 6), Room::Full);
        assert_eq!(handshakes.len(), 3);

        handshakes.handle_done(id(1));
        handshakes.handle_done(id(1));
        assert_eq!(handshakes.len(), 2);
        assert_eq!(begin(&mut handshakes, 6), Room::Free);
    }

    #[test]
    fn refusals_take_a_part_of_the_room_and_nobody_gives_way_to_them() {
        let mut handshakes = Handshakes::new(16);
        for number in 0..2 {
            assert_eq!(handshakes.handle_arrival(true), Room::Free);
            handshakes.handle_begun(id(number), true);
        }
        assert_eq!(handshakes.handle_arrival(true), Room::Full);
        for number in 2..16 {
            assert_eq!(begin(&mut handshakes, number), Room::Free);
        }
        handshakes.handle_done(id(15));
        handshakes.handle_done(id(0));
        assert_eq!(handshakes.handle_arrival(true), Room::Free);
        assert_eq!(begin(&mut handshakes, 17), Room::Free);
        assert_eq!(begin(&mut handshakes, 18), Room::Free);
        assert_eq!(handshakes.handle_arrival(true), Room::Full);
        // One that is to be told a refusal gives way as others do.
        assert_eq!(begin(&mut handshakes, 19), Room::Of(id(1)));
    }
}
