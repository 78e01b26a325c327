//! The way of this node's stream to a leader on another node.

use std::sync::Arc;

use bytes::Bytes;
use cluster::exchange::{Items, ItemsReply, Passing, RetainedReply, Said, Seated, kinds};
use cluster::link::{Channel, RequestError};
use cluster::{Outcome, ShardItem};
use cluster_core::{Attempt, Body, NodeId, Sent};
use ractor::ActorRef;
use runtime::ractor;
use session::{Command, Message};

use super::ShardMessage;
use super::host::{Hosted, ShardHost};
use super::stream::{Item, weight_of};
use crate::peers::{DEADLINE, Flights, RETRY_DELAY};

/// Items and bytes of a request: those of an entry.
const REQUEST_ITEMS_MAX: usize = 1_000;
const REQUEST_BYTES_MAX: u64 = 1 << 20;
/// Bytes that an answer takes at most, without what there is for each filter.
const ANSWER_BYTES: u32 = 32;

/// A request under way.
#[derive(Debug)]
pub(crate) struct Flight {
    attempt: Attempt,
    /// Number of its first item.
    first: u64,
    len: usize,
}

/// What this node has asked the leader elsewhere.
pub(super) struct Uplink {
    flights: Flights<Flight>,
    /// QoS 0 that goes past the log with the next flush.
    passing: Passing,
}

impl Uplink {
    pub(super) fn new(me: ActorRef<ShardMessage>) -> Self {
        let landed = move |flight, reply: Result<Bytes, RequestError>| {
            let reply = read(reply);
            me.cast(ShardMessage::Landing { flight, reply }).is_ok()
        };
        Self {
            flights: Flights::new(landed),
            passing: Passing::default(),
        }
    }

    /// What was refused may be sent again.
    pub(super) fn go_on(&mut self) {
        self.flights.go_on();
    }

    /// Takes a message that goes past the log.
    pub(super) fn pass(&mut self, message: Arc<Message>) {
        self.passing.messages.push(message);
    }

    /// Takes a retained message of QoS 0.
    pub(super) fn pass_retain(&mut self, retain: session::Retain) {
        self.passing.retains.push(retain);
    }
}

fn read(reply: Result<Bytes, RequestError>) -> ItemsReply {
    match reply.map(|bytes| ItemsReply::decode(&bytes)) {
        Ok(Ok(reply)) => reply,
        Ok(Err(damaged)) => {
            tracing::warn!(%damaged, "an answer of a shard's leader cannot be read");
            ItemsReply::Unknown
        }
        Err(error) => {
            tracing::debug!(%error, "items for a shard's leader were not answered");
            ItemsReply::Unknown
        }
    }
}

impl ShardHost {
    /// Sends what is numbered to the leader elsewhere, as far as there is room under way.
    pub(super) fn send_up(&self, hosted: &mut Hosted, leader: NodeId) {
        self.send_passing(hosted, leader);
        while hosted.uplink.flights.has_room() {
            let Some((flight, items, reply_bytes_max)) = self.next_request(hosted) else {
                return;
            };
            let channel = self.channel(kinds::ITEMS);
            let items = Items { items };
            let sent = self
                .peers
                .ask(leader, channel, &items, reply_bytes_max, DEADLINE);
            match sent {
                Ok(reply) => hosted.uplink.flights.begin(flight, reply),
                Err(error) => self.sending_failed(hosted, flight.attempt, &error),
            }
        }
    }

    fn sending_failed(&self, hosted: &mut Hosted, attempt: Attempt, error: &RequestError) {
        tracing::debug!(shard = self.shard, %error, "items wait for a shard's leader");
        hosted.stream.handle_error(attempt);
        self.pause(hosted);
    }

    fn pause(&self, hosted: &mut Hosted) {
        if hosted.uplink.flights.pause() {
            // Its end is the timer's: nobody waits for it.
            drop(
                hosted
                    .me
                    .send_after(RETRY_DELAY, || ShardMessage::SendAgain),
            );
        }
    }

    /// The items of the next request, in order, and bytes that their answer may have.
    fn next_request(&self, hosted: &mut Hosted) -> Option<(Flight, Vec<ShardItem>, u32)> {
        let is_open = |id| self.threads.is_open(id);
        let first = hosted.stream.poll_sent(is_open)?;
        let mut flight = Flight {
            attempt: first.attempt,
            first: first.n,
            len: 0,
        };
        let (mut items, mut bytes, mut reply_bytes) = (Vec::new(), 0, 64);
        let mut next = Some(first);
        while let Some(sent) = next {
            match &sent.body {
                Body::Item(item) => {
                    bytes += weight_of(&item.command).1;
                    reply_bytes += answer_bytes(&item.command);
                }
                Body::Nop => reply_bytes += ANSWER_BYTES,
            }
            items.push(self.item(sent));
            flight.len += 1;
            let is_full = items.len() >= REQUEST_ITEMS_MAX || bytes >= REQUEST_BYTES_MAX;
            next = if is_full {
                None
            } else {
                hosted.stream.poll_sent(is_open)
            };
        }
        Some((flight, items, reply_bytes))
    }

