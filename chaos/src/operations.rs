//! What operators do, under load: nobody has to notice more than a pause.

use std::time::Duration;

use admin::cluster::{ClusterStatus, DrainRequest, Holdings};
use admin::shard::Transfer;
use benches::demo::view::is_shard;
use tokio::time::Instant;

use crate::Error;
use crate::cluster::State;
use crate::report::Figure;
use crate::run::Run;

/// Time within which `safe-to-stop` has to say yes, of a cluster that is whole.
const SAFE_DEADLINE: Duration = Duration::from_secs(60);
/// Time within which a member has to give up what it holds.
const DRAIN_DEADLINE: Duration = Duration::from_secs(180);
/// Time within which shards have to be where they are to be after a join.
const SPREAD_DEADLINE: Duration = Duration::from_secs(120);
/// Time that clients have at the nodes that joined before these leave again.
const SETTLE: Duration = Duration::from_secs(5);
/// Time between two questions of a wait.
const ASK_INTERVAL: Duration = Duration::from_millis(250);
/// How long a leadership is kept where it was handed to.
const HOLD_S: u64 = 5;
/// Replicas of a shard.
const REPLICAS: usize = 3;

impl Run {
    /// Stops and starts one node after the other, each when it may be stopped; what is to be said.
    pub(crate) async fn roll(&mut self, away: Duration) -> Result<String, Error> {
        let begun = Instant::now();
        let before = self.copied();
        let places = self.cluster.places();
        for at in &places {
            self.until_safe(*at).await?;
            let stopped = Instant::now();
            self.stop_node(*at).await?;
            let stop_s = stopped.elapsed().as_secs_f64();
            self.wait(stopped + away).await?;
            let since = Instant::now();
            self.spawn(*at)?;
            self.until_ready(&[*at], since).await?;
            let ready_s = since.elapsed().as_secs_f64();
            self.until_whole("in a rolling restart").await?;
            eprintln!(
                "            node {} stopped in {stop_s:.1} s, was ready {ready_s:.1} s after its start",
                at + 1
            );
        }
        let seconds = begun.elapsed().as_secs_f64();
        self.figure("rolling restart, s", seconds);
        for ((name, after), (_, before)) in self.copied().into_iter().zip(before) {
            self.figure(name, after - before);
        }
        Ok(format!("{} nodes in {seconds:.1} s", places.len()))
    }

    /// What the nodes have sent each other so that replicas have what others have.
    fn copied(&self) -> Vec<(&'static str, f64)> {
        let sum = |name: &str| -> f64 {
            let places = 0..self.cluster.members().len();
            places
                .map(|at| self.watch.seen(at).counters.sum(name))
                .sum()
        };
        vec![
            (
                "entries of logs received, bytes",
                sum("tidewire_cluster_log_bytes_total{direction=\"received\"}"),
            ),
            (
                "snapshots received, bytes",
                sum("tidewire_cluster_snapshot_bytes_total{direction=\"received\"}"),
            ),
            (
                "buckets copied, bytes",
                sum("tidewire_telemetry_bucket_copied_bytes_total"),
            ),
        ]
    }

    /// Waits until the node may be stopped.
    async fn until_safe(&mut self, at: usize) -> Result<(), Error> {
        let deadline = Instant::now() + self.patience(SAFE_DEADLINE);
        loop {
            let asked = self.ask(at, |client| client.safe_to_stop(None)).await?;
            let why = match asked {
                Ok(answer) if answer.safe => return Ok(()),
                Ok(answer) => answer.reasons.join("; "),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                self.find(&format!(
                    "node {} may not be stopped {SAFE_DEADLINE:?} after the cluster was whole: {why}",
                    at + 1
                ));
                return Ok(());
            }
            self.wait(Instant::now() + ASK_INTERVAL).await?;
        }
    }

    /// Hands every shard that these nodes lead to another of its voters; what is to be said.
    pub(crate) async fn transfer(&mut self, places: &[usize]) -> Result<String, Error> {
        let (mut handed, mut refused) = (0, 0);
        for at in places {
            let number = self.cluster.member(*at).number();
            let status = self.watch.seen(*at).cluster.unwrap_or_default();
            let led = status
                .groups
                .iter()
                .filter(|group| group.leader == Some(number));
            let wanted: Vec<(u16, u32)> = led
                .filter_map(|group| {
                    let shard = group.group.parse().ok()?;
                    let other = group.voters.iter().find(|node| **node != number)?;
                    Some((shard, *other))
                })
                .collect();
            for (shard, to) in wanted {
                let transfer = Transfer {
                    to,
                    hold_s: HOLD_S,
                    dry_run: false,
                };
                let asked = self.ask(*at, move |client| client.transfer_leader(shard, transfer));
                match asked.await? {
                    Ok(_) => handed += 1,
                    // Leadership may have moved since it was looked at.
                    Err(_) => refused += 1,
                }
            }
        }
        Ok(format!("{handed} shards handed over, {refused} refused"))
    }

