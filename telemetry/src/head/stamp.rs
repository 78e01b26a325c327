//! Which of two different values of one point stays.

/// Where and when a message was received. It stands in the log record, so that replay agrees.
///
/// Ordered by its fields as they stand; of two different values of one point the higher stamp wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Time of receipt, milliseconds since the Unix epoch.
    pub received_ms: i64,
    /// Number of the receiving node.
    pub node: u32,
    /// Position among the messages that the node received.
    pub sequence: u64,
}

impl Stamp {
    /// Stands for the stamp of a sealed value, which no other replaces; higher than any message's.
    pub const SEALED: Self = Self {
        received_ms: i64::MAX,
        node: u32::MAX,
        sequence: u64::MAX,
    };
}

/// The stamps of a row's points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stamps {
    /// All points have this one: they came in one message.
    One(Stamp),
    /// One for each point, in the order of the row's names.
    Each(Box<[Stamp]>),
}

impl Stamps {
    /// Makes the shorter form of the stamps of each point.
    pub(crate) fn of_each(stamps: Vec<Stamp>) -> Self {
        match stamps.first() {
            Some(&first) if stamps.iter().all(|&stamp| stamp == first) => Self::One(first),
            _ => Self::Each(stamps.into()),
        }
    }

    /// The stamp of the point at a place.
    ///
    /// # Panics
    /// When the row has no such place.
    pub fn of(&self, at: usize) -> Stamp {
        match self {
            Self::One(stamp) => *stamp,
            Self::Each(stamps) => stamps[at],
        }
    }
}

/// Whether a point replaces a different one of the same key: the higher stamp wins, and of equal
/// stamps (which one sender's log never has) the higher bits, so that order never matters.
pub(crate) fn replaces(new: (f64, Stamp), held: (f64, Stamp)) -> bool {
    (new.1, new.0.to_bits()) > (held.1, held.0.to_bits())
}
