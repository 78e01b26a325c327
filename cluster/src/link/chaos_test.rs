//! Three nodes under seeded faults: what is asked arrives at most once and in order, what is
//! answered is what was asked, and once the faults are over everything is linked again.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cluster_core::{NodeId, StartCount};
use runtime::Random;

use super::test_nodes::*;
use super::*;

const NODES: u32 = 3;
const STEPS: u32 = 400;
/// How long a step is, in milliseconds.
const STEP_MS: u64 = 50;
/// A connection attempt that hangs, the longest pause, a handshake; and silence before that.
const HEALED_WITHIN: Duration = Duration::from_secs(10);

struct Cluster {
    hub: MemoryHub,
    nodes: Vec<Option<Node>>,
    starts: Vec<u64>,
    asked: u64,
    answered: u64,
    served: Vec<(NodeId, Lane, Bytes)>,
}

#[tokio::test(start_paused = true)]
async fn faults_neither_repeat_nor_reorder_nor_change_what_is_asked() {
    let (mut asked, mut answered) = (0, 0);
    for seed in 0..20 {
        println!("seed {seed}");
        let cluster = run(seed).await;
        asked += cluster.asked;
        answered += cluster.answered;
    }
    assert!(answered > 5_000, "{answered} of {asked}");
    assert!(answered < asked, "the faults hit nothing");
}

async fn run(seed: u64) -> Cluster {
    let mut random = Random::seeded(seed);
    let mut cluster = Cluster {
        hub: MemoryHub::default(),
        nodes: Vec::new(),
        starts: vec![0; NODES as usize],
        asked: 0,
        answered: 0,
        served: Vec::new(),
    };
    cluster.nodes.resize_with(NODES as usize, || None);
    for node in 1..=NODES {
        cluster.start(node).await;
    }
    for step in 0..STEPS {
        cluster.fault(&mut random).await;
        let pending = cluster.ask_all(step, &mut random);
        tokio::time::sleep(Duration::from_millis(random.below(STEP_MS))).await;
        cluster.hear(pending).await;
    }
    cluster.heal().await;
    cluster.check();
    cluster
}

impl Cluster {
    async fn start(&mut self, node: u32) {
        let place = node as usize - 1;
        self.starts[place] += 1;
        let mut of = identity(node);
        of.start = StartCount(self.starts[place]);
        let started = start(&self.hub, of).await;
        for other in (1..=NODES).filter(|other| *other != node) {
            started.links.set_peer(NodeId(other), &address(other));
        }
        self.nodes[place] = Some(started);
    }

    async fn fault(&mut self, random: &mut Random) {
        let one = 1 + random.below(u64::from(NODES)) as u32;
        let other = 1 + (one + random.below(u64::from(NODES) - 1) as u32) % NODES;
        let faults = match random.below(40) {
            0 => Faults {
                cut: true,
                ..Faults::default()
            },
            1 => Faults {
                delay: Duration::from_millis(random.below(300)),
                ..Faults::default()
            },
            2 => Faults {
                garbled_every: Some(500 + random.below(5_000)),
                ..Faults::default()
            },
            3..=8 => Faults::default(),
            9 => return self.hub.reset(&address(one), &address(other)),
            10 => {
                let place = one as usize - 1;
                let node = self.nodes[place].take().expect("runs between two steps");
                self.take_served(&node, one);
                if random.below(2) == 0 {
                    node.stop().await;
                } else {
                    node.kill().await;
                }
                return self.start(one).await;
            }
            _ => return,
        };
        self.hub.set_faults(&address(one), &address(other), faults);
    }

    /// Each node asks each other on some lane; what is asked says who asked the how-manieth time.
    fn ask_all(&mut self, step: u32, random: &mut Random) -> Vec<(Bytes, PendingReply)> {
        let mut pending = Vec::new();
        for (place, node) in self.nodes.iter().enumerate() {
            let node = node.as_ref().expect("runs between two steps");
            let start = self.starts[place];
            for other in (1..=NODES).filter(|other| *other as usize != place + 1) {
                for count in 0..3 {
                    let lane = Lane::FRAMED[random.below(3) as usize];
                    let long = random.below(200) as usize;
                    let said = format!("{place} {start:04} {step:04} {count} {}", "x".repeat(long));
                    self.asked += 1;
                    let request = ask(said.as_bytes());
                    if let Ok(reply) = node.peer(other).send(lane, request) {
                        pending.push((said.into(), reply));
                    }
                }
            }
        }
        pending
    }

    async fn hear(&mut self, pending: Vec<(Bytes, PendingReply)>) {
        for (said, reply) in pending {
            // Who does not answer within this step is not waited for.
            let patience = Duration::from_millis(5);
            if let Ok(Ok(reply)) = tokio::time::timeout(patience, reply.wait()).await {
                assert_eq!(reply, said);
                self.answered += 1;
            }
        }
    }

    async fn heal(&mut self) {
        for one in 1..=NODES {
            for other in (1..=NODES).filter(|other| *other != one) {
                let good = Faults::default();
                self.hub.set_faults(&address(one), &address(other), good);
            }
        }
        let pairs = || {
            let ones = 1..=NODES;
            ones.flat_map(|one| (1..=NODES).map(move |other| (one, other)))
                .filter(|(one, other)| one != other)
        };
        within(HEALED_WITHIN, async {
            for (one, other) in pairs() {
                let node = self.nodes[one as usize - 1].as_ref().expect("runs");
                for lane in Lane::FRAMED {
                    // What went into a cut may still be on its way when the first one is asked.
                    while node.ask(other, lane, b"healed").await.is_err() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        })
        .await;
        for one in 1..=NODES {
            let node = self.nodes[one as usize - 1].take().expect("runs");
            for (_, other) in pairs().filter(|(of, _)| *of == one) {
                let status = node.peer(other).status();
                assert!(status.lanes.iter().all(|lane| lane.queue_bytes < 1 << 20));
            }
            self.take_served(&node, one);
            node.stop().await;
        }
    }

    fn take_served(&mut self, node: &Node, own: u32) {
        let served = std::mem::take(&mut *node.service.asked());
        let served = served.into_iter();
        let of = |(lane, said): (Lane, Bytes)| (NodeId(own), lane, said);
        self.served.extend(served.map(of));
    }

    fn check(&self) {
        let mut last = BTreeMap::new();
        for (node, lane, said) in &self.served {
            if said == "healed" {
                continue;
            }
            let words = std::str::from_utf8(said).expect("as it was said");
            let (from, count) = (&words[..1], &words[2..13]);
            let before = last.insert((*node, *lane, from), count);
            assert!(before < Some(count), "{before:?} before {count}");
        }
    }
}
