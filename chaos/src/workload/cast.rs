//! Who takes part in a workload: plans of all actors, from the counts of a configuration.

use std::time::Duration;

use super::config::Config;
use super::plan::{Habit, Lane, Leaving, Patience, Plan, Span, Want};
use crate::history::Role;

/// Sessions that a scenario is not to outlive.
const LONG_S: u32 = 3_600;

/// Sessions that expire on purpose.
const SHORT_S: u32 = 2;

/// How long a writer that moves publishes at each node.
const HUSHED_AFTER: Duration = Duration::from_millis(400);

/// How long a reader waits for retained messages; a node gives a shard that is not led 5 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// Are the actors of a workload with the topics and filters that they name by place.
#[derive(Debug, Default)]
pub(super) struct Cast {
    pub(super) topics: Vec<String>,
    pub(super) filters: Vec<String>,
    pub(super) plans: Vec<Plan>,
    /// Part of all topics, so that what an earlier run has left behind does not meet this one.
    prefix: String,
    rate: f64,
}

impl Cast {
    pub(super) fn of(config: &Config, seed: u64) -> Self {
        let mut cast = Self {
            prefix: format!("c{:08x}", seed as u32 ^ (seed >> 32) as u32),
            rate: config.rate,
            ..Self::default()
        };
        cast.add_pairs(config);
        cast.add_fanouts(config);
        cast.add_wildcards(config);
        cast.add_multis(config);
        cast.add_cleans(config);
        cast.add_retained(config);
        cast.add_wills(config);
        cast.add_takeovers(config);
        cast.add_impatients(config);
        cast.add_resets(config);
        cast.add_groups(config);
        cast.add_owned(config);
        cast.add_expiring(config);
        cast.add_slows(config);
        for number in 0..config.noises {
            let topic = cast.topic(&format!("noise/{number}"));
            cast.publisher(
                Role::Noise,
                &format!("noise-{number}"),
                vec![lane(topic, 0)],
                100,
            );
        }
        cast
    }

    fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn topic(&mut self, name: &str) -> u32 {
        let text = format!("{}/{name}", self.prefix);
        place(&mut self.topics, text)
    }

    fn filter(&mut self, name: &str) -> u32 {
        let text = format!("{}/{name}", self.prefix);
        place(&mut self.filters, text)
    }

    fn publisher(&mut self, role: Role, name: &str, lanes: Vec<Lane>, interval_ms: u64) {
        let (interval, burst) = self.paced(interval_ms, 1);
        let plan = Plan::new(self.id(name), role, LONG_S);
        self.plans.push(plan.publishes(lanes, interval, burst));
    }

    /// The time between two bursts at this workload's rate.
    fn paced(&self, interval_ms: u64, burst: u32) -> (Duration, u32) {
        let interval = Duration::from_millis(interval_ms).div_f64(self.rate.max(1e-3));
        (interval * burst, burst)
    }

    fn add_pairs(&mut self, config: &Config) {
        let kinds = [(1_u8, config.pairs_qos1, 50), (2, config.pairs_qos2, 100)];
        for (qos, count, interval_ms) in kinds {
            for number in 0..count {
                let name = format!("pair{qos}/{number}");
                let (topic, filter) = (self.topic(&name), self.filter(&name));
                let id = self.id(&format!("pair{qos}-{number}-to"));
                let mut to = Plan::new(id, Role::Subscriber, LONG_S).wants(filter, qos);
                // Some with a narrow window, so that much waits in the queue.
                to.receive_maximum = if number % 4 == 3 { 4 } else { 32 };
                if number % 2 == 1 {
                    to.habit = comes_and_goes(number, qos);
                }
                self.plans.push(to);
                // Some in bursts, so that several are under way when something breaks.
                let burst = if number % 3 == 0 { 5 } else { 1 };
                let (interval, burst) = self.paced(interval_ms, burst);
                let from = Plan::new(
                    self.id(&format!("pair{qos}-{number}-from")),
                    Role::Publisher,
                    LONG_S,
                );
                let mut from = from.publishes(vec![lane(topic, qos)], interval, burst);
                if number % 5 == 4 || (qos == 2 && number % 3 == 1) {
                    from.habit = comes_and_goes(number, qos);
                }
                self.plans.push(from);
            }
        }
    }

