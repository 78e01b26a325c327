//! Which of several nodes a client goes to.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

/// Are the nodes of a run: their places stay for ever, those in use may change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nodes {
    /// All that there ever were.
    pub(crate) all: Vec<SocketAddr>,
    /// Places of those that clients go to, at least one.
    pub(crate) used: Vec<u16>,
}

impl Nodes {
    /// Has clients go to these from now on; without any, all stays as it is.
    pub(crate) fn use_only(&mut self, addresses: &[SocketAddr]) {
        let places: Vec<u16> = addresses.iter().map(|one| self.place(*one)).collect();
        if !places.is_empty() {
            self.used = places;
        }
    }

    fn place(&mut self, address: SocketAddr) -> u16 {
        let known = self.all.iter().position(|one| *one == address);
        let place = known.unwrap_or_else(|| {
            self.all.push(address);
            self.all.len() - 1
        });
        u16::try_from(place).unwrap_or(u16::MAX)
    }
}

/// Is the node that a client is at, or tries next.
#[derive(Clone, Debug)]
pub(crate) struct Homes {
    nodes: watch::Receiver<Arc<Nodes>>,
    at: u16,
}

impl Homes {
    /// Deals clients over the nodes in turn, by their number.
    pub(crate) fn new(nodes: watch::Receiver<Arc<Nodes>>, client: usize) -> Self {
        let at = {
            let nodes = nodes.borrow();
            nodes.used[client % nodes.used.len()]
        };
        Self { nodes, at }
    }

    /// Returns the place and the address of the node to go to.
    pub(crate) fn node(&self) -> (u16, SocketAddr) {
        (self.at, self.nodes.borrow().all[usize::from(self.at)])
    }

    /// Turns to another node that is in use, where `random` is in `[0, 1)`; a lone one stays.
    pub(crate) fn turn(&mut self, random: f64) {
        let nodes = self.nodes.borrow();
        let others: Vec<u16> = {
            let used = nodes.used.iter().copied();
            used.filter(|place| *place != self.at).collect()
        };
        if !others.is_empty() {
            let at = (random * others.len() as f64) as usize;
            self.at = others[at.min(others.len() - 1)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_client_turns_to_any_other_node_in_use_and_a_lone_one_stays() {
        let mut nodes = Nodes::default();
        nodes.use_only(&[address(1), address(2), address(3)]);
        let (tell, seen) = watch::channel(Arc::new(nodes.clone()));
        let mut homes = Homes::new(seen, 4);
        assert_eq!(homes.node(), (1, address(2)));
        homes.turn(0.99);
        assert_eq!(homes.node(), (2, address(3)));
        nodes.use_only(&[address(4)]);
        assert_eq!((nodes.all.len(), nodes.used.clone()), (4, vec![3]));
        tell.send_replace(Arc::new(nodes));
        for random in [0.0, 0.5] {
            homes.turn(random);
            assert_eq!(homes.node(), (3, address(4)));
        }
    }
}
