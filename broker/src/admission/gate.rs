//! The gate: the first thing that an accepted socket meets.

use std::net::IpAddr;
use std::num::NonZeroU32;

use session::MonoMs;

use super::bucket::Bucket;
use super::sources::Sources;
use super::{Rates, Refusal};

/// Refused clients a second that are told so: it takes an actor and a CONNECT to be read. The rest is
/// closed.
const TOLD_PER_S: NonZeroU32 = NonZeroU32::new(500).expect("not 0");
/// Sockets a second that are accepted only to be closed; beyond it accepting pauses, and what comes
/// waits in the kernel, which drops it when the backlog is full.
const CLOSED_PER_S: NonZeroU32 = NonZeroU32::new(10_000).expect("not 0");

/// Decides about each socket of one listener.
#[derive(Debug)]
pub(crate) struct Gate {
    rates: Rates,
    node: Bucket,
    sources: Option<Sources>,
    told: Bucket,
    closed: Bucket,
}

/// What becomes of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It may connect.
    Admit,
    /// Its CONNECT is read and refused.
    Tell(Refusal),
    /// It is closed at once; `pauses` if nobody is to be accepted for a moment.
    Close {
        /// Why.
        refusal: Refusal,
        /// There are too many of them.
        pauses: bool,
    },
}

impl Gate {
    pub(crate) fn new(rates: Rates) -> Self {
        Self {
            rates,
            node: Bucket::default(),
            sources: rates.source_per_s.map(Sources::new),
            told: Bucket::default(),
            closed: Bucket::default(),
        }
    }

    /// A socket was accepted from this address.
    pub(crate) fn handle_socket(&mut self, source: IpAddr, now: MonoMs) -> Decision {
        let now_ns = now.0.saturating_mul(1_000_000);
        let Some(refusal) = self.refusal(source, now_ns) else {
            return Decision::Admit;
        };
        if self.told.take(TOLD_PER_S, now_ns) {
            return Decision::Tell(refusal);
        }
        let pauses = !self.closed.take(CLOSED_PER_S, now_ns);
        Decision::Close { refusal, pauses }
    }

    /// The source is asked first: who is over its own rate takes nothing of the node's.
    fn refusal(&mut self, source: IpAddr, now_ns: u64) -> Option<Refusal> {
        let counts = self.rates.counts_loopback || !source.to_canonical().is_loopback();
        if let (true, Some(sources)) = (counts, &mut self.sources)
            && !sources.take(source, now_ns)
        {
            return Some(Refusal::SourceRate);
        }
        let per_s = self.rates.node_per_s?;
        (!self.node.take(per_s, now_ns)).then_some(Refusal::NodeRate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: MonoMs = MonoMs(1_000);

    fn gate(node_per_s: u32, source_per_s: u32) -> Gate {
        Gate::new(Rates {
            node_per_s: NonZeroU32::new(node_per_s),
            source_per_s: NonZeroU32::new(source_per_s),
            counts_loopback: false,
        })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_source_over_its_rate_takes_nothing_of_the_nodes() {
        let mut gate = gate(3, 2);
        let mut ask = |last| gate.handle_socket(address(last), SECOND);
        assert_eq!([ask(1), ask(1)], [Decision::Admit; 2]);
        for _ in 0..9 {
            assert_eq!(ask(1), Decision::Tell(Refusal::SourceRate));
        }
        assert_eq!(ask(2), Decision::Admit);
        assert_eq!(ask(2), Decision::Tell(Refusal::NodeRate));
        assert_eq!(
            gate.handle_socket(address(1), MonoMs(2_000)),
            Decision::Admit
        );
    }

    #[test]
    fn loopback_is_held_to_the_rate_of_the_node_alone_unless_it_is_to_count() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let mut gate = gate(2, 1);
        let mut ask = || gate.handle_socket(loopback, SECOND);
        assert_eq!([ask(), ask()], [Decision::Admit; 2]);
        assert_eq!(ask(), Decision::Tell(Refusal::NodeRate));

        let mut counting = Gate::new(Rates {
            counts_loopback: true,
            ..gate.rates
        });
        let mut ask = || counting.handle_socket(loopback, SECOND);
        assert_eq!(ask(), Decision::Admit);
        assert_eq!(ask(), Decision::Tell(Refusal::SourceRate));
    }

    #[test]
    fn a_flood_is_told_a_little_then_closed_then_not_even_accepted() {
        let mut gate = gate(0, 1);
        let stranger = address(1);
        assert_eq!(gate.handle_socket(stranger, SECOND), Decision::Admit);
        let decisions = (0..20_000).map(|_| gate.handle_socket(stranger, SECOND));
        let (mut told, mut closed, mut pauses) = (0, 0, 0);
        for decision in decisions {
            match decision {
                Decision::Tell(Refusal::SourceRate) => told += 1,
                Decision::Close { pauses: false, .. } => closed += 1,
                Decision::Close { pauses: true, .. } => pauses += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((told, closed, pauses), (500, 10_000, 9_500));
        assert_eq!(gate.handle_socket(address(2), SECOND), Decision::Admit);
    }

    #[test]
    fn no_rate_is_no_limit() {
        let mut gate = gate(0, 0);
        let mut all = (0..50_000).map(|_| gate.handle_socket(address(1), SECOND));
        assert!(all.all(|decision| decision == Decision::Admit));
    }
}