    fn add_fanouts(&mut self, config: &Config) {
        for number in 0..config.fanouts {
            let name = format!("fan/{number}");
            let (topic, filter) = (self.topic(&name), self.filter(&name));
            for at in 0..config.fanout_subscribers {
                let id = self.id(&format!("fan-{number}-to-{at}"));
                let to = Plan::new(id, Role::Subscriber, LONG_S).wants(filter, 2 - (at % 2) as u8);
                self.plans.push(match at % 3 {
                    0 => to.habit(comes_and_goes(at, 1)),
                    _ => to,
                });
            }
            let lanes = vec![lane(topic, 1), lane(topic, 2)];
            self.publisher(Role::Publisher, &format!("fan-{number}-from"), lanes, 100);
        }
    }

    fn add_wildcards(&mut self, config: &Config) {
        for number in 0..config.wildcards {
            let topics = [0, 1, 2, 3].map(|at| self.topic(&format!("wild/{number}/{at}/t")));
            let lanes = (0..4)
                .map(|at| lane(topics[at], 1 + (at % 2) as u8))
                .collect();
            self.publisher(Role::Publisher, &format!("wild-{number}-from"), lanes, 100);
        }
        if config.wildcards > 0 {
            for (at, name) in ["wild/#", "wild/+/1/+", "wild/0/+/t"].iter().enumerate() {
                let filter = self.filter(name);
                let id = self.id(&format!("wild-to-{at}"));
                let to = Plan::new(id, Role::Subscriber, LONG_S).wants(filter, 2 - (at % 2) as u8);
                self.plans.push(to);
            }
        }
    }

    fn add_multis(&mut self, config: &Config) {
        for number in 0..config.multis {
            let names = [0, 1, 2, 3].map(|at| format!("multi/{number}/{at}"));
            let lanes = names.iter().map(|name| lane(self.topic(name), 1));
            let lanes = lanes.collect();
            self.publisher(Role::Publisher, &format!("multi-{number}-from"), lanes, 50);
            let mut plan = Plan::new(self.id(&format!("multi-{number}")), Role::Resetter, LONG_S);
            for name in &names {
                let filter = self.filter(name);
                plan = plan.wants(filter, 1);
            }
            if number % 2 == 1 {
                plan.clean_start_one_in = 3;
                plan.habit = comes_and_goes(number, 1);
            }
            self.plans.push(plan);
        }
    }

    /// Clean sessions and those that subscribe again and again have publishers in common.
    fn add_cleans(&mut self, config: &Config) {
        if config.cleans + config.churns + config.lones == 0 {
            return;
        }
        for number in 0..4 {
            let topic = self.topic(&format!("feed/{number}"));
            let lanes = vec![lane(topic, 1), lane(topic, 2), lane(topic, 0)];
            self.publisher(Role::Publisher, &format!("feed-{number}"), lanes, 100);
        }
        for number in 0..config.cleans {
            // The second is that of the churners: where one of these is, its node has the row already.
            let filter = self.filter(match number % 2 {
                0 => "feed/+",
                _ => "feed/0",
            });
            let plan = Plan::new(self.id(&format!("clean-{number}")), Role::Clean, 0);
            let plan = plan.wants(filter, 2 - (number % 2) as u8);
            self.plans.push(match number % 3 {
                0 => plan.habit(Habit::Leaves {
                    stay: vec![Span(8_000..=15_000)],
                    away: vec![Span(100..=1_000)],
                    how: Leaving::Either,
                }),
                _ => plan,
            });
        }
        // The first and last subscriber of a filter makes and ends its row in the routes, the others do not.
        for number in 0..config.churns {
            let expiry_s = if number % 3 == 1 { LONG_S } else { 0 };
            self.churner(&format!("churn-{number}"), "feed/0", expiry_s);
        }
        for number in 0..config.lones {
            let name = format!("lone/{number}");
            let topic = self.topic(&name);
            let lanes = vec![lane(topic, 1)];
            self.publisher(Role::Publisher, &format!("lone-{number}-from"), lanes, 50);
            self.churner(&format!("lone-{number}"), &name, 0);
        }
    }

