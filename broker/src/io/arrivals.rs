//! Sockets that come to an io thread, and what keeps them from disturbing those that are connected.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use runtime::{Exit, Guarded, Mailbox};
use session::ConnectionId;

use super::connection::Connection;
use super::serve::{CONTROL_LIMIT, Io};
use super::slots::ConnectionMessage;
use crate::admission::{Refusal, Room};

/// Sockets that begin in one round, in which up to 61 connections (tokio's tick of a `LocalSet`) have
/// their turn: a storm of them goes on among those that are connected, not before them.
const BEGUN_A_ROUND: usize = 16;
/// Sockets that may wait to begin; more are closed. Those that wait hold a descriptor and no memory.
const WAITING_MAX: usize = 4_096;

/// A socket that now belongs to this thread.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) socket: TcpStream,
    pub(crate) peer: SocketAddr,
    /// Its number among the node's connections.
    pub(crate) number: u32,
    /// It may not connect, and is to be told why.
    pub(crate) refusal: Option<Refusal>,
}

/// Sockets that have not begun.
#[derive(Default)]
pub(super) struct Arrivals {
    waiting: VecDeque<Arrival>,
    round: Round,
}

/// How many began in a round.
#[derive(Default)]
struct Round {
    number: u64,
    begun: usize,
}

impl Round {
    /// Whether one more may begin in the round of this number.
    fn has_room(&mut self, number: u64) -> bool {
        if self.number != number {
            *self = Self { number, begun: 0 };
        }
        self.begun < BEGUN_A_ROUND
    }
}

impl Arrivals {
    pub(super) fn push(&mut self, io: &Io, arrival: Arrival) {
        if self.waiting.len() >= WAITING_MAX {
            io.counters.connections_accepted_total.add(1);
            return io.count_refusal(Refusal::Handshakes);
        }
        self.waiting.push_back(arrival);
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next one that may begin in this round.
    pub(super) fn poll(&mut self, round: u64) -> Option<Arrival> {
        if !self.round.has_room(round) {
            return None;
        }
        let arrival = self.waiting.pop_front()?;
        self.round.begun += 1;
        Some(arrival)
    }
}

/// Starts the actor of an accepted socket.
pub(super) fn begin(io: &Rc<Io>, arrival: Arrival) {
    let Arrival {
        socket,
        peer,
        number,
        refusal,
    } = arrival;
    // Until now it counted as on its way here.
    io.counters.connections_accepted_total.add(1);
    if io.shared.stopping.load(Ordering::Relaxed) || !io.make_room(refusal) {
        return;
    }
    let socket = match tokio::net::TcpStream::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%peer, %error, "an accepted socket cannot be polled");
            return;
        }
    };
    let mailbox = Mailbox::new(io.shared.mailbox_bytes_limit, CONTROL_LIMIT);
    let Some(id) = io.slots.borrow_mut().insert(mailbox.clone(), number) else {
        tracing::warn!(%peer, "all connection slots are taken");
        return;
    };
    io.handshakes
        .borrow_mut()
        .handle_begun(id, refusal.is_some());
    io.shared.threads.begin(id);
    io.counters.connections_open.add(1);
    let io = Rc::clone(io);
    let connection = Connection::new(Rc::clone(&io), id, socket, mailbox.clone(), refusal);
    let mut actor = Guarded::new(connection);
    tokio::task::spawn_local(async move {
        // By reference: awaited by value, the task would have room for two of them.
        let exit = (&mut actor).await;
        mailbox.close();
        io.ended(id, peer, exit);
    });
}

impl Io {
    /// Whether another handshake may begin; somebody else may have to go for it.
    fn make_room(&self, refusal: Option<Refusal>) -> bool {
        let room = self
            .handshakes
            .borrow_mut()
            .handle_arrival(refusal.is_some());
        match room {
            Room::Free => true,
            Room::Of(silent) => {
                self.count_refusal(Refusal::Silent);
                self.tell(silent, ConnectionMessage::GiveWay);
                true
            }
            Room::Full => {
                // Who was refused before is counted already.
                if refusal.is_none() {
                    self.count_refusal(Refusal::Handshakes);
                }
                false
            }
        }
    }

    /// A connection has ended, by itself or by a panic.
    fn ended(&self, id: ConnectionId, peer: SocketAddr, exit: Exit) {
        // One that panicked has not said so itself.
        self.outbound.borrow_mut().end(id);
        self.slots.borrow_mut().remove(id);
        self.withheld.borrow_mut().remove(&id);
        self.withheld_from_shards.borrow_mut().remove(&id);
        self.counters.connections_open.sub(1);
        self.exits.borrow_mut().push((peer, exit));
        self.handshakes.borrow_mut().handle_done(id);
        self.open_done(id);
        self.wake_flush();
    }

    /// What a connection had asked a shard for so as to be connected is answered, or it has ended:
    /// the next one may ask.
    pub(super) fn open_done(&self, id: ConnectionId) {
        let mut done = self.opens.borrow_mut().handle_done(id);
        while let Some(shard) = done.take() {
            let next = self.opens.borrow_mut().poll_next(shard);
            let Some(next) = next else { return };
            if self.slots.borrow().get(next).is_some() {
                self.tell(next, ConnectionMessage::OpenNow);
            } else {
                done = self.opens.borrow_mut().handle_done(next);
            }
        }
    }

    /// Refuses those that have waited too long for their turn to open.
    pub(super) fn look_for_late_opens(&self) {
        let now = self.now().mono;
        loop {
            let late = self.opens.borrow_mut().poll_late(now);
            let Some(late) = late else { return };
            self.tell(late, ConnectionMessage::OpenLate);
        }
    }

    pub(super) fn count_refusal(&self, refusal: Refusal) {
        self.shared.refusals.count(refusal, self.now().mono);
    }

    /// Says how many connect, for `/metrics`.
    pub(super) fn count_handshakes(&self) {
        let (under_way, waiting) = self.opens.borrow().counts();
        let counters = &self.counters;
        counters
            .handshakes
            .set(self.handshakes.borrow().len() as u64);
        counters.opens_under_way.set(under_way as u64);
        counters.opens_waiting.set(waiting as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_sockets_begin_in_a_round_and_the_others_in_the_next() {
        let mut arrivals = Arrivals::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        for number in 0..BEGUN_A_ROUND as u32 + 2 {
            arrivals.waiting.push_back(Arrival {
                socket: TcpStream::connect(address).expect("the backlog has room"),
                peer: address,
                number,
                refusal: None,
            });
        }
        let mut begun = |round| {
            let all = std::iter::from_fn(|| arrivals.poll(round));
            all.map(|arrival| arrival.number).collect::<Vec<_>>()
        };
        assert_eq!(begun(7), Vec::from_iter(0..BEGUN_A_ROUND as u32));
        assert_eq!(begun(7).len(), 0);
        assert_eq!(begun(8).len(), 2);
    }
}
