//! Links that are cut in a network of the test's own: who cannot promise anything withholds, the
//! others go on, and after healing there is one history.

mod prober;

use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use super::client::Client;
use super::history::assert_one_history;
use super::network::{Network, in_own_network, others};
use super::nodes::{Cluster, NODES, Nodes, since};
use crate::process::sessions::DEFAULTS;
use crate::process::sessions::crowd::{Crowd, Running};
use crate::process::sessions::homes::Homes;
use prober::Prober;

/// Publishers, and as many subscribers, that live through it on all nodes.
const CLIENTS: usize = 9;
/// Acknowledgements before the cut, and after each step.
const ACKS: usize = 300;
/// Times that a prober succeeds before it counts as going on.
const PROBES: usize = 30;
/// Sessions that keep what the probers publish.
const KEPT: usize = 8;
/// Server busy: what was to be acknowledged was not for `settle_deadline`.
const SERVER_BUSY: u8 = 0x89;

#[test]
fn a_node_that_is_cut_off_withholds_and_closes_and_the_others_go_on() {
    in_own_network(
        a_node_that_is_cut_off_withholds_and_closes_and_the_others_go_on,
        || {
            cut_off(|nodes| {
                let others = others(nodes.leader("meta"));
                others.last().expect("there are three")
            });
        },
    );
}

#[test]
#[ignore = "each cut takes a minute or two"]
fn the_leader_of_meta_is_cut_off_and_the_others_go_on() {
    in_own_network(the_leader_of_meta_is_cut_off_and_the_others_go_on, || {
        cut_off(|nodes| nodes.leader("meta"));
    });
}

#[test]
#[ignore = "each cut takes a minute or two"]
fn a_node_that_hears_nobody_but_is_heard_is_done_without() {
    in_own_network(
        a_node_that_hears_nobody_but_is_heard_is_done_without,
        || {
            half_deaf(|network, node| others(node).for_each(|other| network.cut_way(other, node)));
        },
    );
}

#[test]
#[ignore = "each cut takes a minute or two"]
fn a_node_that_nobody_hears_but_hears_all_is_done_without() {
    in_own_network(
        a_node_that_nobody_hears_but_hears_all_is_done_without,
        || {
            half_deaf(|network, node| others(node).for_each(|other| network.cut_way(node, other)));
        },
    );
}

#[test]
fn without_the_link_between_two_nodes_all_goes_on_but_at_one_of_them() {
    in_own_network(
        without_the_link_between_two_nodes_all_goes_on_but_at_one_of_them,
        || lose_one_link(|network, [one, other]| network.cut(one, other)),
    );
}

#[test]
#[ignore = "each cut takes a minute or two"]
fn with_one_way_of_a_link_cut_all_goes_on_but_at_one_node() {
    in_own_network(
        with_one_way_of_a_link_cut_all_goes_on_but_at_one_node,
        || lose_one_link(|network, [one, other]| network.cut_way(one, other)),
    );
}

/// A cluster in the middle of traffic.
struct World<'a> {
    cluster: &'a Cluster,
    nodes: Nodes<'a>,
    network: Network,
    running: Running,
}

impl<'a> World<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let nodes = cluster.start();
        let network = Network::of(cluster);
        let homes = Homes::of(&cluster.mqtt());
        let running = Crowd::spread(&cluster.mqtt(), CLIENTS).run(homes, None);
        running.take(ACKS);
        Self {
            cluster,
            nodes,
            network,
            running,
        }
    }

    fn connect(&self, at: usize, id: &str, is_lasting: bool) -> Client {
        Client::connect(self.cluster.places[at].mqtt, id, is_lasting)
    }

    /// The epoch of a node, as another one knows it.
    fn epoch(&self, of: usize, seen_by: usize) -> Option<u64> {
        let status = self.nodes.status(seen_by).expect("the node answers");
        status.members[of].epoch
    }

    /// Waits while the clients go on.
    fn until(&self, what: &str, mut look: impl FnMut(&Nodes<'a>) -> bool) {
        self.running.take_until(what, || look(&self.nodes));
    }

    /// Lets everything pass again, and waits until all nodes are one cluster.
    fn heal(&mut self) {
        self.network.heal();
        let healed = Instant::now();
        let nodes = &mut self.nodes;
        self.running
            .take_until("the cluster to be whole", || nodes.is_settled());
        eprintln!("whole {:?} after healing", since(healed));
        self.running.take(ACKS);
    }

    /// Lets the clients end, starts all nodes anew, and looks at what every subscriber has.
    fn end(mut self) {
        assert_one_history(self.cluster, &mut self.nodes, self.running);
    }
}