    fn churner(&mut self, name: &str, filter: &str, expiry_s: u32) {
        let filter = self.filter(filter);
        let plan = Plan::new(self.id(name), Role::Churner, expiry_s);
        self.plans.push(plan.wants(filter, 1).habit(Habit::Churns {
            hold: Span(1_000..=4_000),
            pause: Span(50..=1_500),
        }));
    }

    fn add_retained(&mut self, config: &Config) {
        if config.writers == 0 {
            return;
        }
        for number in 0..config.writers {
            let lanes = (0..kept_by(number)).map(|at| Lane {
                topic: self.topic(&format!("kept/{number}/{at}")),
                qos: 1 + u8::from(at == 3),
                retain: true,
            });
            let lanes = lanes.collect();
            let every_ms = if number % 2 == 1 { 200 } else { 250 };
            let (interval, burst) = self.paced(every_ms, 1);
            let plan = Plan::new(
                self.id(&format!("kept-{number}-from")),
                Role::Writer,
                LONG_S,
            );
            let plan = plan.publishes(lanes, interval, burst);
            self.plans.push(match number % 2 {
                // One that moves from node to node by itself, with values under way behind it. At each it
                // publishes at first only, so that an older one that comes last stays for a reader to see.
                1 => plan.hushed_after(HUSHED_AFTER).habit(Habit::Leaves {
                    stay: vec![Span(400..=600), Span(3_000..=4_500)],
                    away: vec![Span(10..=200)],
                    how: Leaving::Abruptly,
                }),
                _ => plan,
            });
        }
        for number in 0..config.readers {
            let (name, retained) = match number % 2 {
                0 => (
                    "kept/+/+".to_owned(),
                    (0..config.writers).map(kept_by).sum(),
                ),
                _ => {
                    let writer = number % config.writers;
                    (format!("kept/{writer}/+"), kept_by(writer))
                }
            };
            let filter = self.filter(&name);
            let expiry_s = if number % 4 < 2 { 0 } else { LONG_S };
            let mut plan = Plan::new(self.id(&format!("reader-{number}")), Role::Reader, expiry_s);
            plan.wants.push(Want {
                filter,
                qos: 1,
                retained,
            });
            self.plans.push(plan.habit(Habit::Rereads {
                patience: PATIENCE,
                pause: Span(200..=1_000),
            }));
        }
    }

    fn add_wills(&mut self, config: &Config) {
        if config.wills == 0 {
            return;
        }
        let filter = self.filter("will/+");
        for at in 0..2 {
            let id = self.id(&format!("will-to-{at}"));
            self.plans
                .push(Plan::new(id, Role::Observer, LONG_S).wants(filter, 2));
        }
        for number in 0..config.wills {
            let topic = self.topic(&format!("will/{number}"));
            // A session that outlives the connection, and one that does not.
            let expiry_s = if number % 2 == 0 { LONG_S } else { 0 };
            let mut plan = Plan::new(self.id(&format!("will-{number}")), Role::Willing, expiry_s);
            plan.will = Some((topic, 1 + (number % 2) as u8));
            self.plans.push(plan.habit(Habit::Leaves {
                stay: vec![Span(500..=3_000)],
                away: vec![Span(50..=1_500)],
                how: Leaving::Either,
            }));
        }
    }

    fn add_takeovers(&mut self, config: &Config) {
        for number in 0..config.takeovers {
            let name = format!("own/{number}");
            let filter = self.filter(&format!("{name}/+"));
            for is_second in [false, true] {
                let topic = self.topic(&format!("{name}/{}", u8::from(is_second)));
                let (interval, burst) = self.paced(100, 1);
                let plan = Plan::new(self.id(&format!("own-{number}")), Role::Contender, LONG_S);
                let plan = plan.wants(filter, 1);
                let plan = plan.publishes(vec![lane(topic, 1)], interval, burst);
                self.plans.push(plan.habit(Habit::Contends {
                    away: Span(300..=2_500),
                    is_second,
                }));
            }
        }
    }

