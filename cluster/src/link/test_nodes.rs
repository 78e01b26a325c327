//! Nodes that have links and nothing else.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use cluster_core::{FeatureLevel, FolderId, NodeId, StartCount};
use runtime::{Clock, Random};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;

/// How long a condition may take to come true, in the test's time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells tokio's time, which a test may have paused.
pub(super) struct TokioClock(Instant);

impl TokioClock {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for TokioClock {
    fn wall_ms(&self) -> u64 {
        self.mono_ms()
    }

    fn mono_ms(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }
}

/// What a node does with requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Serve {
    /// Answers with what was asked.
    Echo,
    /// Answers so, and remembers nothing.
    Forget,
    /// Keeps them.
    Hold,
    /// Drops them.
    Drop,
    /// Panics.
    Panic,
}

pub(super) struct Recorder {
    serve: Mutex<Serve>,
    pub(super) asked: Mutex<Vec<(Lane, Bytes)>>,
    pub(super) held: Mutex<Vec<Incoming>>,
    pub(super) events: Mutex<Vec<Event>>,
    pub(super) streams: Mutex<Vec<LinkStream>>,
}

impl Service for Recorder {
    fn handle_request(&self, request: Incoming) {
        let payload = request.payload.clone();
        let serve = *self.serve.lock().unwrap();
        if serve != Serve::Forget {
            self.asked().push((request.lane, payload.clone()));
        }
        match serve {
            Serve::Echo | Serve::Forget => request.responder.reply(payload),
            Serve::Hold => self.held.lock().unwrap().push(request),
            Serve::Drop => {}
            Serve::Panic => panic!("a service of a test panics"),
        }
    }

    fn handle_stream(&self, _: NodeId, stream: LinkStream) {
        self.streams.lock().unwrap().push(stream);
    }

    fn handle_event(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

impl Recorder {
    pub(super) fn asked(&self) -> MutexGuard<'_, Vec<(Lane, Bytes)>> {
        self.asked.lock().unwrap()
    }

    pub(super) fn serve(&self, serve: Serve) {
        *self.serve.lock().unwrap() = serve;
    }

    /// Whether something of this kind happened.
    pub(super) fn saw(&self, kind: impl Fn(&Event) -> bool) -> bool {
        self.events.lock().unwrap().iter().any(kind)
    }

    /// Refusals, each with whether this node dialed and whether it refused.
    pub(super) fn refusals(&self) -> Vec<(bool, bool, Refusal)> {
        let events = self.events.lock().unwrap();
        let refusal = |event: &Event| match event {
            Event::Refused {
                dialed,
                here,
                refusal,
                ..
            } => Some((*dialed, *here, *refusal)),
            _ => None,
        };
        events.iter().filter_map(refusal).collect()
    }
}

pub(super) struct Node {
    pub(super) links: Links,
    pub(super) service: Arc<Recorder>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Broken>>,
}

pub(super) fn identity(node: u32) -> NodeIdentity {
    NodeIdentity {
        cluster: ClusterId(0xc1),
        node: NodeId(node),
        folder: FolderId(0xf00 + u128::from(node)),
        start: StartCount(1),
        level: FeatureLevel(1),
        understood: FeatureLevel(1),
    }
}

/// Where node `node` listens in memory.
pub(super) fn address(node: u32) -> String {
    format!("node-{node}")
}

/// Starts a node that knows nobody.
pub(super) async fn start_with<N: Net>(
    net: N,
    listen: &str,
    identity: NodeIdentity,
    config: LinkConfig,
) -> Node {
    let service = Arc::new(Recorder {
        serve: Mutex::new(Serve::Echo),
        asked: Mutex::default(),
        held: Mutex::default(),
        events: Mutex::default(),
        streams: Mutex::default(),
    });
    let parts = LinkParts {
        config,
        identity,
        clock: Arc::new(TokioClock::new()),
        random: Random::seeded(u64::from(identity.node.0)),
        service: Arc::clone(&service) as Arc<dyn Service>,
    };
    let (links, run) = Links::bind(net, listen, parts)
        .await
        .expect("a free address");
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(run.run(async {
        let _ = stopped.await;
    }));
    Node {
        links,
        service,
        stop: Some(stop),
        task,
    }
}

/// Starts a node in memory that knows nobody.
pub(super) async fn start(hub: &MemoryHub, identity: NodeIdentity) -> Node {
    let own = address(identity.node.0);
    start_with(hub.at(&own), &own, identity, LinkConfig::default()).await
}

/// Two nodes that have connected every lane, both ways.
pub(super) async fn two(hub: &MemoryHub) -> (Node, Node) {
    let one = start(hub, identity(1)).await;
    let two = start(hub, identity(2)).await;
    one.links.set_peer(NodeId(2), &address(2));
    two.links.set_peer(NodeId(1), &address(1));
    until(|| one.is_linked(2) && two.is_linked(1)).await;
    (one, two)
}

impl Node {
    pub(super) fn peer(&self, node: u32) -> Peer {
        self.links.peer(NodeId(node)).expect("a peer that was set")
    }

    /// Whether every lane is connected, both ways.
    pub(super) fn is_linked(&self, node: u32) -> bool {
        let lanes = self.peer(node).status().lanes;
        lanes.iter().all(|lane| lane.dialed && lane.accepted)
    }

    pub(super) fn violations(&self) -> u64 {
        self.links.counters().violations_total.get()
    }

    pub(super) async fn ask(
        &self,
        node: u32,
        lane: Lane,
        payload: &[u8],
    ) -> Result<Bytes, RequestError> {
        self.peer(node).request(lane, ask(payload)).await
    }

    pub(super) async fn stop(mut self) {
        drop(self.stop.take());
        self.task.await.expect("no panic").expect("no panic");
    }

    /// Ends the node as a crash does: nothing is told.
    pub(super) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A request whose reply may be as long as itself.
pub(super) fn ask(payload: &[u8]) -> Ask {
    Ask {
        channel: Channel { kind: 1, group: 2 },
        payload: Bytes::copy_from_slice(payload),
        reply_bytes_max: payload.len() as u32,
        deadline: Duration::from_secs(2),
    }
}

/// Waits for a condition.
pub(super) async fn until(mut condition: impl FnMut() -> bool) {
    within(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(super) async fn within<T>(patience: Duration, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(patience, future).await;
    outcome.unwrap_or_else(|_| panic!("not within {patience:?}"))
}