/// {one} | {two others}, until the node has closed what it could not acknowledge.
fn cut_off(chosen: impl Fn(&Nodes<'_>) -> usize) {
    let cluster = Cluster::apart(DEFAULTS);
    let mut world = World::new(&cluster);
    let cut = chosen(&world.nodes);
    let [near, far] = pair(cut);
    let mut listener = world.connect(cut, "listener", false);
    listener.subscribe("zero", 0);
    let mut talker = world.connect(cut, "talker", false);
    let mut witness = world.connect(near, "witness", true);
    witness.subscribe("probe", 2);
    let in_vain = [1, 2].map(|qos| (qos, world.connect(cut, &format!("vain{qos}"), true)));
    let epochs = [cut, near, far].map(|of| world.epoch(of, near));

    world.network.cut_off(cut);
    let start = Instant::now();
    let mut said = 0;
    let mut chat = |is_last: bool| {
        said += 1;
        talker.publish("zero", 0, &said.to_string());
        assert_eq!(listener.next().payload, said.to_string(), "{is_last}");
    };
    // The status is half a second old at most; what it says of the lease is true from then on.
    world.until("the lease to end", |nodes| {
        chat(false);
        !nodes.status(cut).expect("the node answers").has_lease
    });
    eprintln!("no lease {:?} after the cut", since(start));
    let (tell, told) = sync_channel(in_vain.len());
    for (qos, publisher) in in_vain {
        let tell = tell.clone();
        thread::spawn(move || {
            let reason = publisher.publish_in_vain("probe", qos, "vain");
            tell.send(reason).expect("the test waits");
        });
    }
    world.until("the others to lead", |nodes| nodes.is_led_without(cut));
    eprintln!("led by the others {:?} after the cut", since(start));
    world.running.take(ACKS);
    let mut publisher = world.connect(far, "publisher", false);
    for qos in [1, 2] {
        publisher.publish("probe", qos, &qos.to_string());
        let message = witness.next();
        assert_eq!((message.qos, message.payload), (qos, qos.to_string()));
    }
    eprintln!("the others have published {:?} after the cut", since(start));
    world.until("the others to end its epoch", |nodes| {
        let status = nodes.status(near).expect("the node answers");
        status.members[cut].epoch.is_none()
    });
    eprintln!("its epoch is ended {:?} after the cut", since(start));
    chat(false);
    for _ in [1, 2] {
        world.until("a connection to be closed", |_| match told.try_recv() {
            Ok(reason) => {
                assert_eq!(reason, SERVER_BUSY);
                eprintln!("closed {:?} after the cut", since(start));
                true
            }
            Err(_) => false,
        });
    }
    chat(true);

    world.heal();
    listener.await_end();
    talker.await_end();
    for node in world.nodes.all() {
        let log = node.log();
        let repeated = log.lines().filter(|line| line.contains("RPCError"));
        assert_eq!(repeated.count(), 0, "that a peer is gone is said once");
    }
    let now = [cut, near, far].map(|of| world.epoch(of, near));
    assert!(now[0] > epochs[0], "{now:?} after {epochs:?}");
    assert_eq!(now[1..], epochs[1..], "the others went on");
    publisher.publish("probe", 2, "healed");
    assert_eq!(witness.next().payload, "healed", "and nothing in vain");
    drop((publisher, witness));
    world.end();
}

/// A node of which one way is cut, until the others lead without it.
fn half_deaf(cut: impl Fn(&Network, usize)) {
    let cluster = Cluster::apart(DEFAULTS);
    let mut world = World::new(&cluster);
    let node = world.nodes.leader("meta");
    cut(&world.network, node);
    let start = Instant::now();
    world.until("the others to lead", |nodes| nodes.is_led_without(node));
    eprintln!("led by the others {:?} after the cut", since(start));
    let [near, _] = pair(node);
    world.until("the others to end its epoch", |nodes| {
        let status = nodes.status(near).expect("the node answers");
        status.members[node].epoch.is_none()
    });
    eprintln!("its epoch is ended {:?} after the cut", since(start));
    world.running.take(ACKS);
    world.heal();
    world.end();
}

/// One link of three is cut, until all goes on at two nodes and has for a while.
fn lose_one_link(cut: impl Fn(&Network, [usize; 2])) {
    let cluster = Cluster::apart(DEFAULTS);
    let mut world = World::new(&cluster);
    // Of whom one leads meta: the harder case.
    let leader = world.nodes.leader("meta");
    let [other, between] = pair(leader);
    // In many shards, wherever those are led.
    for number in 0..KEPT {
        let mut kept = world.connect(number % NODES, &format!("kept{number}"), true);
        kept.subscribe("probes", 1);
        kept.disconnect();
    }
    let probers: Vec<Prober> = (0..NODES)
        .map(|at| Prober::start(at, cluster.places[at].mqtt))
        .collect();
    world.until("the probers to begin", |_| {
        probers.iter().all(|prober| prober.count_since(None) > 0)
    });
    cut(&world.network, [leader, other]);
    let start = Instant::now();
    let mut loser = None;
    world.until("an epoch to end", |nodes| {
        let status = nodes.status(between).expect("the node answers");
        loser = (0..NODES).find(|at| status.members[*at].epoch.is_none());
        loser.is_some()
    });
    let loser = loser.expect("it was waited for");
    assert_ne!(loser, between, "who hears both goes on");
    eprintln!(
        "the epoch of node {} is ended {:?} after the cut",
        loser + 1,
        since(start)
    );
    let ended = Instant::now();
    let going_on = || {
        let mut others = others(loser).map(|at| &probers[at]);
        others.all(|prober| prober.count_since(Some(ended)) >= PROBES)
    };
    world.until("all to go on at the others", |_| going_on());
    for (at, prober) in probers.into_iter().enumerate() {
        eprintln!("node {}: {}", at + 1, prober.stop(start));
    }
    world.heal();
    world.end();
}

/// The two other nodes.
fn pair(node: usize) -> [usize; 2] {
    let mut others = others(node);
    [(); 2].map(|()| others.next().expect("there are three"))
}
