//! What an io thread owes others, gathered over a round of its connections into batches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bridge::{Batch, Ingest, Outcome, OutletId, PortId, Refused};
use cluster_core::NodeEpoch;
use ractor::ActorRef;
use runtime::ractor;
use session::{Acks, Command, ConnectionId, GroupSeq, Match, Message, Retain};

use super::{CrossMessage, IoMessage, Threads};
use crate::ids::{Owed, Place};
use crate::peers::{Given, Peers, Posted};
use crate::routes::{Delta, RoutesMessage};
use crate::shard::{ShardItem, ShardMessage, Shards};

/// Bytes of messages that may wait for another io thread before those of QoS 0 are dropped and
/// counted, and before all are: these are for clean sessions, whose full queue settles.
const THREAD_QOS0_BYTES_LIMIT: usize = 4 << 20;
const THREAD_BYTES_LIMIT: usize = 16 << 20;

/// Batches of one io thread on their way to everybody else.
pub(crate) struct Outbound {
    thread: usize,
    threads: Threads,
    shards: Shards,
    routes: ActorRef<RoutesMessage>,
    telemetry: Option<Telemetry>,
    to_threads: Vec<ToThread>,
    to_shards: Vec<Vec<ShardItem>>,
    acks: Vec<Vec<Acks>>,
    shared_acks: Vec<Vec<GroupSeq>>,
    peers: Peers,
    to_nodes: BTreeMap<NodeEpoch, Vec<Posted>>,
    deltas: Vec<Delta>,
    waiting: Vec<Owed>,
    /// Connections that have ended.
    ended: Vec<ConnectionId>,
    /// Bytes of telemetry that may wait behind a batch that the log refused.
    telemetry_bytes_limit: u64,
    /// Shards with something to send, so that a flush does not look at all of them.
    touched: Vec<u16>,
    dirty: bool,
}

#[derive(Default)]
struct ToThread {
    messages: Vec<CrossMessage>,
    bytes: usize,
    /// Batches that a full inbox gave back, oldest first.
    held: VecDeque<IoMessage>,
}

struct Telemetry {
    ingest: Ingest,
    port: PortId,
    outlets: Vec<Outlet>,
}

/// What is on its way into one outlet.
struct Outlet {
    id: OutletId,
    batch: Batch,
    /// What the outlet gave back; at most one, since nothing is submitted while it waits.
    held: Option<Batch>,
}

/// Hands what the line settled to its io thread.
struct Settlements {
    threads: Threads,
    thread: usize,
}

impl bridge::Port for Settlements {
    fn settled(&self, outcome: Outcome, tickets: Vec<bridge::Ticket>) {
        let owed = tickets.into_iter().map(Owed::of_ticket).collect();
        let message = match outcome {
            Outcome::Durable => IoMessage::Settled(owed),
            Outcome::NotDurable => IoMessage::Unsettled(owed),
        };
        self.threads.blocking_send(self.thread, message);
    }
}

impl Telemetry {
    fn new(ingest: Ingest, threads: &Threads, thread: usize) -> Self {
        let threads = threads.clone();
        let port = ingest.port(Arc::new(Settlements { threads, thread }));
        let outlets = ingest.outlets().map(|id| Outlet {
            id,
            batch: ingest.batch(id, port),
            held: None,
        });
        Self {
            outlets: outlets.collect(),
            port,
            ingest,
        }
    }
}

impl Outbound {
    pub(crate) fn new(
        thread: usize,
        threads: Threads,
        shards: Shards,
        peers: Peers,
        routes: ActorRef<RoutesMessage>,
        ingest: Option<Ingest>,
        telemetry_bytes_limit: u64,
    ) -> Self {
        let count = usize::from(shards.len());
        Self {
            thread,
            to_threads: std::iter::repeat_with(ToThread::default)
                .take(threads.len())
                .collect(),
            telemetry: ingest.map(|ingest| Telemetry::new(ingest, &threads, thread)),
            threads,
            to_shards: std::iter::repeat_with(Vec::new).take(count).collect(),
            acks: std::iter::repeat_with(Vec::new).take(count).collect(),
            shared_acks: std::iter::repeat_with(Vec::new).take(count).collect(),
            shards,
            routes,
            peers,
            to_nodes: BTreeMap::new(),
            deltas: Vec::new(),
            waiting: Vec::new(),
            ended: Vec::new(),
            telemetry_bytes_limit,
            touched: Vec::new(),
            dirty: false,
        }
    }

    /// Whether a tick has to flush: also what the log refused is tried again, should the word
    /// that it has room have been lost at a full inbox.
    pub(crate) fn is_waiting(&self) -> bool {
        let held = |one: &Telemetry| one.outlets.iter().any(|outlet| outlet.held.is_some());
        self.dirty || self.telemetry.as_ref().is_some_and(held)
    }

