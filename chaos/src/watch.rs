//! What the nodes say of themselves while it happens: asked all the time, by tasks of their own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use admin::client::Client;
use admin::cluster::ClusterStatus;
use benches::demo::view::is_whole;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::{Cluster, Member};

/// Time between two questions to a node.
const INTERVAL: Duration = Duration::from_millis(300);
/// How old what a node says of the cluster may be by itself.
const STALE: Duration = Duration::from_millis(600);

/// Asks each node now and then, until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    nodes: Vec<Asked>,
    asking: JoinSet<()>,
}

#[derive(Debug)]
struct Asked {
    seen: watch::Receiver<Seen>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// One that stands still would keep a thread waiting.
    is_held: AtomicBool,
    /// Processes of the node that were started.
    starts: AtomicU64,
}

/// Is what a node said last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// When it was asked; `None`: never yet.
    pub(crate) asked: Option<Instant>,
    /// Whether it takes clients.
    pub(crate) is_ready: bool,
    /// The cluster as it knows it; `None` if it does not answer.
    pub(crate) cluster: Option<ClusterStatus>,
    /// Its counters, over all its processes.
    pub(crate) counters: Counters,
}

/// Are counters that begin at 0 with each process, as if they did not.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counters {
    /// Sum of what earlier processes had counted when they were asked last.
    before: BTreeMap<String, f64>,
    /// What the present one has counted.
    now: BTreeMap<String, f64>,
}

impl Counters {
    /// Takes what `/metrics` says; what is no counter is left out.
    pub(crate) fn take(&mut self, text: &str) {
        let mut read = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((sample, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let name = sample.split('{').next().unwrap_or(sample);
            if let (true, Ok(value)) = (name.ends_with("_total"), value.parse::<f64>()) {
                read.insert(sample.to_owned(), value);
            }
        }
        self.now = read;
    }

    /// The process has ended: whatever the next one says is in addition.
    pub(crate) fn end(&mut self) {
        for (sample, value) in std::mem::take(&mut self.now) {
            *self.before.entry(sample).or_default() += value;
        }
    }

    /// Returns the sum of a counter over all its labels.
    #[must_use]
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let of = |samples: &BTreeMap<String, f64>| -> f64 {
            let is_of = |sample: &str| {
                let rest = sample.strip_prefix(name);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
            };
            let samples = samples.iter().filter(|(sample, _)| is_of(sample));
            samples.map(|(_, value)| value).sum()
        };
        of(&self.before) + of(&self.now)
    }

    /// Returns every sample with its value.
    #[must_use]
    pub(crate) fn all(&self) -> BTreeMap<String, f64> {
        let mut all = self.before.clone();
        for (sample, value) in &self.now {
            *all.entry(sample.clone()).or_default() += value;
        }
        all
    }
}

impl Watch {
    /// Begins to ask the node; they are added in the order of their places.
    pub(crate) fn add(&mut self, member: &Member) {
        let (tell, seen) = watch::channel(Seen::default());
        let shared = Arc::<Shared>::default();
        let client = Client::new(&member.admin().to_string());
        self.asking.spawn(ask(client, tell, Arc::clone(&shared)));
        self.nodes.push(Asked { seen, shared });
    }

    /// Has a node not be asked while it stands still, or asked again.
    pub(crate) fn hold(&self, at: usize, is_held: bool) {
        self.nodes[at]
            .shared
            .is_held
            .store(is_held, Ordering::Relaxed);
    }

