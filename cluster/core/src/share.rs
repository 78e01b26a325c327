//! Separate room in bytes for what must not wait for each other.

/// What an item is accounted to. A flood of one kind fills its own share only: a CONNECT is never
/// refused because queues are full, nor an acknowledgement, which empties them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Share {
    /// Begins an ownership.
    Open,
    /// Messages and everything that a client waits for in their order.
    Enqueue,
    /// Removes something: acknowledgements, ends of connections.
    Ack,
    /// The leader's own: expiries, outbox rows done, epochs ended. Bounded where they are made.
    Duty,
}

/// Bytes for each share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareLimits {
    /// [`Share::Open`].
    pub open_bytes: u64,
    /// [`Share::Enqueue`].
    pub enqueue_bytes: u64,
    /// [`Share::Ack`].
    pub ack_bytes: u64,
    /// [`Share::Duty`].
    pub duty_bytes: u64,
}

impl Default for ShareLimits {
    fn default() -> Self {
        Self {
            open_bytes: 1 << 20,
            enqueue_bytes: 8 << 20,
            ack_bytes: 1 << 20,
            duty_bytes: 1 << 20,
        }
    }
}

/// Room taken of each share.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    limits: ShareLimits,
    taken: [u64; 4],
}

impl Shares {
    pub(crate) fn new(limits: ShareLimits) -> Self {
        Self {
            limits,
            taken: [0; 4],
        }
    }

    /// Takes room; false, and nothing taken, if there is too little. Into an empty share anything
    /// fits, or an item larger than the share would wait for ever.
    pub(crate) fn take(&mut self, share: Share, bytes: u64) -> bool {
        let limit = self.limit(share);
        let taken = &mut self.taken[share as usize];
        let fits = *taken == 0 || taken.saturating_add(bytes) <= limit;
        if fits {
            *taken += bytes;
        }
        fits
    }

    /// Gives room back that [`Self::take`] took.
    pub(crate) fn give(&mut self, share: Share, bytes: u64) {
        let taken = &mut self.taken[share as usize];
        debug_assert!(*taken >= bytes, "more room of {share:?} given than taken");
        *taken = taken.saturating_sub(bytes);
    }

    pub(crate) fn taken(&self, share: Share) -> u64 {
        self.taken[share as usize]
    }

    fn limit(&self, share: Share) -> u64 {
        match share {
            Share::Open => self.limits.open_bytes,
            Share::Enqueue => self.limits.enqueue_bytes,
            Share::Ack => self.limits.ack_bytes,
            Share::Duty => self.limits.duty_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_share_leaves_the_others_their_room() {
        let mut shares = Shares::new(ShareLimits {
            enqueue_bytes: 10,
            ack_bytes: 10,
            ..ShareLimits::default()
        });

        assert!(shares.take(Share::Enqueue, 10));
        assert!(!shares.take(Share::Enqueue, 1));
        assert!(shares.take(Share::Ack, 10));
        shares.give(Share::Enqueue, 10);
        assert!(shares.take(Share::Enqueue, 11), "an empty share takes all");
    }
}
