//! The numbered stream of this node's epoch to another node's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cluster::exchange::{Letter, Letters, LettersReply, Said, kinds};
use cluster::link::{Channel, RequestError};
use cluster_core::{Attempt, Body, NodeEpoch, NodeId, Numbered, Sent, Share, ShareLimits};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use runtime::ractor;
use session::{ConnectionId, DeliveryStep, DurableEffect};

use super::{DEADLINE, Deliveries, DeliveryRoom, Flights, Peers, RETRY_DELAY};
use crate::ids::Owed;
use crate::io::{IoMessage, Threads};

/// Letters and bytes of a request.
const LETTERS_MAX: usize = 1_000;
const LETTERS_BYTES_MAX: u64 = 1 << 20;
/// Bytes that a letter is accounted with beside the message in it.
const LETTER_BYTES: u64 = 128;
/// Bytes that a receipt may have.
const RECEIPT_BYTES: u32 = 64;

/// A letter, and what its receipt settles.
#[derive(Clone, Debug)]
pub(crate) struct Posted {
    pub(crate) letter: Arc<Letter>,
    pub(crate) owed: Option<Owed>,
    /// The connection without which nobody wants it: who published it. None for what a will asks
    /// for, and for what other nodes' connections are told.
    pub(crate) owner: Option<ConnectionId>,
    /// What a delivery took for itself.
    pub(crate) room: Option<Arc<DeliveryRoom>>,
}

impl Posted {
    /// A letter that nobody waits for.
    pub(crate) fn of(letter: Letter) -> Self {
        Self {
            letter: Arc::new(letter),
            owed: None,
            owner: None,
            room: None,
        }
    }

    /// A delivery, which may have room of its own.
    pub(crate) fn delivery(letter: Letter, room: Option<DeliveryRoom>) -> Self {
        Self {
            room: room.map(Arc::new),
            ..Self::of(letter)
        }
    }

    /// Bytes that it occupies beside the deliveries, which are counted apart.
    pub(super) fn counted_bytes(&self) -> u64 {
        match self.room {
            Some(_) => 0,
            None => self.bytes(),
        }
    }

    /// Bytes that it occupies.
    fn bytes(&self) -> u64 {
        let message = match &*self.letter {
            Letter::Delivery(delivery) => match &delivery.step {
                DeliveryStep::Publish { message, .. } => message.bytes(),
                DeliveryStep::Release => 0,
            },
            Letter::Shared(delivery) => delivery.message.bytes(),
            Letter::Passing { message, .. } | Letter::Message { message, .. } => message.bytes(),
            Letter::TakenOver { .. } | Letter::RoutesApplied { .. } => 0,
        };
        LETTER_BYTES + message as u64
    }
}

/// Bytes that what is handed out occupies as a letter to another node, and to which; none if it is no
/// delivery from a queue.
pub(crate) fn delivery_bytes(effect: &DurableEffect) -> Option<(NodeEpoch, u64)> {
    let (to, message) = match effect {
        DurableEffect::Deliver(delivery) => match &delivery.step {
            DeliveryStep::Publish { message, .. } => (delivery.node_epoch, message.bytes()),
            DeliveryStep::Release => (delivery.node_epoch, 0),
        },
        DurableEffect::DeliverShared(delivery) => (delivery.node_epoch, delivery.message.bytes()),
        _ => return None,
    };
    Some((NodeEpoch(to.0), LETTER_BYTES + message as u64))
}

/// What the stream to a node is told.
///
/// The mailbox is bounded by the bytes that [`Peers`] counts for the stream: of messages for clean
/// sessions, of QoS 0, and of deliveries. What remains is one letter for each session taken over.
pub(crate) enum PostMessage {
    /// To be sent behind all that came before.
    Letters(Vec<Posted>),
    /// What became of a request.
    Landing {
        flight: Flight,
        reply: Option<LettersReply>,
    },
    /// What was lost may be sent again.
    SendAgain,
    /// To be called once there is room for deliveries again. About one for each shard waits.
    NotifyRoom(Box<dyn FnOnce() + Send>),
    /// Meta ended the epoch: what is owed is settled, nothing is sent any more.
    Ended,
}

impl ractor::Message for PostMessage {}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Flight {
    attempt: Attempt,
}

/// The stream to one epoch of a node.
pub(crate) struct Post {
    pub(crate) node: NodeId,
    pub(crate) from: NodeEpoch,
    pub(crate) to: NodeEpoch,
    pub(crate) peers: Peers,
    pub(crate) threads: Threads,
    /// Bytes of letters that are not receipted, but for deliveries.
    pub(crate) bytes: Arc<AtomicU64>,
    pub(crate) deliveries: Deliveries,
}

/// What the actor holds.
pub(crate) struct Posting {
    me: ActorRef<PostMessage>,
    letters: Numbered<Posted>,
    /// Number of the first letter without a receipt.
    next: u64,
    flights: Flights<Flight>,
    settled: Vec<Owed>,
    /// Who waits for room for deliveries.
    waiting: Vec<Box<dyn FnOnce() + Send>>,
}