    fn item(&self, sent: Sent<Item>) -> ShardItem {
        ShardItem::Item {
            epoch: self.epoch,
            attempt: sent.attempt,
            n: sent.n,
            body: match sent.body {
                Body::Item(item) => Body::Item((**item.command).clone()),
                Body::Nop => Body::Nop,
            },
        }
    }

    fn channel(&self, kind: u16) -> Channel {
        let group = u32::from(self.shard);
        Channel { kind, group }
    }

    /// What became of items that another node was to bring into the log.
    pub(super) fn landing(&self, hosted: &mut Hosted, flight: &Flight, reply: ItemsReply) {
        hosted.uplink.flights.handle_landed();
        let outcomes = match reply {
            ItemsReply::Landed(outcomes) if outcomes.len() == flight.len => outcomes,
            _ => {
                hosted.stream.handle_error(flight.attempt);
                return self.pause(hosted);
            }
        };
        hosted.backlog.handle_moved();
        for (n, outcome) in (flight.first..).zip(outcomes) {
            match outcome {
                Outcome::Applied(answer) => {
                    if let Some(item) = hosted.stream.handle_answer(n) {
                        self.answered(hosted, &item, answer);
                    }
                }
                Outcome::Gap { next } => hosted.stream.handle_gap(flight.attempt, next),
                Outcome::Ended => self.epoch_ended(),
            }
        }
    }

    /// Sends what goes past the log; what finds no room is lost, as QoS 0 may be.
    fn send_passing(&self, hosted: &mut Hosted, leader: NodeId) {
        let passing = std::mem::take(&mut hosted.uplink.passing);
        if passing.messages.is_empty() && passing.retains.is_empty() {
            return;
        }
        let channel = self.channel(kinds::PASSING);
        let sent = self.peers.ask(leader, channel, &passing, 0, DEADLINE);
        if let Err(error) = sent {
            tracing::debug!(shard = self.shard, %error, "messages of QoS 0 are lost");
        }
    }

    /// Asks the leader elsewhere for retained messages; connections wait for them.
    pub(super) fn ask_retained(&self, hosted: &mut Hosted, leader: NodeId) {
        if hosted.asks_retained_later {
            return;
        }
        let Some((number, request)) = hosted.questions.poll_request() else {
            return;
        };
        let channel = self.channel(kinds::RETAINED);
        let asked = self
            .peers
            .ask(leader, channel, &request, request.reply_bytes, DEADLINE);
        let (me, shard) = (hosted.me.clone(), self.shard);
        tokio::spawn(async move {
            let reply = match asked {
                Ok(reply) => reply.wait().await,
                Err(error) => Err(error),
            };
            let reply = match reply.map(|bytes| RetainedReply::decode(&bytes)) {
                Ok(Ok(reply)) => Some(reply),
                Ok(Err(damaged)) => {
                    tracing::warn!(shard, %damaged, "retained messages cannot be read");
                    None
                }
                Err(error) => {
                    tracing::debug!(shard, %error, "retained messages are asked for again");
                    None
                }
            };
            if me.cast(ShardMessage::RetainedCame(number, reply)).is_err() {
                tracing::debug!("the shard's host has ended: the node is stopping");
            }
        });
    }

    /// The leader elsewhere answered, or did not: then the next tick asks again.
    pub(super) fn retained_came(
        &self,
        hosted: &mut Hosted,
        number: u64,
        reply: Option<RetainedReply>,
    ) {
        hosted.asks_retained_later |= reply.is_none();
        for answered in hosted.questions.handle_reply(number, reply) {
            hosted.retained(answered);
        }
    }

    /// Asks the leader elsewhere about the memberships that answers wait for; once at a time.
    pub(super) fn ask_seated(&self, hosted: &mut Hosted, leader: NodeId) {
        let versions: Vec<u64> = hosted.answers.awaited().into_iter().collect();
        if versions.is_empty() || std::mem::replace(&mut hosted.asks_seated, true) {
            return;
        }
        let channel = self.channel(kinds::SEATED);
        let seated = Seated { versions };
        let asked = self.peers.ask(leader, channel, &seated, 0, DEADLINE);
        let me = hosted.me.clone();
        tokio::spawn(async move {
            let answered = match asked {
                Ok(reply) => reply.wait().await.is_ok(),
                Err(_) => false,
            };
            // Not answered, it is asked again at the next tick.
            let versions = if answered {
                seated.versions
            } else {
                Vec::new()
            };
            if me.cast(ShardMessage::SeatedThere(versions)).is_err() {
                tracing::debug!("the shard's host has ended: the node is stopping");
            }
        });
    }
}

/// Bytes that the answer to a command takes at most, in its message.
fn answer_bytes(command: &Command) -> u32 {
    let filters = match command {
        Command::Subs(subs) => subs.filters.len(),
        Command::Unsubs(unsubs) => unsubs.filters.len(),
        _ => 0,
    };
    ANSWER_BYTES + 24 * u32::try_from(filters).unwrap_or(u32::MAX / 64)
}
