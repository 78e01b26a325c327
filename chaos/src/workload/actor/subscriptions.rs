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
        for at in 0..self.subscriptions.len() {
            self.turn_subscription(at, now);
            let one = &mut self.subscriptions[at];
            if one.retry_at.is_some_and(|retry| now < retry) {
                continue;
            }
            match (one.is_wanted, one.state) {
                (true, State::Absent) => self.write_subscribe(wire, at),
                (false, State::Held) => self.write_unsubscribe(wire, at),
                _ => {}
            }
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

    fn write_subscribe(&mut self, wire: &mut Wire, at: usize) {
        let is_settled = self.world.phase() == Phase::Settled;
        let one = &mut self.subscriptions[at];
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
        wire.send(&Packet::Subscribe(Box::new(Subscribe {
            packet_id: request_id(at),
            filters: vec![(self.world.filters[filter as usize].clone(), options)],
            subscription_id: None,
            user_properties: Vec::new(),
        })));
    }

    fn write_unsubscribe(&mut self, wire: &mut Wire, at: usize) {
        let one = &mut self.subscriptions[at];
        one.state = State::Given;
        let filter = one.want.filter;
        self.log.record(What::Unsubscribing { filter });
        wire.send(&Packet::Unsubscribe(Box::new(Unsubscribe {
            packet_id: request_id(at),
            filters: vec![self.world.filters[filter as usize].clone()],
            user_properties: Vec::new(),
        })));
    }

    pub(super) fn handle_suback(&mut self, suback: &SubAck) {
        let Some((at, reason)) = self.answered(suback, State::Asked) else {
            return;
        };
        let now = Instant::now();
        let turn_at = match &self.plan.habit {
            Habit::Churns { hold, .. } => Some(now + hold.draw(&mut self.random)),
            Habit::Rereads { patience, .. } => Some(now + *patience),
            _ => None,
        };
        let is_awaited = self.plan.is_awaited();
        let one = &mut self.subscriptions[at];
        let filter = one.want.filter;
        if reason < 0x80 {
            one.state = State::Held;
            // Retained messages may come before SUBACK.
            let is_complete = one.want.retained > 0 && one.retained.len() >= one.want.retained;
            one.turn_at = if is_complete { Some(now) } else { turn_at };
            if is_awaited && std::mem::take(&mut one.is_awaited) {
                self.world.awaited.fetch_sub(1, Ordering::Relaxed);
            }
        } else {
            one.state = State::Absent;
            one.retry_at = Some(now + RETRY_AFTER);
        }
        self.log.record(What::Subscribed { filter, reason });
    }

    pub(super) fn handle_unsuback(&mut self, unsuback: &SubAck) {
        let Some((at, reason)) = self.answered(unsuback, State::Given) else {
            return;
        };
        let now = Instant::now();
        let pause = match &self.plan.habit {
            Habit::Churns { pause, .. } | Habit::Rereads { pause, .. } => {
                Some(pause.draw(&mut self.random))
            }
            _ => None,
        };
        let one = &mut self.subscriptions[at];
        let filter = one.want.filter;
        if reason < 0x80 {
            one.state = State::Absent;
            one.turn_at = pause.map(|pause| now + pause);
        } else {
            one.state = State::Held;
            one.retry_at = Some(now + RETRY_AFTER);
        }
        self.log.record(What::Unsubscribed { filter, reason });
    }

    /// Which subscription an answer is about, and what it says of it.
    fn answered(&self, answer: &SubAck, state: State) -> Option<(usize, u8)> {
        let id = answer.packet_id.get();
        let at = usize::from(id.wrapping_sub(REQUEST_IDS_FROM));
        let is_due = self
            .subscriptions
            .get(at)
            .is_some_and(|one| one.state == state);
        match answer.reasons[..] {
            [reason] if is_due => Some((at, reason as u8)),
            _ => {
                self.stray(Stray::Acknowledgement, id);
                None
            }
        }
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

/// Each subscription has its own packet id; only one request of it is under way.
fn request_id(at: usize) -> PacketId {
    let id = REQUEST_IDS_FROM.saturating_add(u16::try_from(at).unwrap_or(u16::MAX));
    PacketId::new(id).unwrap_or(PacketId::MAX)
}