impl Actor for Post {
    type Msg = PostMessage;
    type State = Posting;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        let told = me.clone();
        let landed = move |flight, reply: Result<Bytes, RequestError>| {
            let reply = read(reply);
            told.cast(PostMessage::Landing { flight, reply }).is_ok()
        };
        // Who fills it is bounded before; here nothing is refused.
        let limits = ShareLimits {
            enqueue_bytes: u64::MAX,
            ..ShareLimits::default()
        };
        Ok(Posting {
            me,
            letters: Numbered::new(limits),
            next: 0,
            flights: Flights::new(landed),
            settled: Vec::new(),
            waiting: Vec::new(),
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        posting: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PostMessage::Letters(letters) => letters.into_iter().for_each(|one| posting.push(one)),
            PostMessage::Landing { flight, reply } => self.landing(posting, &flight, reply),
            PostMessage::SendAgain => posting.flights.go_on(),
            PostMessage::NotifyRoom(notify) => posting.waiting.push(notify),
            PostMessage::Ended => {
                self.taken(posting, u64::MAX);
                posting.me.stop(None);
            }
        }
        if self.deliveries.has_room() {
            posting.waiting.drain(..).for_each(|notify| notify());
        }
        self.send(posting);
        self.settle(posting).await;
        Ok(())
    }
}

impl Post {
    /// Sends what is numbered, as far as there is room under way.
    fn send(&self, posting: &mut Posting) {
        while posting.flights.has_room() {
            let before = posting.letters.withdrawn();
            let Some((flight, letters)) = self.next_request(posting) else {
                return;
            };
            let withdrawn = posting.letters.withdrawn() - before;
            let counters = self.peers.counters();
            counters
                .withdrawn_total
                .fetch_add(withdrawn, Ordering::Relaxed);
            let channel = Channel {
                kind: kinds::LETTERS,
                group: 0,
            };
            let asked = self
                .peers
                .ask(self.node, channel, &letters, RECEIPT_BYTES, DEADLINE);
            match asked {
                Ok(reply) => posting.flights.begin(flight, reply),
                Err(error) => {
                    tracing::debug!(to = %self.to, %error, "letters wait");
                    posting.send_again(flight.attempt);
                }
            }
        }
    }

    fn next_request(&self, posting: &mut Posting) -> Option<(Flight, Letters)> {
        let is_open = |id: cluster_core::ConnectionId| self.threads.is_open(ConnectionId(id.0));
        let first = posting.letters.poll_item(is_open)?;
        let attempt = first.attempt;
        let (mut letters, mut bytes) = (Vec::new(), 0);
        let mut next = Some(first);
        while let Some(Sent { n, attempt, body }) = next {
            let body = match body {
                Body::Item(posted) => {
                    bytes += posted.bytes();
                    Body::Item((*posted.letter).clone())
                }
                Body::Nop => Body::Nop,
            };
            letters.push(Sent { n, attempt, body });
            let is_full = letters.len() >= LETTERS_MAX || bytes >= LETTERS_BYTES_MAX;
            next = if is_full {
                None
            } else {
                posting.letters.poll_item(is_open)
            };
        }
        let (from, to) = (self.from, self.to);
        Some((Flight { attempt }, Letters { from, to, letters }))
    }

    fn landing(&self, posting: &mut Posting, flight: &Flight, reply: Option<LettersReply>) {
        posting.flights.handle_landed();
        match reply {
            Some(LettersReply::Taken { next }) => self.taken(posting, next),
            Some(LettersReply::Gap { attempt, next }) => {
                self.taken(posting, next);
                posting.letters.handle_error(attempt);
            }
            // It may learn of this epoch yet; that its own is over, meta says.
            Some(LettersReply::Stranger) | None => posting.send_again(flight.attempt),
        }
    }

    /// Everything below `next` has its receipt.
    fn taken(&self, posting: &mut Posting, next: u64) {
        while posting.next < next {
            let Some(confirmed) = posting.letters.handle_answer(posting.next) else {
                return;
            };
            posting.next += 1;
            self.bytes
                .fetch_sub(confirmed.item.counted_bytes(), Ordering::Relaxed);
            posting.settled.extend(confirmed.item.owed);
        }
    }

    async fn settle(&self, posting: &mut Posting) {
        if posting.settled.is_empty() {
            return;
        }
        let mut by_thread: Vec<Vec<Owed>> = vec![Vec::new(); self.threads.len()];
        for owed in posting.settled.drain(..) {
            by_thread[owed.thread(0)].push(owed);
        }
        for (thread, settled) in by_thread.into_iter().enumerate() {
            if !settled.is_empty() {
                self.threads.send(thread, IoMessage::Settled(settled)).await;
            }
        }
    }
}

impl Posting {
    fn push(&mut self, posted: Posted) {
        let bytes = posted.bytes();
        let owner = posted.owner.map(|id| cluster_core::ConnectionId(id.0));
        let pushed = self.letters.push(posted, owner, Share::Enqueue, bytes);
        assert!(pushed.is_ok(), "the share has no end");
    }

    /// Everything without a receipt is sent again, a little later.
    fn send_again(&mut self, attempt: Attempt) {
        self.letters.handle_error(attempt);
        if self.flights.pause() {
            // Its end is the timer's: nobody waits for it.
            drop(self.me.send_after(RETRY_DELAY, || PostMessage::SendAgain));
        }
    }
}

fn read(reply: Result<Bytes, RequestError>) -> Option<LettersReply> {
    match reply.map(|bytes| LettersReply::decode(&bytes)) {
        Ok(Ok(reply)) => Some(reply),
        Ok(Err(damaged)) => {
            tracing::warn!(%damaged, "a receipt of letters cannot be read");
            None
        }
        Err(error) => {
            tracing::debug!(%error, "letters have no receipt");
            None
        }
    }
}
