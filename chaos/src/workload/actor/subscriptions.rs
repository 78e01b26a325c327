//! The subscriptions of an actor: which it wants, which it has.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mqtt::{Packet, PacketId, RetainHandling, SubAck, Subscribe, SubscribeOptions, Unsubscribe};
use tokio::time::Instant;

use super::{Actor, qos_of};
use crate::client::Wire;
use crate::history::{Stray, What};
use crate::workload::plan::{Habit, Want};
use crate::workload::world::Phase;

/// Packet ids of SUBSCRIBE and UNSUBSCRIBE begin here, above those of messages.
const REQUEST_IDS_FROM: u16 = 60_000;

/// Reasons from here on are failures.
const FAILURES_FROM: u8 = 0x80;

/// Time from the first messages until readers begin: of every topic there is a retained one by then, and none is
/// waited for.
const READ_AFTER: Duration = Duration::from_millis(1_500);

/// Time until a request that was refused is made again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Is a subscription as its actor knows it.
#[derive(Debug)]
pub(super) struct Subscription {
    want: Want,
    is_wanted: bool,
    state: State,
    /// When it is to change what it wants.
    turn_at: Option<Instant>,
    /// Not asked for again before.
    retry_at: Option<Instant>,
    /// Topics whose retained message has come since SUBSCRIBE.
    retained: BTreeSet<u32>,
    /// Whether SUBSCRIBE was sent when nothing was under way any more.
    is_last: bool,
    is_last_told: bool,
    is_awaited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Absent,
    Asked,
    Held,
    Given,
}

impl Subscription {
    pub(super) fn of(want: Want) -> Self {
        Self {
            want,
            is_wanted: true,
            state: State::Absent,
            turn_at: None,
            retry_at: None,
            retained: BTreeSet::new(),
            is_last: false,
            is_last_told: false,
            is_awaited: true,
        }
    }
}

impl Actor {
    /// The node has no session of this client.
    pub(super) fn forget_subscriptions(&mut self) {
        for one in &mut self.subscriptions {
            one.state = State::Absent;
        }
    }

    /// On a new connection: what was asked for and not answered is asked for again, and an alternating actor
    /// wants the one whose turn it is.
    pub(super) fn choose_subscriptions(&mut self) {
        self.requests.clear();
        let count = self.subscriptions.len();
        for (at, one) in self.subscriptions.iter_mut().enumerate() {
            if self.plan.is_alternating {
                one.is_wanted = at == self.turn % count;
            }
            one.state = match one.state {
                State::Asked => State::Absent,
                State::Given => State::Held,
                state => state,
            };
            // A reader that was cut off in its round begins it anew.
            if one.want.retained > 0 && one.state == State::Held {
                one.turn_at = Some(Instant::now());
            }
        }
    }

    /// Asks for what is wanted and absent, and gives back what is held and not wanted.
    pub(super) fn subscribe_due(&mut self, wire: &mut Wire) {
        let now = Instant::now();
        let (mut absent, mut unwanted) = (Vec::new(), Vec::new());
        for at in 0..self.subscriptions.len() {
            self.turn_subscription(at, now);
            let one = &mut self.subscriptions[at];
            if one.want.retained > 0 && !self.world.has_begun() {
                one.retry_at = Some(now + READ_AFTER);
            }
            if one.retry_at.is_some_and(|retry| now < retry) {
                continue;
            }
            match (one.is_wanted, one.state) {
                (true, State::Absent) => absent.push(at),
                (false, State::Held) => unwanted.push(at),
                _ => {}
            }
        }
        if !absent.is_empty() {
            self.write_subscribe(wire, absent);
        }
        if !unwanted.is_empty() {
            self.write_unsubscribe(wire, unwanted);
        }
    }

