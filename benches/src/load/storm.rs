//! A storm step by step: clients with sessions, pairs that carry on beside, the cut, the return.

use std::collections::BTreeMap;

use super::LoadError;
use super::cases::{Load, PUBLISHERS, SUBSCRIBERS};
use super::cases::{connect, pair_groups, plan, run_prefix, share, workers_for};
use super::crew::Crew;
use super::histogram::Histogram;
use super::plan::{Command, Plan, Rule, Tally};

/// Nothing moved for this long: what has not come will not come.
const QUIET_MS: u64 = 5_000;
/// Messages that a publisher may have unacknowledged: the Receive Maximum of a node. Those that are due
/// beyond it wait, and their latency counts from when they were.
const WINDOW: u32 = 32;
/// Looks of 10 ms for the ends of sockets whose node is gone.
const NOTICE_LOOKS_MAX: u32 = 500;

/// Clients of a storm, and the pairs beside; all are connected.
pub(crate) struct Storm {
    crew: Crew,
    /// Workers of the clients; the pairs have the one behind them.
    workers: u32,
    pairs: Tally,
    clients: Tally,
}

/// What came of the pairs in a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beside {
    /// Messages sent.
    pub(crate) sent: u64,
    /// PUBLISH to PUBACK, ns, from when a message was due.
    pub(crate) ack: Histogram,
    /// PUBLISH to its subscriber, ns, from when a message was due.
    pub(crate) delivery: Histogram,
}

/// How the clients came back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Back {
    /// Clients that are back.
    pub(crate) connected: u64,
    /// Seconds from the cut until the last one was.
    pub(crate) seconds: f64,
    /// Attempts that failed.
    pub(crate) failures: u64,
    /// Of them, those that were answered with a refusal, by its code.
    pub(crate) refusals: BTreeMap<u8, u64>,
    /// Clients whose session was not there any more.
    pub(crate) sessions_missing: u64,
    /// Clients given up.
    pub(crate) given_up: u64,
    /// From the time of a client's first attempt to its CONNACK, ns.
    pub(crate) connect: Histogram,
    /// Clients that came back in each tenth of a second.
    pub(crate) by_tenth: Vec<u64>,
}

/// What became of the pairs' messages, and what was wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ended {
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) received: u64,
    /// Things that no broker may do.
    pub(crate) violations: Vec<String>,
}

impl Storm {
    /// Connects `clients` at the nodes of `load`, each with a session and a subscription of its own,
    /// and `pairs` at those of `beside`.
    pub(crate) fn begin(
        load: &Load,
        beside: &Load,
        clients: u32,
        pairs: u32,
    ) -> Result<Self, LoadError> {
        let workers = workers_for(load, clients);
        let prefix = run_prefix();
        let mut plans: Vec<Plan> = (0..workers)
            .map(|worker| {
                let part = share(clients, workers, worker);
                let mut groups = pair_groups(load, &format!("{prefix}r"), part, 1);
                groups[PUBLISHERS].count = 0;
                plan(load, groups)
            })
            .collect();
        // A worker of their own, so that the reconnecting ones do not delay them here.
        let groups = pair_groups(beside, &format!("{prefix}b"), (0, pairs), WINDOW);
        plans.push(plan(beside, groups));
        let mut crew = Crew::start(&load.launch, &plans)?;
        connect(&mut crew, load, workers, SUBSCRIBERS)?;
        connect(&mut crew, load, workers, PUBLISHERS)?;
        Ok(Self {
            crew,
            workers,
            pairs: Tally::default(),
            clients: Tally::default(),
        })
    }

    fn tell_beside(&mut self, command: Command) -> Result<Tally, LoadError> {
        let beside = self.workers as usize;
        self.crew
            .each(|worker| (worker == beside).then_some(command))
    }

    fn tell_clients(&mut self, command: Command) -> Result<Tally, LoadError> {
        let beside = self.workers as usize;
        self.crew
            .each(|worker| (worker != beside).then_some(command))
    }

