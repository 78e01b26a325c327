//! A cluster of three nodes as child processes.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use admin::cluster::ClusterStatus;
use serde::de::DeserializeOwned;

use super::network;
use crate::process::http;
use crate::process::node::{Node, Place, run, tidewire};
use crate::process::sessions::crowd::Running;
use crate::process::wait::until;

/// Nodes of a cluster: the fewest of which one may fail.
pub(super) const NODES: usize = 3;

/// What asking a node ends with that does not listen, or ceases to.
const GONE: [io::ErrorKind; 3] = [
    io::ErrorKind::ConnectionRefused,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::InvalidData,
];

/// Where the nodes are; the first founds the cluster, the others join it.
pub(super) struct Cluster {
    pub(super) places: [Place; NODES],
}

impl Cluster {
    pub(super) fn new(config: &str) -> Self {
        Self::with(|_, _| config.to_owned(), |_, place| place)
    }

    /// Nodes each of which has a configuration of its own.
    pub(super) fn each(config: impl Fn(usize, &Place) -> String) -> Self {
        Self::with(config, |_, place| place)
    }

    /// Nodes each of which has an address of its own for the others, so that what goes between two of
    /// them can be told from the rest.
    pub(super) fn apart(config: &str) -> Self {
        Self::with(
            |_, _| config.to_owned(),
            |at, place| {
                let port = place.cluster.port();
                place.at(SocketAddr::new(network::address(at), port))
            },
        )
    }

    fn with(
        config: impl Fn(usize, &Place) -> String,
        placed: impl Fn(usize, Place) -> Place,
    ) -> Self {
        let founder = placed(0, Place::of_cluster(&[]));
        let join = [founder.cluster];
        let joins = |at| placed(at, Place::of_cluster(&join));
        let places = [founder, joins(1), joins(2)];
        // Two that join at once get whatever numbers are free, in no order.
        let mut numbers = 1..;
        Self {
            places: places.map(|place| {
                let number = numbers.next().expect("few nodes");
                let toml = config(number as usize - 1, &place);
                place.numbered(number).with_config(&toml)
            }),
        }
    }

    /// Starts all nodes and waits until each is a member with all replicas.
    pub(super) fn start(&self) -> Nodes<'_> {
        let mut nodes = Nodes {
            places: &self.places,
            // Only a cluster that is founded can be joined; from then on all come at once.
            running: [None, None, None],
        };
        nodes.start(0);
        nodes.start_missing();
        until("the nodes to be one cluster", || {
            nodes.is_settled().then_some(())
        });
        nodes
    }

    pub(super) fn mqtt(&self) -> [SocketAddr; NODES] {
        self.places.each_ref().map(|place| place.mqtt)
    }
}

/// The nodes that run, killed when dropped.
pub(super) struct Nodes<'a> {
    places: &'a [Place; NODES],
    running: [Option<Node<'a>>; NODES],
}

