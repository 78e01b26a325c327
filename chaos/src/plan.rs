//! When which fault meets whom: computed from scenario and seed before anything is started.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::scenario::{Entry, Kind, Scenario, Span, Target};

/// How long a fault lasts whose scenario does not say.
const LASTS: Duration = Duration::from_secs(3);
/// Packets of a hundred that are lost, likewise.
const PERCENT: u32 = 10;
/// How much later packets and fsyncs are, likewise.
const DELAY: Duration = Duration::from_millis(50);
/// By how many nodes a cluster grows, likewise.
const GROWS_BY: u32 = 2;
/// Faults of one run at most.
const FAULTS_MAX: usize = 10_000;

/// Is a fault with everything chosen that can be chosen before the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When, from the beginning of the faults on.
    pub begin: Duration,
    /// How long.
    pub lasts: Duration,
    /// What.
    pub kind: Kind,
    /// Whether it was drawn: then it begins when the one drawn before is over.
    pub is_drawn: bool,
    /// Who.
    pub met: Met,
    /// Packets of a hundred that are lost.
    pub percent: u32,
    /// How much later packets or fsyncs are.
    pub delay: Duration,
    /// To how many nodes the cluster grows.
    pub to: u32,
}

/// Who is met, by places from 0 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Met {
    /// No single node.
    Nobody,
    /// These.
    Nodes(Vec<usize>),
    /// Who leads meta then.
    Leader,
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("all"),
            Self::Leader => f.write_str("leader"),
            Self::Nodes(nodes) => {
                let numbers: Vec<String> = nodes.iter().map(|at| (at + 1).to_string()).collect();
                f.write_str(&numbers.join("+"))
            }
        }
    }
}

/// Returns the faults of a scenario, in the order in which they begin. The same seed and duration give
/// the same faults.
#[must_use]
pub fn plan(scenario: &Scenario, duration: Duration, seed: u64) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed);
    let nodes = scenario.nodes as usize;
    let mut planned: Vec<Planned> = Vec::new();
    for entry in &scenario.fault {
        if let Some(at) = entry.at.filter(|at| *at <= duration) {
            planned.push(choose(entry, at, nodes, &mut random));
        }
    }
    let drawn: Vec<&Entry> = scenario
        .fault
        .iter()
        .filter(|one| one.at.is_none())
        .collect();
    if let (Some(every), false) = (scenario.every, drawn.is_empty()) {
        let mut at = between(every, &mut random);
        while at < duration && planned.len() < FAULTS_MAX {
            let one = choose(by_weight(&drawn, &mut random), at, nodes, &mut random);
            // A step of time at least, so that this ends.
            at += one.lasts + between(every, &mut random).max(Duration::from_millis(1));
            planned.push(one);
        }
    }
    planned.sort_by_key(|one| one.begin);
    planned
}

fn choose(entry: &Entry, begin: Duration, nodes: usize, random: &mut StdRng) -> Planned {
    let kind = *entry.kind.get_ref();
    let span = entry.lasts.unwrap_or(Span {
        least: LASTS,
        most: LASTS,
    });
    let lasts = match kind {
        // They end by themselves.
        Kind::Storm | Kind::Transfer | Kind::Scale | Kind::LoseLog => Duration::ZERO,
        _ => between(span, random),
    };
    Planned {
        begin,
        lasts,
        kind,
        is_drawn: entry.at.is_none(),
        met: met(entry, kind, nodes, random),
        percent: entry.percent.unwrap_or(PERCENT),
        delay: entry.delay.unwrap_or(DELAY),
        to: entry.to.unwrap_or(nodes as u32 + GROWS_BY),
    }
}

fn met(entry: &Entry, kind: Kind, nodes: usize, random: &mut StdRng) -> Met {
    if matches!(
        kind,
        Kind::Rolling | Kind::Loss | Kind::Storm | Kind::KafkaOutage | Kind::Scale
    ) {
        return Met::Nobody;
    }
    let some = |count: usize, random: &mut StdRng| {
        let mut all: Vec<usize> = (0..nodes).collect();
        all.shuffle(random);
        all.truncate(count);
        all.sort_unstable();
        Met::Nodes(all)
    };
    match entry.target.unwrap_or_default() {
        Target::One => some(1, random),
        Target::Minority => some((nodes.saturating_sub(1) / 2).max(1), random),
        Target::All => Met::Nodes((0..nodes).collect()),
        Target::Leader => Met::Leader,
        Target::Node(number) => Met::Nodes(vec![number as usize - 1]),
    }
}

fn by_weight<'a>(entries: &[&'a Entry], random: &mut StdRng) -> &'a Entry {
    let weight = |entry: &Entry| entry.weight.unwrap_or(1);
    let all: u32 = entries.iter().map(|entry| weight(entry)).sum();
    let mut ticket = random.random_range(0..all);
    for entry in entries {
        match ticket.checked_sub(weight(entry)) {
            Some(rest) => ticket = rest,
            None => return entry,
        }
    }
    unreachable!("a ticket is below the sum of the weights")
}

fn between(span: Span, random: &mut StdRng) -> Duration {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.random_range(ms(span.least)..=ms(span.most)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWN: &str = "\
name = \"mine\"
about = \"Much happens.\"
duration = \"60s\"
every = \"500ms..2s\"
[[fault]]
kind = \"kill\"
for = \"1s..3s\"
weight = 3
[[fault]]
kind = \"pause\"
target = \"all\"
[[fault]]
kind = \"storm\"
at = \"5s\"
[[fault]]
kind = \"storm\"
at = \"90s\"
";

    fn planned(seed: u64, seconds: u64) -> Vec<Planned> {
        let scenario = Scenario::parse("mine.toml", DRAWN).expect("good");
        plan(&scenario, Duration::from_secs(seconds), seed)
    }

    #[test]
    fn a_seed_gives_the_same_faults_again_and_another_seed_others() {
        assert_eq!(planned(7, 60), planned(7, 60));
        assert_ne!(planned(7, 60), planned(8, 60));
    }

    #[test]
    fn faults_are_drawn_one_after_the_other_by_weight_until_the_time_is_over() {
        let all = planned(7, 600);
        assert!(all.iter().all(|one| one.begin < Duration::from_secs(600)));
        assert!(all.windows(2).all(|pair| pair[0].begin <= pair[1].begin));
        let drawn: Vec<_> = all.iter().filter(|one| one.kind != Kind::Storm).collect();
        let apart = |pair: &[&Planned]| {
            pair[1].begin >= pair[0].begin + pair[0].lasts + Duration::from_millis(500)
        };
        assert!(drawn.windows(2).all(apart));
        let of = |kind| drawn.iter().filter(|one| one.kind == kind).count();
        let (kills, pauses) = (of(Kind::Kill), of(Kind::Pause));
        assert!(kills > 2 * pauses && pauses > 0, "{kills} and {pauses}");
    }

    #[test]
    fn those_at_fixed_times_are_there_unless_the_run_is_over() {
        let storms: Vec<_> = planned(7, 60)
            .into_iter()
            .filter(|one| one.kind == Kind::Storm)
            .collect();
        assert_eq!(storms.len(), 1);
        assert_eq!(storms[0].begin, Duration::from_secs(5));
    }

    #[test]
    fn all_nodes_are_met_sooner_or_later() {
        let mut met: Vec<Met> = planned(7, 600)
            .into_iter()
            .filter(|one| one.kind == Kind::Kill)
            .map(|one| one.met)
            .collect();
        met.sort_by_key(ToString::to_string);
        met.dedup();
        assert_eq!(met, [vec![0], vec![1], vec![2]].map(Met::Nodes));
    }
}