    /// Changes what is wanted, if the plan says so.
    fn turn_subscription(&mut self, at: usize, now: Instant) {
        let phase = self.world.phase();
        let one = &mut self.subscriptions[at];
        let may_turn = match &self.plan.habit {
            Habit::Churns { .. } => phase == Phase::Running || !one.is_wanted,
            // Everybody's last messages are to be there before it is read for the last time.
            Habit::Rereads { .. } => phase != Phase::Draining && !one.is_last_told,
            _ => false,
        };
        let is_answered = matches!(one.state, State::Held | State::Absent);
        // The last round of a reader waits for no other to end.
        let is_stale = phase == Phase::Settled && one.state == State::Held && !one.is_last;
        let is_due = one.turn_at.is_some_and(|turn_at| now >= turn_at);
        if !may_turn || !is_answered || !(is_due || is_stale && one.want.retained > 0) {
            return;
        }
        one.turn_at = None;
        let is_over = one.state == State::Held && one.is_last && one.want.retained > 0;
        one.is_wanted = one.state != State::Held;
        if is_over {
            one.is_last_told = true;
            self.world.reading.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn write_subscribe(&mut self, wire: &mut Wire, places: Vec<usize>) {
        let is_settled = self.world.phase() == Phase::Settled;
        let mut filters = Vec::new();
        for at in &places {
            let one = &mut self.subscriptions[*at];
            one.state = State::Asked;
            one.retained.clear();
            one.is_last = is_settled;
            let Want {
                filter,
                qos,
                retained,
            } = one.want;
            self.log.record(What::Subscribing { filter, qos });
            let options = SubscribeOptions {
                qos: qos_of(qos),
                retain_handling: match retained {
                    0 => RetainHandling::DoNotSend,
                    _ => RetainHandling::Send,
                },
                ..SubscribeOptions::default()
            };
            filters.push((self.world.filters[filter as usize].clone(), options));
        }
        wire.send(&Packet::Subscribe(Box::new(Subscribe {
            packet_id: self.request(places),
            filters,
            subscription_id: None,
            user_properties: Vec::new(),
        })));
    }

    fn write_unsubscribe(&mut self, wire: &mut Wire, places: Vec<usize>) {
        let mut filters = Vec::new();
        for at in &places {
            let one = &mut self.subscriptions[*at];
            one.state = State::Given;
            let filter = one.want.filter;
            self.log.record(What::Unsubscribing { filter });
            filters.push(self.world.filters[filter as usize].clone());
        }
        wire.send(&Packet::Unsubscribe(Box::new(Unsubscribe {
            packet_id: self.request(places),
            filters,
            user_properties: Vec::new(),
        })));
    }

    /// Takes the lowest packet id that no other request has.
    fn request(&mut self, places: Vec<usize>) -> PacketId {
        // At most two a subscription, of which there are few.
        let mut ids = REQUEST_IDS_FROM..u16::MAX;
        let id = ids.find(|id| !self.requests.contains_key(id));
        let id = id.unwrap_or(u16::MAX);
        self.requests.insert(id, places);
        PacketId::new(id).unwrap_or(PacketId::MAX)
    }

    pub(super) fn handle_suback(&mut self, suback: &SubAck) {
        for (at, reason) in self.answered(suback, State::Asked) {
            self.take_suback(at, reason);
        }
    }

    fn take_suback(&mut self, at: usize, reason: u8) {
        let now = Instant::now();
        let turn_at = match &self.plan.habit {
            Habit::Churns { hold, .. } => Some(now + hold.draw(&mut self.random)),
            Habit::Rereads { patience, .. } => Some(now + *patience),
            _ => None,
        };
        let is_awaited = self.plan.is_awaited();
        let one = &mut self.subscriptions[at];
        let filter = one.want.filter;
        if reason < FAILURES_FROM {
            one.state = State::Held;
            // Retained messages may come before SUBACK.
            let is_complete = one.want.retained > 0 && one.retained.len() >= one.want.retained;
            one.turn_at = if is_complete { Some(now) } else { turn_at };
            if is_awaited && std::mem::take(&mut one.is_awaited) {
                self.world.awaited.fetch_sub(1, Ordering::Relaxed);
                if self.plan.is_alternating {
                    // It counts once, whichever of them is first; counted again, publishers would wait
                    // for ever.
                    for other in &mut self.subscriptions {
                        other.is_awaited = false;
                    }
                }
            }
        } else {
            one.state = State::Absent;
            one.retry_at = Some(now + RETRY_AFTER);
        }
        self.log.record(What::Subscribed { filter, reason });
    }

    pub(super) fn handle_unsuback(&mut self, unsuback: &SubAck) {
        for (at, reason) in self.answered(unsuback, State::Given) {
            self.take_unsuback(at, reason);
        }
    }

    fn take_unsuback(&mut self, at: usize, reason: u8) {
        let now = Instant::now();
        let pause = match &self.plan.habit {
            Habit::Churns { pause, .. } | Habit::Rereads { pause, .. } => {
                Some(pause.draw(&mut self.random))
            }
            _ => None,
        };
        let one = &mut self.subscriptions[at];
        let filter = one.want.filter;
        if reason < FAILURES_FROM {
            one.state = State::Absent;
            one.turn_at = pause.map(|pause| now + pause);
        } else {
            one.state = State::Held;
            one.retry_at = Some(now + RETRY_AFTER);
        }
        self.log.record(What::Unsubscribed { filter, reason });
    }

    /// Which subscriptions an answer is about, and what it says of each.
    fn answered(&mut self, answer: &SubAck, state: State) -> Vec<(usize, u8)> {
        let id = answer.packet_id.get();
        let places = self.requests.remove(&id).unwrap_or_default();
        let mut states = places.iter().map(|at| self.subscriptions[*at].state);
        let is_due = !places.is_empty()
            && places.len() == answer.reasons.len()
            && states.all(|one| one == state);
        if !is_due {
            self.stray(Stray::Acknowledgement, id);
            return Vec::new();
        }
        let reasons = answer.reasons.iter().map(|reason| *reason as u8);
        places.into_iter().zip(reasons).collect()
    }

    /// A message came: a reader whose topics have all come is ready for the next round.
    pub(super) fn count_retained(&mut self, topic: u32, is_retained: bool) {
        if !is_retained {
            return;
        }
        // A reader has one subscription.
        let Some(one) = self.subscriptions.first_mut() else {
            return;
        };
        one.retained.insert(topic);
        let is_complete = one.want.retained > 0 && one.retained.len() >= one.want.retained;
        if is_complete && one.state == State::Held {
            one.turn_at = Some(Instant::now());
        }
    }
}
