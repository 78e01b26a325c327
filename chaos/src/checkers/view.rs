//! A history from the checkers' side: messages by publisher and by topic, clients with their connections and
//! subscriptions.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mqtt::{Filter, Topic};

use crate::history::{End, Event, History, Role, What};

/// For ever, or never.
pub(super) const NEVER: u64 = u64::MAX;

/// Names a message: publisher and number.
pub(super) type Message = (u32, u32);

#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) history: &'a History,
    /// By actor and number.
    published: Vec<Vec<Published>>,
    /// By topic, in the order in which they were sent first.
    pub(super) by_topic: Vec<Vec<Message>>,
    pub(super) clients: Vec<Client<'a>>,
    /// By filter: the topics that it matches.
    pub(super) matching: Vec<Vec<u32>>,
    /// By filter: whether it is of a shared group.
    pub(super) is_shared: Vec<bool>,
}

/// Is a message as its publisher knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published {
    pub(super) topic: u32,
    pub(super) qos: u8,
    /// The publisher's connection, or attempt, on which it was sent first.
    pub(super) connection: u32,
    /// When it was sent first.
    pub(super) first_us: u64,
    /// When its PUBACK or PUBREC came; [`NEVER`].
    pub(super) acked_us: u64,
    /// Its publisher lost the session under way, or threw it away, and did not send it again.
    pub(super) is_given_up: bool,
}

impl Published {
    pub(super) fn is_acked(&self) -> bool {
        self.acked_us != NEVER
    }
}

/// Is a client id with all its users.
#[derive(Debug)]
pub(super) struct Client<'a> {
    pub(super) id: &'a str,
    pub(super) role: Role,
    pub(super) expiry_s: u32,
    /// What its users did and saw, in the order of time, each with the user.
    pub(super) events: Vec<(u32, &'a Event)>,
    /// In the order in which they were dialled.
    pub(super) connections: Vec<Connection>,
    pub(super) spans: Vec<Span>,
}

/// Is a connection, or an attempt to make one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) actor: u32,
    pub(super) number: u32,
    pub(super) clean_start: bool,
    pub(super) dialed_us: u64,
    /// CONNACK; [`NEVER`].
    pub(super) connected_us: u64,
    pub(super) session_present: bool,
    pub(super) ended_us: u64,
    pub(super) end: Option<End>,
    pub(super) reason: u8,
}

impl Connection {
    pub(super) fn is_connected(&self) -> bool {
        self.connected_us != NEVER
    }
}

/// Is a subscription from its SUBACK to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) filter: u32,
    /// What was granted.
    pub(super) qos: u8,
    pub(super) from_us: u64,
    /// [`NEVER`] if it is still there.
    pub(super) until_us: u64,
    /// The user that subscribed.
    pub(super) actor: u32,
    /// When its connection ended, whatever became of the session; [`NEVER`].
    pub(super) connection_until_us: u64,
}

impl Span {
    pub(super) fn is_open(&self) -> bool {
        self.until_us == NEVER
    }
}

impl<'a> View<'a> {
    pub(super) fn of(history: &'a History) -> Self {
        let published: Vec<Vec<Published>> = history
            .actors
            .iter()
            .map(|one| published(&one.events))
            .collect();
        let mut by_topic = vec![Vec::new(); history.topics.len()];
        for (actor, messages) in (0_u32..).zip(&published) {
            for (number, message) in (0_u32..).zip(messages) {
                by_topic[message.topic as usize].push((actor, number));
            }
        }
        for messages in &mut by_topic {
            messages.sort_by_key(|(actor, number)| {
                published[*actor as usize][*number as usize].first_us
            });
        }
        let topics = history
            .topics
            .iter()
            .map(|one| Topic::try_from(one.as_str()).ok());
        let topics: Vec<Option<Topic>> = topics.collect();
        let matching = history.filters.iter().map(|text| {
            let text = Filter::try_from(text.as_str()).ok();
            let bare = text.and_then(|one| Filter::try_from(one.topic_filter()).ok());
            let is_match = |topic: &Option<Topic>| {
                let pair = bare.as_ref().zip(topic.as_ref());
                pair.is_some_and(|(filter, topic)| filter.matches(topic))
            };
            let places = (0_u32..).zip(&topics).filter(|(_, topic)| is_match(topic));
            places.map(|(place, _)| place).collect()
        });
        Self {
            matching: matching.collect(),
            is_shared: history
                .filters
                .iter()
                .map(|one| one.starts_with("$share/"))
                .collect(),
            clients: clients(history),
            published,
            by_topic,
            history,
        }
    }

    /// A message, if its publisher has sent it.
    pub(super) fn published(&self, (actor, number): Message) -> Option<&Published> {
        self.published.get(actor as usize)?.get(number as usize)
    }

