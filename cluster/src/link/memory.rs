//! A network inside the process, with faults: for tests and simulated nodes.
//!
//! A direction behaves as a TCP connection's: bytes come in order, as long as they come; what is
//! sent into a cut arrives when it is healed, unless a side gives up before.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::net::{ByteStream, Listen, Net};

/// Connections that may wait to be accepted.
const BACKLOG: usize = 64;
/// Bytes that a connection holds in each direction, as the buffers of two sockets do.
const WINDOW_BYTES: usize = 64 << 10;

/// What is wrong with one direction between two addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Nothing arrives.
    pub cut: bool,
    /// How long bytes are on their way.
    pub delay: Duration,
    /// Of every so many bytes written, a bit of one is changed.
    pub garbled_every: Option<u64>,
}

/// The network itself; clones are the same one.
#[derive(Clone, Default)]
pub struct MemoryHub(Arc<Mutex<Hub>>);

#[derive(Default)]
struct Hub {
    listeners: BTreeMap<String, mpsc::Sender<(MemoryStream, String)>>,
    faults: BTreeMap<(String, String), Faults>,
    /// Of open connections; ended ones are dropped when the next is made.
    pipes: Vec<(String, String, Weak<Mutex<Pipe>>)>,
}

/// A node's place in a [`MemoryHub`].
#[derive(Clone)]
pub struct MemoryNet {
    hub: MemoryHub,
    own: String,
}

/// Connections that come in at an address of a [`MemoryHub`].
pub struct MemoryListener {
    address: String,
    streams: mpsc::Receiver<(MemoryStream, String)>,
}

/// One side of a connection.
pub struct MemoryStream {
    incoming: Arc<Mutex<Pipe>>,
    outgoing: Arc<Mutex<Pipe>>,
    sleep: Pin<Box<Sleep>>,
}

#[derive(Default)]
struct Pipe {
    faults: Faults,
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    written: u64,
    /// Nothing more is written.
    is_ended: bool,
    /// Nobody reads any more.
    is_unread: bool,
    is_reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl MemoryHub {
    /// The network as the node at an address sees it.
    pub fn at(&self, own: &str) -> MemoryNet {
        MemoryNet {
            hub: self.clone(),
            own: own.to_owned(),
        }
    }

    /// Sets what is wrong on the way from one address to another, also of open connections.
    pub fn set_faults(&self, from: &str, to: &str, faults: Faults) {
        let mut hub = lock(&self.0);
        hub.faults.insert((from.to_owned(), to.to_owned()), faults);
        for pipe in hub.pipes_between(from, to) {
            let mut pipe = lock(&pipe);
            pipe.faults = faults;
            pipe.wake();
        }
    }

    /// Ends every open connection between two addresses, as a firewall or a crash does; half a
    /// message may have arrived.
    pub fn reset(&self, one: &str, other: &str) {
        let mut hub = lock(&self.0);
        let pipes = [hub.pipes_between(one, other), hub.pipes_between(other, one)];
        for pipe in pipes.into_iter().flatten() {
            let mut pipe = lock(&pipe);
            pipe.is_reset = true;
            pipe.wake();
        }
    }
}

impl Hub {
    fn pipes_between(&mut self, from: &str, to: &str) -> Vec<Arc<Mutex<Pipe>>> {
        let between = |(of, at, _): &&(String, String, _)| of == from && at == to;
        let pipes = self.pipes.iter().filter(between);
        pipes.filter_map(|(_, _, pipe)| pipe.upgrade()).collect()
    }

    fn pipe(&mut self, from: &str, to: &str) -> Arc<Mutex<Pipe>> {
        self.pipes.retain(|(_, _, pipe)| pipe.strong_count() > 0);
        let key = (from.to_owned(), to.to_owned());
        let faults = self.faults.get(&key).copied().unwrap_or_default();
        let pipe = Arc::new(Mutex::new(Pipe {
            faults,
            ..Pipe::default()
        }));
        self.pipes.push((key.0, key.1, Arc::downgrade(&pipe)));
        pipe
    }
}

impl Net for MemoryNet {
    type Stream = MemoryStream;
    type Listener = MemoryListener;

