//! Cases in which publishers publish for a time.

use super::*;

/// A case in which publishers publish for a time: who, to whom, and how fast.
pub(super) struct Flow {
    plans: Vec<Plan>,
    rate_per_s: Option<f64>,
    /// Each worker's part of the rate.
    publishers: Vec<u32>,
    /// Subscribers that each message reaches.
    fan: u64,
    settings: Vec<(&'static str, String)>,
}

/// Places of the groups of a [`Flow`].
pub(in crate::load) const SUBSCRIBERS: usize = 0;
pub(in crate::load) const PUBLISHERS: usize = 1;

impl Flow {
    pub(super) fn ingest(
        load: &Load,
        publishers: u32,
        window: u32,
        rate_per_s: Option<f64>,
        subscriber: bool,
    ) -> Self {
        let workers = workers_for(load, publishers + 1);
        let prefix = run_prefix();
        let mut flow = Self::new(rate_per_s, u64::from(subscriber));
        for worker in 0..workers {
            let (first, count) = share(publishers, workers, worker);
            let subscribers = u32::from(subscriber && worker == 0);
            let everything = Publishers::All(publishers);
            let groups = vec![
                subscriber_group(load, &prefix, "#", (0, subscribers), everything),
                publisher_group(load, &prefix, "{}", (first, count), window),
            ];
            let mut plan = plan(load, groups);
            // Other workers' messages come here too and would be taken for our own.
            if workers == 1 && subscriber {
                plan.deliveries_per_message = 1;
                plan.deliveries_window = closed(rate_per_s, u64::from(count) * u64::from(window));
            }
            flow.push(plan, count);
        }
        flow.setting("publishers", publishers);
        flow.setting("subscribers", u32::from(subscriber));
        flow.setting("window", window);
        flow
    }

    pub(super) fn fanout(
        load: &Load,
        subscribers: u32,
        window: u32,
        rate_per_s: Option<f64>,
    ) -> Self {
        let workers = workers_for(load, subscribers + 1);
        let prefix = run_prefix();
        let mut flow = Self::new(rate_per_s, u64::from(subscribers));
        for worker in 0..workers {
            let (first, count) = share(subscribers, workers, worker);
            let publishers = u32::from(worker == 0);
            let groups = vec![
                subscriber_group(load, &prefix, "all", (first, count), Publishers::All(1)),
                publisher_group(load, &prefix, "all", (0, publishers), window),
            ];
            let mut plan = plan(load, groups);
            plan.deliveries_per_message = u64::from(count);
            plan.deliveries_window = closed(rate_per_s, u64::from(count) * u64::from(window));
            flow.push(plan, publishers);
        }
        flow.setting("publishers", 1);
        flow.setting("subscribers", subscribers);
        flow.setting("window", window);
        flow
    }

    pub(super) fn p2p(load: &Load, pairs: u32, window: u32, rate_per_s: Option<f64>) -> Self {
        let workers = workers_for(load, pairs * 2);
        let prefix = run_prefix();
        let mut flow = Self::new(rate_per_s, 1);
        for worker in 0..workers {
            let (first, count) = share(pairs, workers, worker);
            let mut plan = plan(load, pair_groups(load, &prefix, (first, count), window));
            plan.deliveries_per_message = 1;
            plan.deliveries_window = closed(rate_per_s, u64::from(count) * u64::from(window));
            flow.push(plan, count);
        }
        flow.setting("pairs", pairs);
        flow.setting("window", window);
        flow
    }

    fn new(rate_per_s: Option<f64>, fan: u64) -> Self {
        Self {
            plans: Vec::new(),
            rate_per_s,
            publishers: Vec::new(),
            fan,
            settings: Vec::new(),
        }
    }

    fn push(&mut self, plan: Plan, publishers: u32) {
        self.plans.push(plan);
        self.publishers.push(publishers);
    }

    fn setting(&mut self, name: &'static str, value: u32) {
        self.settings.push((name, value.to_string()));
    }

    pub(super) fn run(self, load: &Load, outcome: &mut Outcome) -> Result<(), LoadError> {
        let workers = self.plans.len() as u32;
        let mut crew = Crew::start(&load.launch, &self.plans)?;
        let mut connects = connect(&mut crew, load, workers, SUBSCRIBERS)?;
        connects.merge(&connect(&mut crew, load, workers, PUBLISHERS)?);
        let before = measured(load)?;
        let began = Moment::now(load)?;
        let publishers: u32 = self.publishers.iter().sum();
        let mut tally = crew.each(|worker| {
            let part = f64::from(self.publishers[worker]) / f64::from(publishers);
            (part > 0.0).then_some(Command::Publish {
                group: PUBLISHERS,
                rate_per_s: self.rate_per_s.map(|rate| rate * part),
                messages: None,
            })
        })?;
        let ms = load.duration.as_millis() as u64;
        tally.merge(&crew.all(Command::Run { ms })?);
        outcome.spent = began.map(|began| began.until_now(load)).transpose()?;
        tally.merge(&crew.all(Command::Drain { quiet_ms: QUIET_MS })?);
        let expected = tally.sent * self.fan;
        if self.fan > 0 {
            let sent = tally.sent;
            tally.merge(&crew.each(|worker| {
                let subscribers = &self.plans[worker].groups[SUBSCRIBERS];
                // A pair's messages stay within its worker.
                let total = match subscribers.role {
                    Role::Subscriber {
                        publishers: Publishers::Own,
                        ..
                    } => {
                        return Some(Command::Receive {
                            total: u64::MAX,
                            quiet_ms: 200,
                        });
                    }
                    _ => sent * u64::from(subscribers.count),
                };
                Some(Command::Receive {
                    total,
                    quiet_ms: QUIET_MS,
                })
            })?);
        }
        let after = measured(load)?;

        outcome.settings.extend(self.settings);
        outcome.setting("qos", load.qos);
        outcome.setting("payload_bytes", load.payload_bytes);
        outcome.setting(
            "loop",
            match self.rate_per_s {
                Some(rate) => format!("open at {rate}/s"),
                None => "closed".into(),
            },
        );
        outcome.setting("workers", workers);
        let messages = if self.fan > 0 {
            tally.received
        } else {
            tally.acked
        };
        outcome.push("sent", tally.sent as f64);
        outcome.push("acked", tally.acked as f64);
        if self.fan > 0 {
            outcome.deliveries(load.qos, expected, &tally);
        }
        outcome.push("seconds", tally.seconds());
        outcome.push("messages_per_s", per_second(messages, tally.seconds()));
        outcome.cpu(messages, before.zip(after));
        outcome.latency(
            ["ack_p50_us", "ack_p99_us", "ack_p999_us", "ack_max_us"],
            &tally.ack,
        );
        outcome.latency(
            [
                "delivery_p50_us",
                "delivery_p99_us",
                "delivery_p999_us",
                "delivery_max_us",
            ],
            &tally.delivery,
        );
        outcome.acknowledged(&tally);
        tally.merge(&connects);
        outcome.check(&tally);
        crew.all(Command::Close {
            group: PUBLISHERS,
            abrupt: false,
        })?;
        crew.all(Command::Close {
            group: SUBSCRIBERS,
            abrupt: false,
        })?;
        Ok(())
    }
}
