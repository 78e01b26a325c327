//! The floor: a bare epoll server that answers and passes on, and keeps nothing.
//!
//! CONNECT, SUBSCRIBE, PUBLISH and PINGREQ are answered; a PUBLISH goes to whoever is connected
//! and subscribed to its very topic or to a filter that ends with `#`. There is no session, no
//! queue, no limit on what is in flight, and nothing is checked: what a broker costs beyond this
//! is what it does.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::packet::{self, Malformed, Version, kind};
use super::socket::{self, Poller, Ready};

/// The listener's number at the poller.
const LISTENER: usize = usize::MAX;
/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;
/// Bytes that may wait for one connection; beyond, it is closed.
const OUT_BYTES_LIMIT: usize = 64 << 20;
/// How often the sign to stop is looked at, in ns.
const LOOK_NS: u64 = 50_000_000;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;

/// A listening sink.
pub struct Sink {
    poller: Poller,
    listener: OwnedFd,
    address: SocketAddr,
    connections: Vec<Option<Peer>>,
    free: Vec<usize>,
    /// Subscribers by topic, then those of filters with `#` by what precedes it.
    topics: HashMap<Vec<u8>, Vec<(usize, u8)>>,
    prefixes: Vec<(Vec<u8>, usize, u8)>,
    read: Box<[u8]>,
    /// Connections with something to write.
    dirty: Vec<usize>,
}

struct Peer {
    socket: OwnedFd,
    version: Version,
    tail: Vec<u8>,
    out: Vec<u8>,
    is_dirty: bool,
    filters: Vec<Vec<u8>>,
    packet_id: u16,
}