    /// Whether something waits for a flush.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Puts an item on its way to a shard.
    pub(crate) fn push_to_shard(&mut self, shard: u16, item: ShardItem) {
        self.touch(shard);
        self.to_shards[usize::from(shard)].push(item);
    }

    fn touch(&mut self, shard: u16) {
        self.dirty = true;
        let at = usize::from(shard);
        let is_untouched = self.to_shards[at].is_empty()
            && self.acks[at].is_empty()
            && self.shared_acks[at].is_empty();
        if is_untouched {
            self.touched.push(shard);
        }
    }

    /// Puts a QoS 0 message on its way to a shard; false when it was dropped.
    pub(crate) fn push_qos0_to_shard(&mut self, shard: u16, message: &Arc<Message>) -> bool {
        let admitted = self.shards.admit_qos0(shard, message.bytes() as u64);
        if admitted {
            self.push_to_shard(shard, ShardItem::QoS0(Arc::clone(message)));
        }
        admitted
    }

    /// Puts a command with a message of so many bytes on its way to a shard.
    pub(crate) fn oblige(
        &mut self,
        shard: u16,
        owed: Option<Owed>,
        command: Command,
        bytes: usize,
    ) {
        let item = ShardItem::Oblige {
            owed,
            command: Box::new(command),
            room: Some(self.shards.take_room(bytes)),
        };
        self.push_to_shard(shard, item);
    }

    /// Puts a retained message on its way to its shard; false when it was dropped, as QoS 0 can
    /// be.
    pub(crate) fn retain(&mut self, shard: u16, owed: Option<Owed>, retain: Retain) -> bool {
        let bytes = retain.message.as_ref().map_or(0, |one| one.bytes());
        if owed.is_some() {
            self.oblige(shard, owed, Command::Retain(retain), bytes);
            return true;
        }
        let bytes = bytes as u64;
        let admitted = self.shards.admit_qos0(shard, bytes);
        if admitted {
            let retain = Box::new(retain);
            self.push_to_shard(shard, ShardItem::RetainQoS0 { retain, bytes });
        }
        admitted
    }

    /// Adds acknowledged sequences to the shard's next batch of them.
    pub(crate) fn acked(&mut self, shard: u16, acks: Acks) {
        self.touch(shard);
        self.acks[usize::from(shard)].push(acks);
    }

    /// Adds an acknowledged message of a group to its home shard's next batch of them.
    pub(crate) fn shared_acked(&mut self, shard: u16, acked: GroupSeq) {
        self.touch(shard);
        self.shared_acks[usize::from(shard)].push(acked);
    }

    /// Puts a message on its way to connections of another thread; false when it was dropped.
    pub(crate) fn push_to_thread(
        &mut self,
        thread: usize,
        message: &Arc<Message>,
        targets: Vec<(ConnectionId, Match)>,
    ) -> bool {
        self.dirty = true;
        let to = &mut self.to_threads[thread];
        let limit = match message.qos {
            mqtt::QoS::AtMostOnce => THREAD_QOS0_BYTES_LIMIT,
            _ => THREAD_BYTES_LIMIT,
        };
        if to.bytes > limit {
            return false;
        }
        to.bytes += message.bytes();
        to.messages.push(CrossMessage {
            message: Arc::clone(message),
            targets,
        });
        true
    }

    /// Puts a message on its way to another node.
    pub(crate) fn push_to_node(&mut self, node: NodeEpoch, posted: Posted) {
        self.dirty = true;
        self.to_nodes.entry(node).or_default().push(posted);
    }

    /// A connection has ended. Others see that once all that it asked for is on its way.
    pub(crate) fn end(&mut self, connection: ConnectionId) {
        self.dirty = true;
        self.ended.push(connection);
    }

    /// Puts changes of the routes on their way; `owed` is settled once every reader sees them.
    pub(crate) fn reroute(&mut self, deltas: impl IntoIterator<Item = Delta>, owed: Option<Owed>) {
        self.dirty = true;
        self.deltas.extend(deltas);
        self.waiting.extend(owed);
    }