impl<'a> Nodes<'a> {
    pub(super) fn place(&self, at: usize) -> &'a Place {
        &self.places[at]
    }

    pub(super) fn node(&self, at: usize) -> &Node<'a> {
        self.running[at].as_ref().expect("the node runs")
    }

    pub(super) fn admin(&self, at: usize) -> SocketAddr {
        self.places[at].admin
    }

    /// The nodes that run and answer: one whose epoch was ended begins anew meanwhile.
    pub(super) fn answering(&self) -> impl Iterator<Item = &Node<'a>> {
        (0..NODES)
            .filter(|at| self.status(*at).is_some())
            .map(|at| self.node(at))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Node<'a>> {
        self.running.iter().flatten()
    }

    pub(super) fn start(&mut self, at: usize) {
        self.running[at] = Some(self.places[at].start());
    }

    /// Starts a node and waits for nothing.
    pub(super) fn spawn(&mut self, at: usize) {
        self.running[at] = Some(self.places[at].spawn());
    }

    /// Starts all nodes that do not run, at once, and waits until they are ready.
    pub(super) fn start_missing(&mut self) {
        let missing: Vec<usize> = (0..NODES)
            .filter(|at| self.running[*at].is_none())
            .collect();
        for at in &missing {
            self.spawn(*at);
        }
        for at in missing {
            let node = self.running[at].as_mut().expect("it was started");
            node.await_ready();
        }
    }

    pub(super) fn kill_9(&mut self, at: usize) {
        self.running[at].take().expect("the node runs").kill_9();
    }

    pub(super) fn kill_all_9(&mut self) {
        for at in 0..NODES {
            self.kill_9(at);
        }
    }

    /// Has a node stop, and waits until its process has ended.
    pub(super) fn stop(&mut self, at: usize) -> ExitStatus {
        let node = self.running[at].take().expect("the node runs");
        node.terminate();
        node.ended()
    }

    /// Waits until the cluster is whole and every node leads what it is to lead, while the clients go
    /// on.
    pub(super) fn await_order(&mut self, running: &Running) {
        running.take_until("the cluster to be whole", || self.is_settled());
        running.take_until("leaders to return", || {
            (0..NODES).all(|at| {
                self.status(at)
                    .is_some_and(|status| leads_as_placed(&status))
            })
        });
    }

    /// Whether every node runs, serves, and sees each group led and with a voter on each node.
    pub(super) fn is_settled(&mut self) -> bool {
        for node in self.running.iter_mut().flatten() {
            node.assert_running();
        }
        (0..NODES).all(|at| {
            let status = self.status(at);
            status.is_some_and(|status| {
                let members = &status.members;
                let serve = |status: &ClusterStatus| status.has_lease && members.len() == NODES;
                let is_whole = |voters: &[u32]| voters.len() == NODES;
                serve(&status)
                    && members.iter().all(|member| {
                        member.epoch.is_some() && member.is_heard && !member.is_suspected
                    })
                    && status.groups.iter().all(|group| {
                        group.leader.is_some()
                            && is_whole(&group.voters)
                            && group.moving_to.is_none()
                    })
            })
        })
    }

    /// Whether the other nodes see each group led, and none by this one.
    pub(super) fn is_led_without(&self, dead: usize) -> bool {
        let dead_node = u32::try_from(dead + 1).expect("few nodes");
        (0..NODES).filter(|at| *at != dead).all(|at| {
            let groups = self.status(at).map(|status| status.groups);
            groups.is_some_and(|groups| {
                let is_led = |leader: Option<u32>| leader.is_some_and(|node| node != dead_node);
                groups.iter().all(|group| is_led(group.leader))
            })
        })
    }

    /// The node that leads a group, as all agree.
    pub(super) fn leader(&self, group: &str) -> usize {
        until("a leader that all nodes name", || {
            let leaders: Vec<Option<u32>> = (0..NODES)
                .map(|at| {
                    let status = self.status(at)?;
                    let group = status.groups.into_iter().find(|one| one.group == group)?;
                    group.leader
                })
                .collect();
            let first = leaders[0].filter(|_| leaders.iter().all(|one| *one == leaders[0]))?;
            Some(first as usize - 1)
        })
    }

    /// What a node knows of the cluster, if it answers.
    pub(super) fn status(&self, at: usize) -> Option<ClusterStatus> {
        self.running[at].as_ref()?;
        match http::get(self.places[at].admin, "/v1/cluster") {
            Ok((200, body)) => Some(serde_json::from_str(&body).expect("the status is JSON")),
            // A node that starts does not listen yet; one whose epoch was ended does so no more.
            Err(error) if GONE.contains(&error.kind()) => None,
            other => panic!("node {}: {other:?}", at + 1),
        }
    }
}

/// Runs a verb of `ctl` against a node: exit code, standard output and standard error.
pub(super) fn ctl<W: AsRef<OsStr>>(
    nodes: &Nodes<'_>,
    at: usize,
    words: &[W],
) -> (Option<i32>, String, String) {
    let admin = nodes.admin(at).to_string();
    run(tidewire().args(["ctl", "--admin", &admin]).args(words))
}

/// What a verb says once it ends well: on a busy machine a node may be late with an answer, which
/// another one then says.
pub(super) fn json<T: DeserializeOwned, W: AsRef<OsStr>>(
    nodes: &Nodes<'_>,
    at: usize,
    words: &[W],
) -> T {
    let words = words.iter().map(AsRef::as_ref);
    let words: Vec<&OsStr> = words.chain(["--output", "json"].map(OsStr::new)).collect();
    let out = until(&format!("{words:?} to end well"), || {
        let (code, out, error) = ctl(nodes, at, &words);
        assert!(matches!(code, Some(0 | 3)), "{words:?}: {error}");
        (code == Some(0)).then_some(out)
    });
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{words:?}: {error}: {out}"))
}

/// Whether each shard is led by the node that is to lead it.
pub(super) fn leads_as_placed(status: &ClusterStatus) -> bool {
    let mut shards = status
        .groups
        .iter()
        .filter(|group| group.group.parse::<u16>().is_ok());
    shards.all(|group| group.leader == group.voters.first().copied())
}

/// The time from `start` on, rounded.
pub(super) fn since(start: Instant) -> Duration {
    Duration::from_millis(u64::try_from(start.elapsed().as_millis()).expect("a short test"))
}