impl Sink {
    /// Listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let listener = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&listener, true)?;
        rustix::net::bind(&listener, &address)?;
        rustix::net::listen(&listener, BACKLOG)?;
        let address = rustix::net::getsockname(&listener)?;
        let address = SocketAddr::try_from(address).map_err(io::Error::from)?;
        let poller = Poller::new()?;
        poller.add_listener(&listener, LISTENER)?;
        Ok(Self {
            poller,
            listener,
            address,
            connections: Vec::new(),
            free: Vec::new(),
            topics: HashMap::new(),
            prefixes: Vec::new(),
            read: vec![0; READ_BYTES].into(),
            dirty: Vec::new(),
        })
    }

    /// Returns the address that is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is set.
    ///
    /// # Errors
    /// What the system says about the poller.
    pub fn run(mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut ready: Vec<Ready> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            self.poller.wait(LOOK_NS, &mut ready)?;
            for event in &ready {
                if event.key == LISTENER {
                    self.accept();
                    continue;
                }
                if event.readable {
                    self.read_all(event.key, event.ended);
                }
                if event.writable {
                    self.mark(event.key);
                }
            }
            self.flush();
        }
        Ok(())
    }

    fn accept(&mut self) {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                // Level-triggered: what still waits, or has no descriptor left, comes again.
                Err(Errno::AGAIN) => return,
                Err(error) => {
                    tracing::debug!(%error, "a connection is not accepted");
                    return;
                }
            };
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let added = sockopt::set_tcp_nodelay(&socket, true)
                .map_err(io::Error::from)
                .and_then(|()| self.poller.add(&socket, slot));
            if let Err(error) = added {
                tracing::debug!(%error, "a connection is not served");
                self.free.push(slot);
                continue;
            }
            self.connections[slot] = Some(Peer {
                socket,
                version: Version::V311,
                tail: Vec::new(),
                out: Vec::new(),
                is_dirty: false,
                filters: Vec::new(),
                packet_id: 0,
            });
        }
    }

    fn close(&mut self, slot: usize) {
        let Some(peer) = self.connections[slot].take() else {
            return;
        };
        for filter in peer.filters {
            if let Some(subscribers) = self.topics.get_mut(&filter) {
                subscribers.retain(|(other, _)| *other != slot);
                if subscribers.is_empty() {
                    self.topics.remove(&filter);
                }
            }
        }
        self.prefixes.retain(|(_, other, _)| *other != slot);
        self.free.push(slot);
    }

    fn read_all(&mut self, slot: usize, ended: bool) {
        loop {
            let Some(peer) = self.connections[slot].as_mut() else {
                return;
            };
            let mut read = std::mem::take(&mut self.read);
            let tail = std::mem::take(&mut peer.tail);
            let start = tail.len();
            read[..start].copy_from_slice(&tail);
            let room = read.len() - start;
            let count = match socket::read(&peer.socket, &mut read[start..]) {
                Ok(None) => {
                    peer.tail = tail;
                    self.read = read;
                    return;
                }
                Ok(Some(0)) | Err(_) => {
                    self.read = read;
                    return self.close(slot);
                }
                Ok(Some(count)) => count,
            };
            let handled = self.handle(slot, &read[..start + count]);
            let rest = handled.map(|used| read[used..start + count].to_vec());
            let full = read.len();
            self.read = read;
            match rest {
                Ok(rest) if rest.len() < full => {
                    if let Some(peer) = self.connections[slot].as_mut() {
                        peer.tail = rest;
                    }
                }
                _ => return self.close(slot),
            }
            if count < room && !ended {
                return;
            }
        }
    }

    fn handle(&mut self, slot: usize, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut used = 0;
        while let Some(frame) = packet::frame(&bytes[used..])? {
            used += frame.packet_bytes;
            match frame.first & 0xF0 {
                kind::PUBLISH => self.publish(slot, frame)?,
                kind::CONNECT => {
                    let peer = self.peer(slot)?;
                    let is_v5 = frame.body.get(6) == Some(&5);
                    peer.version = if is_v5 { Version::V5 } else { Version::V311 };
                    let connack: &[u8] = match is_v5 {
                        true => &[kind::CONNACK, 3, 0, 0, 0],
                        false => &[kind::CONNACK, 2, 0, 0],
                    };
                    self.push(slot, connack);
                }
                kind::SUBSCRIBE => self.subscribe(slot, frame.body)?,
                kind::PINGREQ => self.push(slot, &[kind::PINGRESP, 0]),
                kind::PUBACK => {}
                _ => return Err(Malformed),
            }
        }
        Ok(used)
    }

    fn peer(&mut self, slot: usize) -> Result<&mut Peer, Malformed> {
        self.connections[slot].as_mut().ok_or(Malformed)
    }

    fn push(&mut self, slot: usize, bytes: &[u8]) {
        if let Some(peer) = &mut self.connections[slot] {
            peer.out.extend_from_slice(bytes);
            self.mark(slot);
        }
    }

    fn mark(&mut self, slot: usize) {
        if let Some(peer) = &mut self.connections[slot]
            && !peer.out.is_empty()
            && !std::mem::replace(&mut peer.is_dirty, true)
        {
            self.dirty.push(slot);
        }
    }

    /// Takes the first filter; the load generator sends no more.
    fn subscribe(&mut self, slot: usize, body: &[u8]) -> Result<(), Malformed> {
        let peer = self.peer(slot)?;
        let (id, rest) = body.split_first_chunk::<2>().ok_or(Malformed)?;
        let v5 = usize::from(peer.version == Version::V5);
        let (length, rest) = rest
            .get(v5..)
            .and_then(|rest| rest.split_first_chunk::<2>())
            .ok_or(Malformed)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (filter, options) = rest.split_at_checked(length).ok_or(Malformed)?;
        let qos = options.first().ok_or(Malformed)? & 3;
        peer.filters.push(filter.to_vec());
        let suback: &[u8] = match v5 {
            1 => &[kind::SUBACK, 4, id[0], id[1], 0, qos],
            _ => &[kind::SUBACK, 3, id[0], id[1], qos],
        };
        match filter.strip_suffix(b"#") {
            Some(prefix) => self.prefixes.push((prefix.to_vec(), slot, qos)),
            None => self
                .topics
                .entry(filter.to_vec())
                .or_default()
                .push((slot, qos)),
        }
        self.push(slot, suback);
        Ok(())
    }

    fn publish(&mut self, slot: usize, frame: packet::Frame<'_>) -> Result<(), Malformed> {
        let publish = packet::publish(self.peer(slot)?.version, frame.first, frame.body)?;
        let qos = frame.first >> 1 & 3;
        if qos > 0 {
            let mut puback = Vec::with_capacity(4);
            packet::puback(&mut puback, publish.packet_id);
            self.push(slot, &puback);
        }
        if let Some(subscribers) = self.topics.get(publish.topic) {
            for (to, granted) in subscribers {
                let peer = self.connections[*to].as_mut();
                deliver(peer, *to, qos.min(*granted), publish, &mut self.dirty);
            }
        }
        for (prefix, to, granted) in &self.prefixes {
            if publish.topic.starts_with(prefix) {
                let peer = self.connections[*to].as_mut();
                deliver(peer, *to, qos.min(*granted), publish, &mut self.dirty);
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            let Some(peer) = &mut self.connections[slot] else {
                continue;
            };
            peer.is_dirty = false;
            match socket::write(&peer.socket, &peer.out) {
                Ok(taken) if taken == peer.out.len() => peer.out.clear(),
                // The socket says when it is writable again.
                Ok(taken) if peer.out.len() <= OUT_BYTES_LIMIT => {
                    peer.out.drain(..taken);
                }
                _ => self.close(slot),
            }
        }
        self.dirty = dirty;
    }
}

fn deliver(
    peer: Option<&mut Peer>,
    slot: usize,
    qos: u8,
    publish: packet::Publish<'_>,
    dirty: &mut Vec<usize>,
) {
    let Some(peer) = peer else {
        return;
    };
    let id = (qos > 0).then(|| {
        peer.packet_id = peer.packet_id.checked_add(1).unwrap_or(1);
        peer.packet_id
    });
    packet::push_publish(&mut peer.out, peer.version, qos, publish, id);
    if !std::mem::replace(&mut peer.is_dirty, true) {
        dirty.push(slot);
    }
}