    /// An attempt that is given up must not unseat the connection at another node that follows it. The pause is
    /// longer than what the checker of owners takes for attempts that overlap.
    fn add_impatients(&mut self, config: &Config) {
        for number in 0..config.impatients {
            let id = self.id(&format!("impatient-{number}"));
            let mut plan = Plan::new(id, Role::Impatient, LONG_S);
            plan.patience = Some(Patience {
                waits: Span(400..=700),
                away: Span(1_100..=1_400),
            });
            self.plans.push(plan.habit(Habit::Leaves {
                stay: vec![Span(800..=2_500)],
                away: vec![Span(50..=500)],
                how: Leaving::Either,
            }));
        }
    }

    fn add_resets(&mut self, config: &Config) {
        for number in 0..config.resets {
            let names = ["a", "b"].map(|half| format!("reset/{number}/{half}"));
            let lanes = [0, 1].map(|half| lane(self.topic(&names[half]), 1 + half as u8));
            let (interval, burst) = self.paced(100, 1);
            let from = self.id(&format!("reset-{number}-from"));
            let mut from = Plan::new(from, Role::Resetter, LONG_S);
            if number % 2 == 0 {
                from.clean_start_one_in = 3;
                from.habit = Habit::Leaves {
                    stay: vec![Span(500..=2_500)],
                    away: vec![Span(50..=500)],
                    how: Leaving::Either,
                };
            }
            let from = from.publishes(lanes.into(), interval, burst);
            self.plans.push(from);
            let mut plan = Plan::new(self.id(&format!("reset-{number}")), Role::Resetter, LONG_S);
            for name in &names {
                let filter = self.filter(name);
                plan = plan.wants(filter, 2);
            }
            plan.clean_start_one_in = 3;
            plan.is_alternating = true;
            self.plans.push(plan.habit(Habit::Leaves {
                stay: vec![Span(500..=3_000)],
                away: vec![Span(100..=1_000)],
                how: Leaving::Either,
            }));
        }
    }

    fn add_groups(&mut self, config: &Config) {
        for number in 0..config.groups {
            let topic = self.topic(&format!("job/{number}"));
            let shared = format!("$share/g{number}/{}", self.topics[topic as usize]);
            let filter = place(&mut self.filters, shared);
            for at in 0..4 {
                let id = self.id(&format!("job-{number}-to-{at}"));
                let plan = Plan::new(id, Role::Member, LONG_S).wants(filter, 1);
                self.plans.push(match at {
                    0 | 1 => plan.habit(comes_and_goes(at, 1)),
                    _ => plan,
                });
            }
            self.publisher(
                Role::Publisher,
                &format!("job-{number}-from"),
                vec![lane(topic, 1)],
                50,
            );
        }
    }

    fn add_owned(&mut self, config: &Config) {
        let mut lanes = Vec::new();
        for number in 0..config.owned {
            let id = self.id(&format!("owner-{number}"));
            let topic = place(&mut self.topics, format!("cmd/{id}/go"));
            let filter = place(&mut self.filters, format!("cmd/{id}/#"));
            lanes.push(lane(topic, 1 + u8::from(number % 3 == 2)));
            let plan = Plan::new(id, Role::Subscriber, LONG_S).wants(filter, 2);
            self.plans.push(match number % 3 {
                1 => plan.habit(comes_and_goes(number, 1)),
                _ => plan,
            });
        }
        if !lanes.is_empty() {
            let interval_ms = (1_000 / lanes.len() as u64).max(20);
            self.publisher(Role::Publisher, "owner-from", lanes, interval_ms);
        }
    }

    fn add_expiring(&mut self, config: &Config) {
        if config.expiring == 0 {
            return;
        }
        let (topic, filter) = (self.topic("short"), self.filter("short"));
        self.publisher(Role::Publisher, "short-from", vec![lane(topic, 1)], 100);
        let expiry_ms = u64::from(SHORT_S) * 1_000;
        for number in 0..config.expiring {
            let plan = Plan::new(self.id(&format!("short-{number}")), Role::Expirer, SHORT_S);
            self.plans.push(plan.wants(filter, 1).habit(Habit::Leaves {
                stay: vec![Span(1_000..=2_500)],
                // Just at the expiry, and then soon: what expired although it was taken up again shows.
                away: vec![Span(expiry_ms - 100..=expiry_ms + 200), Span(50..=300)],
                how: Leaving::Either,
            }));
        }
    }