    /// Has a node give up what it holds, and waits until it has; what is to be said.
    pub(crate) async fn drain(&mut self, at: usize) -> Result<String, Error> {
        let begun = Instant::now();
        let node = self.cluster.member(at).number();
        let asked = self.another(at);
        let undo = false;
        self.request(asked, "drain", move |client| {
            client.drain(&DrainRequest {
                node,
                undo,
                dry_run: false,
            })
        })
        .await?;
        let deadline = begun + self.patience(DRAIN_DEADLINE);
        loop {
            let holdings = self.ask(asked, move |client| client.holdings(node)).await?;
            match holdings {
                Ok(Holdings { is_empty: true, .. }) => break,
                Ok(holdings) if Instant::now() >= deadline => {
                    self.find(&format!(
                        "node {node} holds something {DRAIN_DEADLINE:?} after its drain began: {holdings:?}"
                    ));
                    break;
                }
                Err(error) if Instant::now() >= deadline => {
                    self.find(&format!("what node {node} holds is not known: {error}"));
                    break;
                }
                Ok(_) | Err(_) => self.wait(Instant::now() + ASK_INTERVAL).await?,
            }
        }
        Ok(format!(
            "empty after {:.1} s",
            begun.elapsed().as_secs_f64()
        ))
    }

    /// Has a node keep what it holds after all.
    pub(crate) async fn undrain(&mut self, at: usize) -> Result<(), Error> {
        let node = self.cluster.member(at).number();
        let asked = self.another(at);
        let undo = true;
        self.request(asked, "undrain", move |client| {
            client.drain(&DrainRequest {
                node,
                undo,
                dry_run: false,
            })
        })
        .await
    }

    /// Has nodes join until there are so many, and, once clients are dealt over them, leave again, one by one; what is to
    /// be said.
    pub(crate) async fn scale(&mut self, to: usize) -> Result<String, Error> {
        let begun = Instant::now();
        let before = self.cluster.places().len();
        let mut joined = Vec::new();
        for _ in before..to {
            let at = self.add_node().await?;
            self.spawn(at)?;
            joined.push(at);
        }
        self.until_ready(&joined, begun).await?;
        self.until_spread("grown").await?;
        let grown_s = begun.elapsed().as_secs_f64();
        self.figure(&format!("{before} to {to} nodes, s"), grown_s);
        self.tell_addresses();
        // As a load balancer that is told of new nodes and deals anew, so that these have clients to send away.
        if let Some(workload) = &self.workload {
            workload.cut_all();
        }
        self.wait(Instant::now() + SETTLE).await?;

        let shrinking = Instant::now();
        for at in joined.into_iter().rev() {
            self.drain(at).await?;
            self.stop_node(at).await?;
            self.forget(at).await?;
        }
        self.tell_addresses();
        self.until_spread("shrunk").await?;
        let shrunk_s = shrinking.elapsed().as_secs_f64();
        self.figure(&format!("{to} to {before} nodes, s"), shrunk_s);
        Ok(format!(
            "grown in {grown_s:.1} s, shrunk in {shrunk_s:.1} s"
        ))
    }

    /// Has a new node come in the place of one that is down for good; the new one's number.
    pub(crate) async fn replace(&mut self, at: usize) -> Result<u32, Error> {
        let since = Instant::now();
        let new = self.add_node().await?;
        self.spawn(new)?;
        self.until_ready(&[new], since).await?;
        self.drain(at).await?;
        self.forget(at).await?;
        self.tell_addresses();
        Ok(self.cluster.member(new).number())
    }

    /// Has the cluster forget a node that was drained and has ended.
    async fn forget(&mut self, at: usize) -> Result<(), Error> {
        let node = self.cluster.member(at).number();
        let asked = self.another(at);
        let undo = false;
        let deadline = Instant::now() + self.patience(SAFE_DEADLINE);
        loop {
            // Until its epoch has ended it counts as one that runs.
            let forgotten = self
                .ask(asked, move |client| {
                    client.forget(&DrainRequest {
                        node,
                        undo,
                        dry_run: false,
                    })
                })
                .await?;
            match forgotten {
                Ok(_) => break,
                Err(error) if Instant::now() >= deadline => {
                    self.find(&format!("node {node} is not forgotten: {error}"));
                    break;
                }
                Err(_) => self.wait(Instant::now() + ASK_INTERVAL).await?,
            }
        }
        self.cluster.forget(at);
        self.watch.hold(at, true);
        Ok(())
    }