    /// All messages with their names.
    pub(super) fn all_published(&self) -> impl Iterator<Item = (Message, &Published)> {
        let actors = (0_u32..).zip(&self.published);
        actors.flat_map(|(actor, messages)| {
            let messages = (0_u32..).zip(messages);
            messages.map(move |(number, message)| ((actor, number), message))
        })
    }

    /// How many actors there are of these roles.
    pub(super) fn count(&self, roles: &[Role]) -> usize {
        let actors = self.history.actors.iter();
        actors.filter(|actor| roles.contains(&actor.role)).count()
    }

    /// Whether the filter matches the topic.
    pub(super) fn matches(&self, filter: u32, topic: u32) -> bool {
        let topics = self.matching.get(filter as usize);
        topics.is_some_and(|topics| topics.binary_search(&topic).is_ok())
    }

    /// The messages of QoS 1 and 2 that were sent after a span's SUBACK, are acknowledged, and match.
    pub(super) fn promised(&self, span: &Span) -> impl Iterator<Item = (Message, &Published)> {
        let topics = self
            .matching
            .get(span.filter as usize)
            .into_iter()
            .flatten();
        let from_us = span.from_us;
        let granted = span.qos;
        topics.flat_map(move |topic| {
            let messages = &self.by_topic[*topic as usize];
            let first = messages.partition_point(|message| {
                self.published(*message)
                    .is_some_and(|one| one.first_us <= from_us)
            });
            let known = messages[first..]
                .iter()
                .filter_map(|message| self.published(*message).map(|one| (*message, one)));
            known.filter(move |(_, one)| one.qos >= 1 && granted >= 1 && one.is_acked())
        })
    }

    /// A message in words.
    pub(super) fn name(&self, (actor, number): Message) -> String {
        let id = self
            .history
            .actors
            .get(actor as usize)
            .map_or("?", |one| &one.client_id);
        let Some(one) = self.published((actor, number)) else {
            return format!("message {number} of {id} (actor {actor})");
        };
        let topic = self
            .history
            .topics
            .get(one.topic as usize)
            .map_or("?", String::as_str);
        format!(
            "message {number} of {id} (actor {actor}) to {topic} with QoS {}, sent at {}",
            one.qos,
            seconds(one.first_us)
        )
    }

    /// A filter in words.
    pub(super) fn filter(&self, filter: u32) -> &str {
        self.history
            .filters
            .get(filter as usize)
            .map_or("?", String::as_str)
    }
}

/// A moment in words.
pub(super) fn seconds(at_us: u64) -> String {
    if at_us == NEVER {
        return "never".to_owned();
    }
    format!("{:.3} s", at_us as f64 / 1e6)
}

fn published(events: &[Event]) -> Vec<Published> {
    let mut all: Vec<Published> = Vec::new();
    let mut current = 0;
    for event in events {
        match event.what {
            What::Connecting { connection, .. } => current = connection,
            // Numbers are given in order, so a known one is a repetition.
            What::Publishing {
                number,
                topic,
                flags,
                ..
            } if number as usize == all.len() => {
                all.push(Published {
                    topic,
                    qos: flags.qos,
                    connection: current,
                    first_us: event.at_us,
                    acked_us: NEVER,
                    is_given_up: false,
                });
            }
            What::PubAcked { number, reason, .. } | What::PubReced { number, reason, .. }
                if reason < 0x80 =>
            {
                if let Some(one) = all.get_mut(number as usize) {
                    one.acked_us = one.acked_us.min(event.at_us);
                }
            }
            What::GivenUp { number } => {
                if let Some(one) = all.get_mut(number as usize) {
                    one.is_given_up = true;
                }
            }
            _ => {}
        }
    }
    all
}

fn clients(history: &History) -> Vec<Client<'_>> {
    let mut users: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (number, actor) in (0_u32..).zip(&history.actors) {
        users.entry(&actor.client_id).or_default().push(number);
    }
    let clients = users.into_iter().map(|(id, users)| {
        let first = &history.actors[users[0] as usize];
        let of = |number: &u32| {
            let number = *number;
            let events = history.actors[number as usize].events.iter();
            events.map(move |event| (number, event))
        };
        let mut events: Vec<(u32, &Event)> = users.iter().flat_map(of).collect();
        if users.len() > 1 {
            events.sort_by_key(|(_, event)| event.at_us);
        }
        Client {
            id,
            role: first.role,
            expiry_s: first.expiry_s,
            connections: connections(&events),
            spans: spans(&events, first.expiry_s),
            events,
        }
    });
    clients.collect()
}

