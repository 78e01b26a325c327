//! Which of several nodes a client goes to.

use std::net::SocketAddr;
use std::sync::Arc;

/// Are the nodes of a client: the one that it is at, or tries next, and the others.
#[derive(Clone, Debug)]
pub(crate) struct Homes {
    addresses: Arc<[SocketAddr]>,
    at: usize,
}

impl Homes {
    /// Deals clients over the nodes in turn, by their number.
    ///
    /// # Panics
    /// Without an address.
    pub(crate) fn of(addresses: Arc<[SocketAddr]>, client: usize) -> Self {
        assert!(!addresses.is_empty(), "a client has a node to go to");
        let at = client % addresses.len();
        Self { addresses, at }
    }

    /// Returns the node to go to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[self.at]
    }

    /// Turns to one of the others, where `random` is in `[0, 1)`: those whose node died spread over
    /// all that live. A lone node stays.
    pub(crate) fn turn(&mut self, random: f64) {
        let others = self.addresses.len() - 1;
        let step = 1 + (random * others as f64) as usize;
        self.at = (self.at + step) % self.addresses.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn homes(nodes: u16, client: usize) -> Homes {
        let addresses = (1..=nodes).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Homes::of(addresses.collect(), client)
    }

    #[test]
    fn clients_are_dealt_over_the_nodes_in_turn() {
        let ports: Vec<u16> = (0..4)
            .map(|client| homes(3, client).address().port())
            .collect();
        assert_eq!(ports, [1, 2, 3, 1]);
    }

    #[test]
    fn whoever_turns_goes_to_any_other_node_and_a_lone_node_stays() {
        let turned = |random: f64| {
            let mut homes = homes(3, 1);
            homes.turn(random);
            homes.address().port()
        };
        let ports: BTreeSet<u16> = [0.0, 0.3, 0.6, 0.999].map(turned).into();
        assert_eq!(ports, [1, 3].into());

        let mut alone = homes(1, 7);
        alone.turn(0.5);
        assert_eq!(alone.address().port(), 1);
    }
}