    /// Waits until no node leads or holds more than its part of the shards.
    async fn until_spread(&mut self, how: &str) -> Result<(), Error> {
        let nodes = self.cluster.places().len();
        let mut most = (0, 0, 0);
        let since = Instant::now();
        let is_spread = |run: &mut Self| {
            let Some(status) = run.watch.status() else {
                return false;
            };
            most = spread(&status);
            let (leads, holds, shards) = most;
            let is_even =
                leads <= shards.div_ceil(nodes) && holds <= (REPLICAS * shards).div_ceil(nodes);
            is_even && run.watch.is_whole(&run.cluster, since)
        };
        let is_in_time = self.until(SPREAD_DEADLINE, is_spread).await?;
        let (leads, holds, shards) = most;
        if !is_in_time {
            let standing = self.watch.standing(&self.cluster);
            self.find(&format!(
                "{SPREAD_DEADLINE:?} after {nodes} nodes were there, one leads {leads} and one holds {holds} of {shards} \
                 shards: {standing}"
            ));
        }
        self.figure(
            &format!("most shards led by a node, {how} to {nodes}"),
            leads as f64,
        );
        self.figure(
            &format!("most replicas of a node, {how} to {nodes}"),
            holds as f64,
        );
        Ok(())
    }

    /// Tells the clients which nodes there are.
    fn tell_addresses(&self) {
        if let Some(workload) = &self.workload {
            workload.set_addresses(&self.cluster.mqtt());
        }
    }

    pub(crate) fn figure(&mut self, name: &str, value: f64) {
        self.figures.push(Figure {
            name: name.to_owned(),
            value,
        });
    }

    /// Asks for something that has to be done, again if the node is not reached or busy.
    async fn request<T: Send + 'static>(
        &mut self,
        at: usize,
        what: &str,
        question: impl FnOnce(&admin::client::Client) -> Result<T, admin::client::ClientError>
        + Clone
        + Send
        + 'static,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + self.patience(SAFE_DEADLINE);
        loop {
            match self.ask(at, question.clone()).await? {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    self.find(&format!("{what} is refused: {error}"));
                    return Ok(());
                }
                Err(_) => self.wait(Instant::now() + ASK_INTERVAL).await?,
            }
        }
    }

    /// A node that runs, another one than this if there is one.
    fn another(&self, than: usize) -> usize {
        let places = self.cluster.places();
        let mut others = places
            .into_iter()
            .filter(|at| *at != than && self.cluster.member(*at).state() == State::Running);
        others.next().unwrap_or(than)
    }
}

/// The most shards that a node leads, the most that a node holds, and how many there are.
fn spread(status: &ClusterStatus) -> (usize, usize, usize) {
    let shards: Vec<_> = status
        .groups
        .iter()
        .filter(|group| is_shard(group))
        .collect();
    let most = |of: &dyn Fn(u32) -> usize| {
        let members = status.members.iter();
        members.map(|one| of(one.node)).max().unwrap_or(0)
    };
    let leads = most(&|node| {
        shards
            .iter()
            .filter(|shard| shard.leader == Some(node))
            .count()
    });
    let holds = most(&|node| {
        shards
            .iter()
            .filter(|shard| shard.voters.contains(&node))
            .count()
    });
    (leads, holds, shards.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use admin::cluster::{GroupStatus, MemberStatus};

    #[test]
    fn the_most_that_a_node_leads_and_holds_is_counted_over_shards_alone() {
        let group = |name: &str, leader, voters: &[u32]| GroupStatus {
            group: name.to_owned(),
            leader: Some(leader),
            voters: voters.to_vec(),
            ..GroupStatus::default()
        };
        let member = |node| MemberStatus {
            node,
            ..MemberStatus::default()
        };
        let status = ClusterStatus {
            members: (1..=4).map(member).collect(),
            groups: vec![
                group("meta", 1, &[1, 2, 3]),
                group("0", 1, &[1, 2, 3]),
                group("1", 1, &[1, 2, 4]),
                group("2", 2, &[2, 3, 4]),
            ],
            ..ClusterStatus::default()
        };
        assert_eq!(spread(&status), (2, 3, 3));
    }
}