    /// Says that a new process of the node is about to start: its counters begin at 0.
    pub(crate) fn begin_process(&self, at: usize) {
        self.nodes[at].shared.starts.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns what the node at this place said last.
    #[must_use]
    pub(crate) fn seen(&self, at: usize) -> Seen {
        self.nodes[at].seen.borrow().clone()
    }

    /// Returns true when the node was asked after `since` and said that it takes clients.
    #[must_use]
    pub(crate) fn is_ready(&self, at: usize, since: Instant) -> bool {
        let seen = self.nodes[at].seen.borrow();
        seen.is_ready && seen.asked.is_some_and(|asked| asked > since)
    }

    /// Returns true when each member, asked after `since`, said that all serve and every group is led
    /// and placed.
    #[must_use]
    pub(crate) fn is_whole(&self, cluster: &Cluster, since: Instant) -> bool {
        let places = cluster.places();
        places.iter().all(|at| {
            let seen = self.nodes[*at].seen.borrow();
            let is_new = seen.asked.is_some_and(|asked| asked > since + STALE);
            let status = seen.cluster.as_ref();
            is_new && seen.is_ready && status.is_some_and(|status| is_whole(status, places.len()))
        })
    }

    /// Returns the cluster as a node knows it that has a lease, else any that answers.
    #[must_use]
    pub(crate) fn status(&self) -> Option<ClusterStatus> {
        let all = self.nodes.iter();
        let all: Vec<ClusterStatus> = all
            .filter_map(|one| one.seen.borrow().cluster.clone())
            .collect();
        let with_lease = all.iter().find(|status| status.has_lease);
        with_lease.or(all.first()).cloned()
    }

    /// Returns in a line what each member says of itself.
    #[must_use]
    pub(crate) fn standing(&self, cluster: &Cluster) -> String {
        let words = cluster.places().into_iter().map(|at| {
            let seen = self.nodes[at].seen.borrow();
            let number = cluster.member(at).number();
            let Some(status) = &seen.cluster else {
                return format!("node {number} does not answer");
            };
            let led = status.groups.iter().filter(|group| group.leader.is_some());
            let moving = status
                .groups
                .iter()
                .filter(|group| group.moving_to.is_some());
            format!(
                "node {number}: {}{}, hears {} of {}, {} of {} groups led, {} moving",
                if seen.is_ready { "ready" } else { "not ready" },
                if status.has_lease { "" } else { ", no lease" },
                status.members.iter().filter(|one| one.is_heard).count(),
                status.members.len(),
                led.count(),
                status.groups.len(),
                moving.count(),
            )
        });
        words.collect::<Vec<_>>().join("; ")
    }
}

async fn ask(client: Client, tell: watch::Sender<Seen>, shared: Arc<Shared>) {
    let mut counted = 0;
    while !tell.is_closed() {
        if !shared.is_held.load(Ordering::Relaxed) {
            let starts = shared.starts.load(Ordering::Relaxed);
            let asked = Instant::now();
            let one = client.clone();
            let answers = tokio::task::spawn_blocking(move || {
                let is_ready = one.is_ready().unwrap_or(false);
                (is_ready, one.cluster().ok(), one.metrics().ok())
            });
            let (is_ready, cluster, metrics) = answers.await.unwrap_or_default();
            tell.send_modify(|seen| {
                seen.asked = Some(asked);
                seen.is_ready = is_ready;
                seen.cluster = cluster;
                if starts != counted {
                    seen.counters.end();
                }
                if let Some(text) = metrics {
                    seen.counters.take(&text);
                }
            });
            counted = starts;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
# TYPE tidewire_a_total counter
tidewire_a_total{kind=\"x\"} 3
tidewire_a_total{kind=\"y\"} 4
tidewire_ab_total 7
tidewire_gauge 100
";

    #[test]
    fn a_counter_is_summed_over_its_labels_and_over_processes() {
        let mut counters = Counters::default();
        counters.take(METRICS);
        assert_eq!(counters.sum("tidewire_a_total"), 7.0);
        counters.end();
        counters.take("tidewire_a_total{kind=\"x\"} 1\ntidewire_a_total{kind=\"y\"} 0\n");
        assert_eq!(counters.sum("tidewire_a_total"), 8.0);
        assert_eq!(counters.sum("tidewire_ab_total"), 7.0);
        assert_eq!(counters.sum("tidewire_gauge"), 0.0);
        assert_eq!(counters.all().len(), 3);
    }
}
