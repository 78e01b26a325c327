//! Which io thread and slot a connection id names.

use session::ConnectionId;

/// Most connections of one io thread.
pub(crate) const SLOTS_MAX: usize = 1 << 24;
/// Most io threads of a node.
pub(crate) const THREADS_MAX: usize = 1 << 8;

/// Where a connection lives: io thread, slot there, and the slot's generation, so that a late
/// message for an ended connection reaches nobody else. Generations are the number of the
/// connection among all that the node accepted, wrapping: `session::ConnectionId` is so ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) thread: usize,
    pub(crate) slot: usize,
    pub(crate) generation: u32,
}

impl Place {
    /// Packs the place into 8 bits of thread, 24 of slot and 32 of generation.
    pub(crate) fn id(self) -> ConnectionId {
        debug_assert!(self.thread < THREADS_MAX && self.slot < SLOTS_MAX);
        ConnectionId(
            (self.thread as u64) << 56 | (self.slot as u64) << 32 | u64::from(self.generation),
        )
    }

    pub(crate) fn of(id: ConnectionId) -> Self {
        Self {
            thread: (id.0 >> 56) as usize,
            slot: (id.0 >> 32) as usize & (SLOTS_MAX - 1),
            generation: id.0 as u32,
        }
    }
}

/// Who waits for an obligation to be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owed {
    /// A PUBLISH, SUBSCRIBE or command of a connection.
    Connection(ConnectionId, session::Token),
    /// A will from the outbox of a shard.
    Will { shard: u16, id: session::WillId },
}

impl Owed {
    /// The io thread that keeps the account.
    pub(crate) fn thread(self, wills: usize) -> usize {
        match self {
            Self::Connection(id, _) => Place::of(id).thread,
            Self::Will { .. } => wills,
        }
    }

    /// Packs it for the telemetry line, which carries it untouched.
    pub(crate) fn ticket(self) -> bridge::Ticket {
        match self {
            Self::Connection(id, token) => bridge::Ticket {
                kind: TICKET_CONNECTION,
                words: [id.0, token.0],
            },
            Self::Will { shard, id } => bridge::Ticket {
                kind: u32::from(shard),
                words: [id.0, 0],
            },
        }
    }

    /// Unpacks [`Owed::ticket`].
    pub(crate) fn of_ticket(ticket: bridge::Ticket) -> Self {
        let [first, second] = ticket.words;
        match u16::try_from(ticket.kind) {
            Ok(shard) => Self::Will {
                shard,
                id: session::WillId(first),
            },
            Err(_) => Self::Connection(ConnectionId(first), session::Token(second)),
        }
    }
}

/// The kind of tickets of connections: no number of a shard.
const TICKET_CONNECTION: u32 = u32::MAX;

/// The partition of `key` among `parts`: the same function places session shards and telemetry
/// buckets (DESIGN §6).
pub(crate) fn shard_of(key: &str, shards: std::num::NonZeroU32) -> u16 {
    telemetry::bucket_of(key.as_bytes(), shards.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_survives_packing() {
        for owed in [
            Owed::Connection(ConnectionId(u64::MAX), session::Token(7)),
            Owed::Will {
                shard: u16::MAX,
                id: session::WillId(9),
            },
        ] {
            assert_eq!(Owed::of_ticket(owed.ticket()), owed);
        }
    }

    #[test]
    fn a_place_survives_packing() {
        for (thread, slot, generation) in [(0, 0, 0), (255, SLOTS_MAX - 1, u32::MAX), (3, 77, 9)] {
            let place = Place {
                thread,
                slot,
                generation,
            };
            assert_eq!(Place::of(place.id()), place);
        }
    }
}
