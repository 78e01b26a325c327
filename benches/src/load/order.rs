//! Order and loss of one publisher's messages at one subscriber.

/// Sequence numbers behind the newest that are remembered one by one.
const WINDOW: u64 = 64;

/// What became of a message by its sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the next one.
    InOrder,
    /// It came before this many that were not seen yet.
    Gap(u64),
    /// It fills a gap: it came after one that was sent later.
    Late,
    /// It was seen before, or is more than 64 behind the newest, where nothing is known any more.
    Again,
}

/// Sees gaps, swaps and repeats in a sequence that begins with 0; 16 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct OrderCheck {
    next: u64,
    /// Bit n: number `next - 1 - n` was seen.
    seen: u64,
}

impl OrderCheck {
    /// Returns a check that expects `next` first.
    #[must_use]
    pub fn starting_at(next: u64) -> Self {
        Self { next, seen: 0 }
    }

    /// Takes the number of a message that arrived.
    pub fn handle(&mut self, sequence: u64) -> Verdict {
        if sequence >= self.next {
            let gap = sequence - self.next;
            self.seen = if gap + 1 >= WINDOW {
                1
            } else {
                self.seen << (gap + 1) | 1
            };
            self.next = sequence.saturating_add(1);
            return if gap == 0 {
                Verdict::InOrder
            } else {
                Verdict::Gap(gap)
            };
        }
        let behind = self.next - 1 - sequence;
        if behind >= WINDOW || self.seen & (1 << behind) != 0 {
            return Verdict::Again;
        }
        self.seen |= 1 << behind;
        Verdict::Late
    }
}