    async fn connect(&self, address: &str) -> io::Result<MemoryStream> {
        let mut delay = Duration::ZERO;
        for (from, to) in [(&*self.own, address), (address, &*self.own)] {
            let key = (from.to_owned(), to.to_owned());
            let faults = lock(&self.hub.0).faults.get(&key).copied();
            let faults = faults.unwrap_or_default();
            delay += faults.delay;
            if faults.cut {
                // As with TCP: nobody answers, and the caller's patience ends it.
                return std::future::pending().await;
            }
        }
        tokio::time::sleep(delay).await;
        let (near, far, listener) = {
            let mut hub = lock(&self.hub.0);
            let listener = hub.listeners.get(address).cloned();
            let out = hub.pipe(&self.own, address);
            let back = hub.pipe(address, &self.own);
            let near = MemoryStream::new(Arc::clone(&back), Arc::clone(&out));
            (near, MemoryStream::new(out, back), listener)
        };
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let listener = listener.ok_or_else(refused)?;
        let sent = listener.try_send((far, self.own.clone()));
        sent.map_err(|_| refused())?;
        Ok(near)
    }

    async fn listen(&self, address: &str) -> io::Result<MemoryListener> {
        let (sender, streams) = mpsc::channel(BACKLOG);
        let mut hub = lock(&self.hub.0);
        let free = hub.listeners.get(address).is_none_or(|at| at.is_closed());
        if !free {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        hub.listeners.insert(address.to_owned(), sender);
        Ok(MemoryListener {
            address: address.to_owned(),
            streams,
        })
    }
}

impl Listen for MemoryListener {
    type Stream = MemoryStream;
    type Opening = Ready<io::Result<MemoryStream>>;

    async fn accept(&mut self) -> io::Result<(Self::Opening, String)> {
        match self.streams.recv().await {
            Some((stream, from)) => Ok((ready(Ok(stream)), from)),
            // The hub keeps the other end.
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(self.address.clone())
    }
}

impl MemoryStream {
    fn new(incoming: Arc<Mutex<Pipe>>, outgoing: Arc<Mutex<Pipe>>) -> Self {
        Self {
            incoming,
            outgoing,
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }
}

impl ByteStream for MemoryStream {}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        lock(&self.outgoing).end();
        let mut incoming = lock(&self.incoming);
        incoming.is_unread = true;
        incoming.wake();
    }
}

impl Pipe {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()] {
            waker.into_iter().for_each(Waker::wake);
        }
    }

    fn end(&mut self) {
        self.is_ended = true;
        self.wake();
    }

    /// Takes bytes as the faults have it.
    fn put(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        if let Some(every) = self.faults.garbled_every {
            for (at, byte) in bytes.iter_mut().enumerate() {
                if (self.written + at as u64 + 1).is_multiple_of(every) {
                    *byte ^= 1 << (at % 8);
                }
            }
        }
        self.written += bytes.len() as u64;
        self.bytes += bytes.len();
        let at = Instant::now() + self.faults.delay;
        self.chunks.push_back((at, bytes.into()));
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut pipe = lock(&this.incoming);
        pipe.reader = Some(context.waker().clone());
        if pipe.is_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.faults.cut {
            return Poll::Pending;
        }
        let ended = pipe.is_ended;
        let Some((at, chunk)) = pipe.chunks.front_mut() else {
            return if ended {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            };
        };
        let at = *at;
        if at > Instant::now() {
            drop(pipe);
            this.sleep.as_mut().reset(at);
            return match this.sleep.as_mut().poll(context) {
                Poll::Ready(()) => {
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                Poll::Pending => Poll::Pending,
            };
        }
        let bytes = chunk.len().min(buf.remaining());
        buf.put_slice(&chunk[..bytes]);
        chunk.advance(bytes);
        if chunk.is_empty() {
            pipe.chunks.pop_front();
        }
        pipe.bytes -= bytes;
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        // That nobody reads any more is told on the way back, which may be cut.
        let told = !lock(&self.incoming).faults.cut;
        let mut pipe = lock(&self.outgoing);
        if pipe.is_reset || pipe.is_ended || (pipe.is_unread && told) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW_BYTES - pipe.bytes;
        if room == 0 {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let bytes = room.min(buf.len());
        pipe.put(&buf[..bytes]);
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.outgoing).end();
        Poll::Ready(Ok(()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