    fn add_slows(&mut self, config: &Config) {
        if config.slows == 0 {
            return;
        }
        let (topic, filter) = (self.topic("slow"), self.filter("slow"));
        self.publisher(Role::Publisher, "slow-from", vec![lane(topic, 1)], 50);
        for number in 0..config.slows {
            let id = self.id(&format!("slow-{number}"));
            let mut plan = Plan::new(id, Role::Slow, LONG_S).wants(filter, 1);
            plan.receive_maximum = 8;
            self.plans.push(plan.habit(Habit::Stalls {
                every: Span(4_000..=8_000),
                lasts: Span(1_000..=5_000),
            }));
        }
    }
}

/// Away for up to three seconds, on average one. With QoS 2 every other leaves in the middle of it, again and
/// again: what a step of it promises too early shows then.
fn comes_and_goes(number: u32, qos: u8) -> Habit {
    if qos == 2 && number % 2 == 1 {
        return Habit::Leaves {
            stay: vec![Span(200..=1_500)],
            away: vec![Span(20..=300)],
            how: Leaving::Abruptly,
        };
    }
    Habit::Leaves {
        stay: vec![Span(2_000..=6_000)],
        away: vec![Span(100..=1_000), Span(200..=3_000)],
        how: match number % 4 {
            1 => Leaving::Abruptly,
            _ => Leaving::Either,
        },
    }
}

fn lane(topic: u32, qos: u8) -> Lane {
    Lane {
        topic,
        qos,
        retain: false,
    }
}

/// The place of a text, which is added if it is not there.
fn place(texts: &mut Vec<String>, text: String) -> u32 {
    let known = texts.iter().position(|one| *one == text);
    let place = known.unwrap_or_else(|| {
        texts.push(text);
        texts.len() - 1
    });
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// How many retained topics a writer has. One that moves has one.
fn kept_by(writer: u32) -> usize {
    if writer % 2 == 1 { 1 } else { 4 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mqtt::{Filter, Topic};

    use super::*;

    #[test]
    fn every_topic_and_filter_is_good_and_every_publisher_has_a_reader_but_noise() {
        let cast = Cast::of(&Config::default(), 7);
        let filters = cast
            .filters
            .iter()
            .map(|one| Filter::try_from(one.as_str()));
        let filters: Vec<Filter> = filters.collect::<Result<_, _>>().unwrap();
        for plan in cast.plans.iter().filter(|plan| plan.role != Role::Noise) {
            for lane in plan.publishes.iter().flat_map(|one| &one.lanes) {
                let topic = Topic::try_from(cast.topics[lane.topic as usize].as_str()).unwrap();
                let reached = filters.iter().any(|filter| match filter.shared() {
                    Some((_, rest)) => rest == topic.as_str(),
                    None => filter.matches(&topic),
                });
                assert!(reached, "{topic}");
            }
        }
    }

    #[test]
    fn a_client_id_is_shared_by_contenders_only() {
        let cast = Cast::of(&Config::default(), 7);
        let mut users: BTreeMap<&str, Vec<Role>> = BTreeMap::new();
        for plan in &cast.plans {
            users.entry(&plan.client_id).or_default().push(plan.role);
        }
        for (id, roles) in users {
            let is_alone = roles.len() == 1 && roles[0] != Role::Contender;
            assert!(is_alone || roles == [Role::Contender; 2], "{id}: {roles:?}");
        }
    }

    #[test]
    fn no_session_has_two_filters_for_one_topic() {
        let cast = Cast::of(&Config::default(), 7);
        for plan in &cast.plans {
            for (at, one) in plan.wants.iter().enumerate() {
                for other in &plan.wants[..at] {
                    let [one, other] = [one, other].map(|want| {
                        Filter::try_from(cast.filters[want.filter as usize].as_str()).unwrap()
                    });
                    assert!(!one.overlaps(&other), "{one} and {other}");
                }
            }
        }
    }

    #[test]
    fn without_counts_there_is_nobody() {
        assert!(Cast::of(&Config::none(), 7).plans.is_empty());
    }
}
