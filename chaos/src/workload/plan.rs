//! What one actor is to do, as data.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::history::Role;

/// Is what one actor does.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) client_id: String,
    pub(super) role: Role,
    /// Session Expiry Interval; 0: each connection starts clean.
    pub(super) expiry_s: u32,
    pub(super) receive_maximum: u16,
    /// One connect in so many starts clean over the session; 0: none.
    pub(super) clean_start_one_in: u32,
    /// After each clean start the next of the filters is subscribed, instead of all.
    pub(super) is_alternating: bool,
    /// Topic and QoS of the will.
    pub(super) will: Option<(u32, u8)>,
    pub(super) wants: Vec<Want>,
    pub(super) publishes: Option<Publishes>,
    pub(super) habit: Habit,
    /// How long it waits for a CONNACK, and how long it stays away then; none: as long as a client does.
    pub(super) patience: Option<Patience>,
}

/// Is how soon a client gives a node up.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    pub(super) waits: Span,
    pub(super) away: Span,
}

/// Is a subscription.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) filter: u32,
    pub(super) qos: u8,
    /// How many retained messages it is to bring.
    pub(super) retained: usize,
}

/// Says what is published, and how often.
#[derive(Clone, Debug)]
pub(super) struct Publishes {
    /// Taken in turn.
    pub(super) lanes: Vec<Lane>,
    /// Time between two bursts.
    pub(super) interval: Duration,
    /// Messages at once.
    pub(super) burst: u32,
    /// Nothing more so long after each connect; none: all the time.
    pub(super) hushed_after: Option<Duration>,
}

/// Is a topic with the way in which it is published.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    pub(super) topic: u32,
    pub(super) qos: u8,
    pub(super) retain: bool,
}

/// Says what an actor does beside publishing and receiving.
#[derive(Clone, Debug)]
pub(super) enum Habit {
    /// Nothing; it reconnects when it has to.
    Stays,
    /// Goes away and comes back.
    Leaves {
        /// Taken in turn, as `away`.
        stay: Vec<Span>,
        away: Vec<Span>,
        how: Leaving,
    },
    /// Subscribes and unsubscribes.
    Churns { hold: Span, pause: Span },
    /// Subscribes, waits for the retained messages, unsubscribes.
    Rereads { patience: Duration, pause: Span },
    /// Reads nothing for a while.
    Stalls { every: Span, lasts: Span },
    /// Takes its client id over from another actor; the second of the two gives way in the end.
    Contends { away: Span, is_second: bool },
}

/// Says how an actor goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// With DISCONNECT.
    Cleanly,
    /// Without.
    Abruptly,
    /// Sometimes so, sometimes so.
    Either,
}

/// Is a time that is drawn anew each time, in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Span(pub(super) RangeInclusive<u64>);

impl Span {
    pub(super) fn draw(&self, random: &mut SmallRng) -> Duration {
        Duration::from_millis(random.random_range(self.0.clone()))
    }
}

impl Plan {
    /// An actor that only connects, with a session of `expiry_s` seconds.
    pub(super) fn new(client_id: String, role: Role, expiry_s: u32) -> Self {
        Self {
            client_id,
            role,
            expiry_s,
            receive_maximum: 32,
            clean_start_one_in: 0,
            is_alternating: false,
            will: None,
            wants: Vec::new(),
            publishes: None,
            habit: Habit::Stays,
            patience: None,
        }
    }

    pub(super) fn wants(mut self, filter: u32, qos: u8) -> Self {
        self.wants.push(Want {
            filter,
            qos,
            retained: 0,
        });
        self
    }

    pub(super) fn publishes(mut self, lanes: Vec<Lane>, interval: Duration, burst: u32) -> Self {
        self.publishes = Some(Publishes {
            lanes,
            interval,
            burst,
            hushed_after: None,
        });
        self
    }

    pub(super) fn hushed_after(mut self, after: Duration) -> Self {
        if let Some(publishes) = &mut self.publishes {
            publishes.hushed_after = Some(after);
        }
        self
    }

    pub(super) fn habit(mut self, habit: Habit) -> Self {
        self.habit = habit;
        self
    }

    /// Whether publishers wait until its subscriptions are there for the first time.
    pub(super) fn is_awaited(&self) -> bool {
        !self.wants.is_empty() && !matches!(self.habit, Habit::Rereads { .. })
    }
}