    /// The pairs begin to publish at so many messages a second together.
    pub(crate) fn publish(&mut self, rate_per_s: f64) -> Result<(), LoadError> {
        let begun = self.tell_beside(Command::Publish {
            group: PUBLISHERS,
            rate_per_s: Some(rate_per_s),
            messages: None,
        })?;
        self.pairs.merge(&begun);
        Ok(())
    }

    /// Watches the pairs for a time, that since the last look included.
    pub(crate) fn watch(&mut self, ms: u64) -> Result<Beside, LoadError> {
        let tally = self.tell_beside(Command::Run { ms })?;
        self.pairs.merge(&tally);
        Ok(Beside {
            sent: tally.sent,
            ack: tally.ack,
            delivery: tally.delivery,
        })
    }

    /// Closes the sockets of all clients, without a word.
    pub(crate) fn cut(&mut self) -> Result<(), LoadError> {
        let tally = self.tell_clients(Command::Close {
            group: SUBSCRIBERS,
            abrupt: true,
        })?;
        self.clients.merge(&tally);
        Ok(())
    }

    /// Waits until the sockets of so many clients were seen to end: their node has died. Says how many
    /// were in the end.
    pub(crate) fn notice(&mut self, expected: u64) -> Result<u64, LoadError> {
        let mut closed = 0;
        for _ in 0..NOTICE_LOOKS_MAX {
            let mut tally = self.tell_clients(Command::Run { ms: 10 })?;
            // It was to be.
            closed += std::mem::take(&mut tally.closed);
            self.clients.merge(&tally);
            if closed >= expected {
                break;
            }
        }
        Ok(closed)
    }

    /// Those that were cut come back by the rule; returns when all are, or are given up.
    pub(crate) fn come_back(&mut self, rule: Rule) -> Result<Back, LoadError> {
        let tally = self.tell_clients(Command::Connect {
            group: SUBSCRIBERS,
            in_flight: u32::MAX,
            jitter_ms: 0,
            subscribe: false,
            rule: Some(rule),
        })?;
        let back = Back {
            connected: tally.connected,
            seconds: tally.last_connect_ns.saturating_sub(tally.first_ns) as f64 / 1e9,
            failures: tally.retries,
            refusals: tally.refusals.clone(),
            sessions_missing: tally.sessions_missing,
            given_up: tally.failed,
            connect: tally.connect.clone(),
            by_tenth: tally.by_tenth.clone(),
        };
        self.clients.merge(&tally);
        Ok(back)
    }

    /// The pairs end, once everything has come.
    pub(crate) fn end(mut self) -> Result<Ended, LoadError> {
        let drained = self.tell_beside(Command::Drain { quiet_ms: QUIET_MS })?;
        self.pairs.merge(&drained);
        let received = self.tell_beside(Command::Receive {
            total: self.pairs.sent,
            quiet_ms: QUIET_MS,
        })?;
        self.pairs.merge(&received);
        // Whoever was closed meanwhile is known by now.
        let idle = self.tell_clients(Command::Run { ms: 1 })?;
        self.clients.merge(&idle);
        let pairs = &self.pairs;
        let counts = [
            (pairs.late, "messages after a later one [MQTT-4.6.0-6]"),
            (pairs.again, "messages came again [MQTT-4.4.0-1]"),
            (
                pairs.acks_out_of_order,
                "PUBACKs out of order [MQTT-4.6.0-2]",
            ),
            (pairs.refused, "PUBACKs with a failure"),
            (pairs.closed, "connections of the pairs closed by a node"),
            (
                self.clients.closed,
                "clients closed by a node outside the cut",
            ),
            (pairs.malformed + self.clients.malformed, "not MQTT"),
            (self.clients.failed, "clients did not come back"),
            (self.clients.sessions_missing, "sessions were not there"),
        ];
        let wrong = counts.into_iter().filter(|(count, _)| *count > 0);
        Ok(Ended {
            sent: pairs.sent,
            acked: pairs.acked,
            received: pairs.received,
            violations: wrong
                .map(|(count, what)| format!("{count} {what}"))
                .collect(),
        })
    }
}
