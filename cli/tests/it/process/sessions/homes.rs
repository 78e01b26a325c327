//! The nodes that a client may connect to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::process::wait::pause_for;

/// How long a client waits before it tries the next node.
const PAUSE: Duration = Duration::from_millis(20);

/// Where clients connect: to one node, whose end is theirs, or to one of several in turn.
#[derive(Clone)]
pub(crate) struct Homes {
    addresses: Vec<SocketAddr>,
    /// Nobody is to connect any more.
    is_closed: Arc<AtomicBool>,
}

impl From<SocketAddr> for Homes {
    fn from(address: SocketAddr) -> Self {
        Self::of(&[address])
    }
}

impl Homes {
    pub(crate) fn of(addresses: &[SocketAddr]) -> Self {
        Self {
            addresses: addresses.to_vec(),
            is_closed: Arc::default(),
        }
    }

    pub(super) fn first(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Lets clients end with their connections.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// Connects to the nodes in turn, from `first` on, whenever a connection ends or is refused; to a
    /// lone node once.
    ///
    /// # Errors
    /// The last connection's, once nobody is to connect any more or a node has kept an answer back
    /// for too long.
    ///
    /// # Panics
    /// When a lone node refuses.
    pub(super) fn visit(
        &self,
        first: usize,
        mut client: impl FnMut(SocketAddr) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut turn = first;
        loop {
            let Err(error) = client(self.addresses[turn % self.addresses.len()]) else {
                return Ok(());
            };
            let is_lone = self.addresses.len() == 1;
            let is_refused = error.kind() == io::ErrorKind::NotConnected;
            assert!(!(is_lone && is_refused), "{error}");
            let is_stuck = error.kind() == io::ErrorKind::WouldBlock;
            if is_lone || is_stuck || self.is_closed.load(Ordering::Relaxed) {
                return Err(error);
            }
            turn += 1;
            pause_for(PAUSE);
        }
    }
}
