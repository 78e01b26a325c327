//! Ports for servers that are killed and come back: brokers of Kafka, nodes of Tidewire.
//!
//! They lie outside the range from which the system takes the ports of outgoing connections. Inside it a client that
//! tries a dead broker's port again and again would one day be given that port for its own end, and the server could
//! not return.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Below lie the ports of well-known services.
const FIRST: u16 = 20_000;

/// A port of 127.0.0.1 that nobody listened on, and that no other test takes while this value lives.
#[derive(Debug)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// An abstract socket's name is a lock that the kernel gives back however its holder ends.
    _lock: UnixListener,
}

/// Reserves `count` ports.
///
/// # Errors
/// When there are not so many.
pub fn reserve(count: usize) -> Result<Vec<Port>, String> {
    let candidates = candidates(outgoing());
    let start = random() as usize % candidates.len().max(1);
    let turned = candidates[start..].iter().chain(&candidates[..start]);
    let ports: Vec<Port> = turned
        .filter_map(|number| take(*number))
        .take(count)
        .collect();
    if ports.len() == count {
        Ok(ports)
    } else {
        Err(format!("fewer than {count} free ports on 127.0.0.1"))
    }
}

/// Randomness enough to keep two tests apart; secrets need more.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn take(number: u16) -> Option<Port> {
    let name = SocketAddr::from_abstract_name(format!("tidewire-test-port-{number}"))
        .expect("the name is shorter than 108 bytes");
    let lock = UnixListener::bind_addr(&name).ok()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
    Some(Port {
        number,
        _lock: lock,
    })
}

/// The first and the last port that the system gives to outgoing connections.
fn outgoing() -> (u16, u16) {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range
        .split_whitespace()
        .filter_map(|end| end.parse::<u16>().ok());
    match (ends.next(), ends.next()) {
        (Some(first), Some(last)) => (first, last),
        // Linux's default.
        _ => (32_768, 60_999),
    }
}

/// All ports from [`FIRST`] on but the outgoing ones; these too where nothing else is left.
fn candidates((first, last): (u16, u16)) -> Vec<u16> {
    let outside: Vec<u16> = (FIRST..=u16::MAX)
        .filter(|port| !(first..=last).contains(port))
        .collect();
    if outside.is_empty() {
        (FIRST..=u16::MAX).collect()
    } else {
        outside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_outgoing_connections_are_no_candidates_unless_there_are_no_others() {
        let usual = candidates((32_768, 60_999));
        let everything = candidates((1_024, 65_535));

        assert!(usual.contains(&20_000) && usual.contains(&32_767) && usual.contains(&61_000));
        assert!(!usual.contains(&32_768) && !usual.contains(&60_999));
        assert_eq!(everything.len(), 45_536);
    }

    #[test]
    fn a_reserved_port_is_given_to_nobody_else_and_can_be_listened_on() {
        let ports = reserve(2).unwrap();

        assert_ne!(ports[0].number, ports[1].number);
        assert!(take(ports[0].number).is_none());
        TcpListener::bind((Ipv4Addr::LOCALHOST, ports[0].number)).unwrap();
        let number = ports[0].number;
        drop(ports);
        assert!(take(number).is_some());
    }
}
