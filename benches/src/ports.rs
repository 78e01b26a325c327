//! Free ports for nodes that are killed and come back.
//!
//! They lie outside the range from which the system takes the ports of outgoing connections: inside
//! it a device that tries a dead node's port may be given that very port for its own end, and the
//! node could not return.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// First and last port that is tried; the ports that tests reserve begin above.
const RANGE: (u16, u16) = (10_000, 19_999);

/// Ports tried before any free one is taken.
const TRIES_MAX: usize = 1_000;

/// Returns so many addresses of 127.0.0.1 on which nobody listens, all different.
///
/// # Errors
/// What the system says when it has no port at all.
pub fn free(count: usize) -> io::Result<Vec<SocketAddr>> {
    let outgoing = outgoing();
    let mut random = SmallRng::from_os_rng();
    // All are held before any is released, so that they differ.
    let mut held: Vec<TcpListener> = Vec::new();
    for _ in 0..TRIES_MAX {
        if held.len() == count {
            break;
        }
        let port = random.random_range(RANGE.0..=RANGE.1);
        if !(outgoing.0..=outgoing.1).contains(&port) {
            held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
        }
    }
    while held.len() < count {
        held.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    }
    held.iter().map(TcpListener::local_addr).collect()
}

/// The first and the last port that the system gives to outgoing connections.
fn outgoing() -> (u16, u16) {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let range = range.unwrap_or_default();
    let mut ends = range.split_whitespace().filter_map(|end| end.parse().ok());
    match (ends.next(), ends.next()) {
        (Some(first), Some(last)) => (first, last),
        // Linux's default.
        _ => (32_768, 60_999),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn free_ports_differ_and_can_be_listened_on() {
        let addresses = free(9).unwrap();

        let distinct: BTreeSet<_> = addresses.iter().collect();
        assert_eq!(distinct.len(), 9);
        TcpListener::bind(addresses[8]).unwrap();
    }
}