fn connections(events: &[(u32, &Event)]) -> Vec<Connection> {
    let mut all: Vec<Connection> = Vec::new();
    // Where the connection of each user is that has not ended.
    let mut open: HashMap<u32, usize> = HashMap::new();
    for (actor, event) in events {
        let at = open.get(actor).copied();
        let one = at.and_then(|at| all.get_mut(at));
        match (event.what, one) {
            (
                What::Connecting {
                    connection,
                    clean_start,
                    ..
                },
                _,
            ) => {
                open.insert(*actor, all.len());
                all.push(Connection {
                    actor: *actor,
                    number: connection,
                    clean_start,
                    dialed_us: event.at_us,
                    connected_us: NEVER,
                    session_present: false,
                    ended_us: NEVER,
                    end: None,
                    reason: 0,
                });
            }
            (What::Connected { session_present }, Some(one)) => {
                one.connected_us = event.at_us;
                one.session_present = session_present;
            }
            (What::Ended { why, reason }, Some(one)) => {
                one.ended_us = event.at_us;
                one.end = Some(why);
                one.reason = reason;
            }
            _ => {}
        }
    }
    all
}

/// When less than this is left of a session's expiry at a reconnect, it may have expired.
pub(super) const EXPIRY_MARGIN_US: u64 = 500_000;

fn spans(events: &[(u32, &Event)], expiry_s: u32) -> Vec<Span> {
    let mut all: Vec<Span> = Vec::new();
    let expiry_us = u64::from(expiry_s) * 1_000_000;
    let mut last_end_us = 0;
    let mut connected = BTreeSet::new();
    // Attempts of which nobody knows whether they have begun a session.
    let mut is_doubtful = false;
    for (actor, event) in events {
        let now = event.at_us;
        match event.what {
            What::Connecting {
                clean_start: true, ..
            } => close(&mut all, now, |_| true),
            What::Connected { session_present } => {
                let may_be_another =
                    is_doubtful && now.saturating_sub(last_end_us) + EXPIRY_MARGIN_US >= expiry_us;
                if !session_present || may_be_another {
                    close(&mut all, last_end_us, |_| true);
                }
                is_doubtful = false;
                connected.insert(*actor);
            }
            What::Ended { why, .. } => {
                if connected.remove(actor) {
                    last_end_us = now;
                } else {
                    is_doubtful |= why != End::Unreachable;
                }
                for span in all.iter_mut().filter(|span| span.actor == *actor) {
                    span.connection_until_us = span.connection_until_us.min(now);
                }
                if expiry_s == 0 {
                    close(&mut all, now, |_| true);
                }
            }
            What::Subscribed { filter, reason }
                if reason < 0x80
                    && all.iter().all(|one| one.filter != filter || !one.is_open()) =>
            {
                all.push(Span {
                    filter,
                    qos: reason,
                    from_us: now,
                    until_us: NEVER,
                    actor: *actor,
                    connection_until_us: NEVER,
                });
            }
            What::Unsubscribing { filter } => close(&mut all, now, |one| one.filter == filter),
            _ => {}
        }
    }
    all
}

fn close(spans: &mut [Span], at_us: u64, is_it: impl Fn(&Span) -> bool) {
    for span in spans
        .iter_mut()
        .filter(|span| span.is_open() && is_it(span))
    {
        // A session that ended while nobody looked was there when its last connection was.
        span.until_us = at_us.max(span.from_us);
    }
}

/// Which messages a client has got.
#[derive(Debug, Default)]
pub(super) struct Seen {
    by_publisher: HashMap<u32, Vec<u64>>,
}

impl Seen {
    /// All messages that came to a client, but retained ones.
    pub(super) fn of(client: &Client<'_>) -> Self {
        let mut seen = Self::default();
        seen.add(client);
        seen
    }

    /// Adds what came to another client.
    pub(super) fn add(&mut self, client: &Client<'_>) {
        for (_, event) in &client.events {
            if let What::Delivered {
                publisher, number, ..
            } = event.what
            {
                self.insert((publisher, number));
            }
        }
    }

    /// Adds a message; false if it was there.
    pub(super) fn insert(&mut self, (publisher, number): Message) -> bool {
        let words = self.by_publisher.entry(publisher).or_default();
        let at = number as usize / 64;
        if words.len() <= at {
            words.resize(at + 1, 0);
        }
        let bit = 1 << (number % 64);
        let is_new = words[at] & bit == 0;
        words[at] |= bit;
        is_new
    }

    pub(super) fn contains(&self, (publisher, number): Message) -> bool {
        let words = self.by_publisher.get(&publisher);
        let word = words.and_then(|words| words.get(number as usize / 64));
        word.is_some_and(|word| word & 1 << (number % 64) != 0)
    }
}
