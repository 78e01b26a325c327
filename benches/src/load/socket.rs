//! Non-blocking sockets and readiness, by way of the system's own calls.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::clock::timespec;

/// Events taken at a time.
const EVENTS: usize = 1_024;

/// What is ready, by the number given when the descriptor was added.
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

/// One descriptor's readiness.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    /// The number given when it was added.
    pub(super) key: usize,
    /// It can be read, or has failed.
    pub(super) readable: bool,
    /// It can be written, or has failed.
    pub(super) writable: bool,
    /// Nothing more will come behind what can be read now.
    pub(super) ended: bool,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS),
        })
    }

    /// Adds a descriptor, edge-triggered for both directions; closing it takes it out.
    pub(super) fn add(&self, source: impl AsFd, key: usize) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, source, EventData::new_u64(key as u64), flags)?;
        Ok(())
    }

    /// Adds a listener, level-triggered.
    pub(super) fn add_listener(&self, source: impl AsFd, key: usize) -> io::Result<()> {
        epoll::add(
            &self.epoll,
            source,
            EventData::new_u64(key as u64),
            EventFlags::IN,
        )?;
        Ok(())
    }

    /// Waits for at most `ns` and puts what is ready into `to`; an interruption is nothing ready.
    pub(super) fn wait(&mut self, ns: u64, to: &mut Vec<Ready>) -> io::Result<()> {
        self.events.clear();
        let taken = epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            Some(&timespec(ns)),
        );
        match taken {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        to.clear();
        let ended = EventFlags::ERR | EventFlags::HUP;
        to.extend(self.events.iter().map(|event| {
            let flags = event.flags;
            Ready {
                key: event.data.u64() as usize,
                readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP | ended),
                writable: flags.intersects(EventFlags::OUT | ended),
                ended: flags.intersects(EventFlags::RDHUP | ended),
            }
        }));
        Ok(())
    }
}

/// Begins to connect; the socket becomes writable once that has succeeded or failed.
pub(super) fn connect(address: SocketAddr, source: Option<Ipv4Addr>) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(source) = source {
        rustix::net::bind(&socket, &SocketAddr::from((source, 0)))?;
    }
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Reads once. `None`: nothing there now.
pub(super) fn read(socket: &OwnedFd, to: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match rustix::io::read(socket, &mut *to) {
            Ok(count) => return Ok(Some(count)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes once; returns the number of bytes taken, 0 when the socket is full.
pub(super) fn write(socket: &OwnedFd, from: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::io::write(socket, from) {
            Ok(count) => return Ok(count),
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