    /// Puts a telemetry message on its way into the log; `owed` is settled once it is durable.
    /// False when it was not taken: the log has no room. What is owed then stays unsettled, and
    /// its sender will send it again.
    pub(crate) fn telemetry(&mut self, message: &bridge::Message<'_>, owed: Option<Owed>) -> bool {
        let telemetry = self
            .telemetry
            .as_mut()
            .expect("a stream matched, so there is a log");
        let outlet = telemetry.ingest.outlet_of(message.stream);
        let outlet = &mut telemetry.outlets[usize::from(outlet.0)];
        let is_full = outlet.batch.bytes() >= self.telemetry_bytes_limit;
        if outlet.held.is_some() && (owed.is_none() || is_full) {
            return false;
        }
        self.dirty = true;
        outlet.batch.push(message, owed.map(Owed::ticket));
        true
    }

    /// Sends everything that can be sent now. Never waits.
    pub(crate) fn flush(&mut self) {
        self.dirty = false;
        for shard in std::mem::take(&mut self.touched) {
            let mut items = std::mem::take(&mut self.to_shards[usize::from(shard)]);
            let acks = std::mem::take(&mut self.acks[usize::from(shard)]);
            if !acks.is_empty() {
                let command = Box::new(Command::Ack(acks));
                items.push(ShardItem::Oblige {
                    owed: None,
                    command,
                    room: None,
                });
            }
            let acks = std::mem::take(&mut self.shared_acks[usize::from(shard)]);
            if !acks.is_empty() {
                let command = Box::new(Command::GroupAck(acks));
                items.push(ShardItem::Oblige {
                    owed: None,
                    command,
                    room: None,
                });
            }
            self.shards.tell(shard, ShardMessage::Batch(items));
        }
        if !self.deltas.is_empty() || !self.waiting.is_empty() {
            let deltas = std::mem::take(&mut self.deltas);
            let waiting = std::mem::take(&mut self.waiting);
            if self
                .routes
                .cast(RoutesMessage::Connections { deltas, waiting })
                .is_err()
            {
                tracing::debug!("the routes have ended: the node is stopping");
            }
        }
        for thread in 0..self.to_threads.len() {
            self.flush_thread(thread);
        }
        self.flush_telemetry();
        self.flush_nodes();
        for connection in self.ended.drain(..) {
            self.threads.open.end(connection);
        }
    }

    /// What is owed to an epoch that has ended is settled; by this thread's inbox, as all is.
    fn flush_nodes(&mut self) {
        for (node, letters) in std::mem::take(&mut self.to_nodes) {
            // What is owed to an epoch that is not known here yet stays owed: its publisher's
            // settle deadline ends that, and the publisher sends it again.
            let Given::Ended(letters) = self.peers.post(node, letters) else {
                continue;
            };
            let owed = letters.into_iter().filter_map(|one| one.owed).collect();
            let to = &mut self.to_threads[self.thread];
            to.held.push_back(IoMessage::Settled(owed));
            self.flush_thread(self.thread);
        }
    }

    fn flush_thread(&mut self, thread: usize) {
        let to = &mut self.to_threads[thread];
        if !to.messages.is_empty() {
            to.held
                .push_back(IoMessage::Messages(std::mem::take(&mut to.messages)));
        }
        while let Some(batch) = to.held.pop_front() {
            if let Some(batch) = self.threads.try_send(thread, batch) {
                to.held.push_front(batch);
                // Tried again at the next round; the thread's tick makes one if nothing else does.
                self.dirty = true;
                return;
            }
        }
        to.bytes = 0;
    }

    fn flush_telemetry(&mut self) {
        let Some(telemetry) = &mut self.telemetry else {
            return;
        };
        let Telemetry {
            ingest,
            port,
            outlets,
        } = telemetry;
        for outlet in outlets {
            let refused = flush_outlet(ingest, *port, outlet);
            let Some(Refused { reason, batch }) = refused else {
                continue;
            };
            tracing::debug!(%reason, outlet = outlet.id.0, "telemetry waits");
            let bytes = batch.bytes();
            outlet.held = Some(batch);
            let (threads, thread) = (self.threads.clone(), self.thread);
            let ready = Box::new(move || {
                // A full inbox means that the thread is about to make a round in any case.
                drop(threads.try_send(thread, IoMessage::TelemetryReady));
            });
            ingest.notify_ready(outlet.id, bytes, ready);
        }
    }
}

/// Submits what was held, then what came since; gives back what the outlet refused.
fn flush_outlet(ingest: &Ingest, port: PortId, outlet: &mut Outlet) -> Option<Refused> {
    if let Some(held) = outlet.held.take()
        && let Err(refused) = ingest.submit(held)
    {
        return Some(refused);
    }
    if outlet.batch.is_empty() {
        return None;
    }
    let batch = std::mem::replace(&mut outlet.batch, ingest.batch(outlet.id, port));
    ingest.submit(batch).err()
}

/// The io thread of a connection.
pub(crate) fn thread_of(id: ConnectionId) -> usize {
    Place::of(id).thread
}
