//! Nodes that are stopped and started one after the other, under traffic: what a node leads it hands
//! over, so that nobody has to miss it first.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::failover::print_times;
use super::history::assert_one_history;
use super::nodes::{Cluster, NODES, since};
use crate::process::sessions::DEFAULTS;
use crate::process::sessions::crowd::Crowd;
use crate::process::sessions::homes::Homes;
use crate::process::sessions::packet::{self, Connect, PUBACK, Publish, not_closing};
use crate::process::wait::pause_for;
use crate::process::wire::Wire;

/// Publishers, and as many subscribers.
const CLIENTS: usize = 9;
/// Acknowledgements before each stop.
const ACKS: usize = 300;
/// Sessions that keep what is published one by one: in many shards.
const KEPT: usize = 8;
/// Between two messages.
const PAUSE: Duration = Duration::from_millis(5);

#[test]
fn nodes_that_are_stopped_one_after_the_other_are_missed_by_nobody() {
    let cluster = Cluster::new(DEFAULTS);
    let mut nodes = cluster.start();
    let running = Crowd::spread(&cluster.mqtt(), CLIENTS).run(Homes::of(&cluster.mqtt()), None);
    for number in 0..KEPT {
        let at = cluster.places[number % NODES].mqtt;
        let mut kept = super::client::Client::connect(at, &format!("kept{number}"), true);
        kept.subscribe("rolling", 1);
        kept.disconnect();
    }
    let publishers: Vec<Paced> = (0..NODES)
        .map(|at| Paced::start(at, &cluster.mqtt()))
        .collect();
    for at in 0..NODES {
        nodes.await_order(&running);
        running.take(ACKS);
        let elections = |nodes: &super::nodes::Nodes<'_>| -> f64 {
            let others = (0..NODES).filter(|other| *other != at);
            others
                .map(|other| nodes.node(other).metric("tidewire_member_elections_total"))
                .sum()
        };
        let before = elections(&nodes);
        let led = nodes.node(at).metric("tidewire_member_leads");

        let start = Instant::now();
        let status = running.during(|| nodes.stop(at));

        assert!(status.success(), "node {}: {status}", at + 1);
        eprintln!(
            "node {} led {led} shards and stopped in {:?}",
            at + 1,
            since(start)
        );
        assert!(led > 0.0, "it has something to hand over");
        assert!(nodes.is_led_without(at), "the others lead everything");
        assert_eq!(
            elections(&nodes),
            before,
            "nobody had to stand for election"
        );
        nodes.spawn(at);
    }
    running.take_until("the cluster to be whole", || nodes.is_settled());
    for (at, publisher) in publishers.into_iter().enumerate() {
        print_times(
            &format!("PUBACK of a client of node {}", at + 1),
            publisher.stop(),
        );
    }
    assert_one_history(&cluster, &mut nodes, running);
}

/// A client that publishes one message after the other with QoS 1, and how long each was withheld.
struct Paced {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Paced {
    /// Of a node; where that ends the connection it goes on at the next one.
    fn start(at: usize, nodes: &[SocketAddr]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (ends, nodes) = (Arc::clone(&is_over), nodes.to_vec());
        let thread = thread::spawn(move || {
            let mut times = Vec::new();
            let mut sent = None;
            let mut turn = at;
            while !ends.load(Ordering::Relaxed) {
                let address = nodes[turn % nodes.len()];
                // Whatever ends a connection, the message under way goes on at the next node.
                drop(publish(at, address, &ends, &mut sent, &mut times));
                turn += 1;
            }
            times
        });
        Self { is_over, thread }
    }

    fn stop(self) -> Vec<Duration> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("it ends when it is told to")
    }
}

/// Publishes until the connection ends; `sent` is when the message under way was sent first.
fn publish(
    at: usize,
    address: SocketAddr,
    ends: &AtomicBool,
    sent: &mut Option<Instant>,
    times: &mut Vec<Duration>,
) -> io::Result<()> {
    let mut wire = Wire::open(address)?;
    let connect = Connect {
        id: &format!("paced{at}"),
        expiry_s: 0,
        receive_maximum: 10,
        will: None,
    };
    wire.send(&connect.encode())?;
    packet::session_present(&wire.read()?)?;
    while !ends.load(Ordering::Relaxed) {
        let first = *sent.get_or_insert_with(Instant::now);
        let publish = Publish {
            topic: "rolling".to_owned(),
            payload: "paced".to_owned(),
            qos: 1,
            id: 1,
            dup: false,
            retain: false,
        };
        wire.send(&publish.encode())?;
        let puback = wire.read()?;
        not_closing(&puback)?;
        assert_eq!((puback.first, packet::acknowledged(&puback)), (PUBACK, 1));
        times.push(first.elapsed());
        *sent = None;
        pause_for(PAUSE);
    }
    Ok(())
}
