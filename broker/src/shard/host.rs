//! The host of one shard on one node: it numbers what the node asks of the shard and brings it to
//! whoever leads, tells who waits what was answered, and, where the shard is led here, brings
//! commands of all nodes into the log and carries out what the applied entries ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cluster::ShardMachine;
use cluster::link::Responder;
use cluster::raft::Group;
use cluster_core::{
    BootMs, ClockReading, EpochView, Memberships, NodeEpoch, ShardId, Sighting, WallMs, WillKey,
};
use mqtt::{ClientId, ReasonCode};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use runtime::{Clock, ractor};
use session::{Command, ConnectionId, MembershipRow, Open};
use tokio::sync::oneshot;

use super::answers::Answers;
use super::backlog::Backlog;
use super::lead::{Lead, Requests, Restating, Wired};
use super::questions::{Answered, Question, Questions};
use super::standstill::Standstill;
use super::stream::{Carried, Item, Reply, Stream};
use super::uplink::Uplink;
use super::{Leading, Seat, ShardItem, ShardMessage, Shards};
use crate::environment::{Fatal, OnFatal};
use crate::ids::Place;
use crate::io::{IoMessage, ShardEvent, Threads};
use crate::memory::Plan;
use crate::peers::{Given, Peers, Posted};
use crate::routes::RoutesMessage;

/// How long acknowledged sequences may wait for something else to go into the log with (SEMANTICS,
/// Sessions).
const ACKS_WAIT: Duration = Duration::from_millis(50);

/// The host of one shard.
pub(crate) struct ShardHost {
    pub(crate) shard: u16,
    /// The replica on this node, if it has one from the start.
    pub(crate) group: Option<Group<ShardMachine>>,
    /// The epoch of this run of the node.
    pub(crate) epoch: NodeEpoch,
    /// The epochs that are current as it begins.
    pub(crate) epochs: EpochView,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) threads: Threads,
    pub(crate) shards: Shards,
    pub(crate) peers: Peers,
    pub(crate) routes: Arc<OnceLock<ActorRef<RoutesMessage>>>,
    /// Says how many payloads may wait in memory for a flush before nothing more is proposed; and what
    /// may wait to be proposed while the log takes nothing.
    pub(crate) memory: Plan,
    pub(crate) on_fatal: OnFatal,
}

/// What a host holds.
pub(crate) struct Hosted {
    pub(super) me: ActorRef<ShardMessage>,
    /// The replica on this node.
    pub(super) replica: Option<Group<ShardMachine>>,
    pub(super) leading: Leading,
    /// While the shard is led here.
    pub(super) lead: Option<Lead>,
    pub(super) leads: u64,
    /// The epochs that are current, as meta says.
    pub(super) epochs: EpochView,
    pub(super) stream: Stream,
    pub(super) uplink: Uplink,
    /// Of other nodes.
    pub(super) requests: Requests,
    /// Of other nodes, which wait until memberships are with their homes.
    pub(super) asked_seated: Vec<(Vec<u64>, Responder)>,
    /// This node has asked so.
    pub(super) asks_seated: bool,
    /// Questions for retained messages while the shard is not led here.
    pub(super) questions: Questions,
    /// The next tick asks them again.
    pub(super) asks_retained_later: bool,
    pub(super) backlog: Backlog,
    pub(super) answers: Answers,
    /// It outlives leaderships: what another leader brought to its end is handed in no more.
    pub(super) memberships: Memberships<MembershipRow>,
    pub(super) out: Vec<Vec<ShardEvent>>,
    letters: BTreeMap<NodeEpoch, Vec<Posted>>,
    /// Nodes for which nothing more is handed out until their streams have room.
    pub(super) full: BTreeSet<NodeEpoch>,
    /// [`ShardMessage::AcksDue`] is on its way.
    acks_are_timed: bool,
    pub(super) standstill: Standstill,
    /// Are told once nothing is under way.
    draining: Vec<oneshot::Sender<()>>,
}

impl Actor for ShardHost {
    type Msg = ShardMessage;
    type State = Hosted;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        if self.seat().host.set(me.clone()).is_err() {
            return Err("a shard's host starts once: its state cannot be made again".into());
        }
        let mut hosted = Hosted {
            me: me.clone(),
            replica: None,
            leading: Leading::Nobody,
            lead: None,
            leads: 0,
            epochs: self.epochs.clone(),
            stream: Stream::new(),
            uplink: Uplink::new(me.clone()),
            requests: Requests::default(),
            asked_seated: Vec::new(),
            asks_seated: false,
            questions: Questions::new(self.shards.len()),
            asks_retained_later: false,
            backlog: Backlog::new(self.memory.unflushed(0, 0)),
            answers: Answers::default(),
            memberships: Memberships::default(),
            out: std::iter::repeat_with(Vec::new)
                .take(self.threads.len())
                .collect(),
            letters: BTreeMap::new(),
            full: BTreeSet::new(),
            acks_are_timed: false,
            standstill: Standstill::new(self.boot()),
            draining: Vec::new(),
        };
        self.replica(&mut hosted, self.group.clone());
        me.cast(ShardMessage::Tick)?;
        Ok(hosted)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        hosted: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ShardMessage::Batch(items) => {
                items.into_iter().for_each(|item| self.take(hosted, item));
            }
            ShardMessage::Landed {
                lead,
                batch,
                items,
                result,
            } => self.landed(hosted, (lead, batch), items, result),
            ShardMessage::Landing { flight, reply } => self.landing(hosted, &flight, reply),
            ShardMessage::SendAgain => hosted.uplink.go_on(),
            ShardMessage::Asked { request, responder } => self.asked(hosted, request, responder),
            ShardMessage::Replica(replica) => self.replica(hosted, replica),
            ShardMessage::Leading(leading) => self.led(hosted, leading),
            ShardMessage::Epochs(epochs) => self.epochs(hosted, epochs),
            ShardMessage::RoutesAnswered(answer) => self.routes_answered(hosted, answer),
            ShardMessage::RoutesVisible(version) => {
                hosted.answers.handle_visible(version);
                self.let_go(hosted);
            }
            ShardMessage::RoutesRestated(is_done) => {
                if let Some(lead) = &mut hosted.lead {
                    lead.restating = Restating::after(is_done);
                }
            }
            ShardMessage::Seated(version) => {
                hosted.memberships.handle_seated(version);
                self.let_go(hosted);
            }
            ShardMessage::SeatedThere(versions) => {
                hosted.asks_seated = false;
                hosted.answers.handle_seated(versions);
                self.let_go(hosted);
            }
            ShardMessage::RetainedCame(number, reply) => self.retained_came(hosted, number, reply),
            ShardMessage::Word { lead, is_led } => self.word(hosted, lead, is_led),
            ShardMessage::Loaded(messages) => hosted.loaded(messages),
            ShardMessage::LoadAgain(ids) => self.load(hosted, ids),
            ShardMessage::Room(to) => self.may_have_room(hosted, to),
            // What waited for room is proposed below.
            ShardMessage::Flushed => {}
            ShardMessage::AcksDue => {
                hosted.acks_are_timed = false;
                hosted.stream.release_acks();
            }
            ShardMessage::Look(look) => self.look(hosted, look),
            ShardMessage::Drain(done) => {
                hosted.stream.release_acks();
                hosted.draining.push(done);
            }
            ShardMessage::Tick => self.tick(hosted),
        }
        self.carry_out(hosted);
        self.drain(hosted);
        self.drain_memberships(hosted);
        self.forward(hosted);
        self.ask_word(hosted);
        self.propose(hosted);
        self.tell_backlog(hosted);
        self.flush(hosted).await;
        if hosted.is_idle() {
            for done in hosted.draining.drain(..) {
                if done.send(()).is_err() {
                    tracing::debug!("the stop waits no longer");
                }
            }
        }
        Ok(())
    }
}

impl ShardHost {
    pub(super) fn seat(&self) -> &Seat {
        &self.shards.seats[usize::from(self.shard)]
    }

    pub(super) fn boot(&self) -> BootMs {
        BootMs(self.clock.mono_ms())
    }

    pub(super) fn reading(&self) -> ClockReading {
        ClockReading {
            boot: self.boot(),
            wall: WallMs(self.clock.wall_ms()),
            is_synchronised: self.clock.is_synchronised(),
            // A lone node has no peers to compare with.
            apart_ms: None,
        }
    }

    /// The replica of this node is this one from now on.
    fn replica(&self, hosted: &mut Hosted, replica: Option<Group<ShardMachine>>) {
        if let Some(group) = &replica {
            let told = hosted.me.clone();
            group.with(|machine| {
                machine.on_flushed(move || {
                    if told.cast(ShardMessage::Flushed).is_err() {
                        tracing::debug!("flushed after the shard's host has ended");
                    }
                });
            });
        }
        hosted.replica = replica;
    }

    fn take(&self, hosted: &mut Hosted, item: ShardItem) {
        let mut taken = None;
        let (command, reply) = match item {
            ShardItem::Propose {
                connection,
                token,
                command,
            } => (*command, Reply::Answer(connection, token)),
            ShardItem::Open {
                connection,
                command,
                sighting,
            } => {
                let client = command.client.clone();
                let open = hosted.expecting(*command);
                tracing::debug!(
                    shard = self.shard,
                    client = client.as_str(),
                    ?connection,
                    expected = ?open.expected_epoch,
                    "to be opened"
                );
                if !self.may_replace(hosted, &open, sighting.as_deref()) {
                    return hosted.refuse_open(connection, client);
                }
                (
                    Command::Open(Box::new(open)),
                    Reply::Opened(connection, client),
                )
            }
            ShardItem::Member(membership) => {
                let reply = Reply::Member(membership.source, membership.version);
                (Command::Membership(membership), reply)
            }
            ShardItem::Oblige {
                owed,
                command,
                room,
            } => match *command {
                Command::Ack(acks) if owed.is_none() => {
                    return released_in_time(hosted, |stream| stream.push_acks(acks));
                }
                Command::GroupAck(acks) if owed.is_none() => {
                    return released_in_time(hosted, |stream| stream.push_group_acks(acks));
                }
                command => {
                    taken = room;
                    (command, owed.map_or(Reply::Nobody, Reply::Owed))
                }
            },
            ShardItem::RetainQoS0 { retain, bytes } => {
                self.give_qos0_room(bytes);
                if hosted.lead.is_none() {
                    return hosted.uplink.pass_retain(*retain);
                }
                (Command::Retain(*retain), Reply::Nobody)
            }
            ShardItem::QoS0(message) => {
                self.give_qos0_room(message.bytes() as u64);
                if hosted.lead.is_none() {
                    return hosted.uplink.pass(message);
                }
                return self.deliver_qos0(hosted, &message);
            }
            ShardItem::WillPublished(id) => {
                if let Some(lead) = &mut hosted.lead {
                    lead.drain.handle_will_published(WillKey(id.0));
                }
                return;
            }
            ShardItem::Retained {
                connection,
                token,
                wanted,
                limit,
            } => {
                let question = Question {
                    connection,
                    token,
                    wanted,
                    limit,
                };
                return self.read_retained(hosted, question);
            }
        };
        let command = Carried::new(command, taken);
        hosted.stream.push(Item { command, reply });
    }

    /// Whether a connection may replace the ownership that it expects (`docs/adr/009`). Those of this
    /// node are in order, which the shard itself looks at.
    fn may_replace(&self, hosted: &Hosted, open: &Open, sighting: Option<&Sighting>) -> bool {
        let Some(sighting) = sighting else {
            return true;
        };
        let expected = open.expected_epoch.map(|epoch| epoch.0);
        let owner = |group: &Group<ShardMachine>| {
            group.with(|machine| machine.durable().owner_node(&open.client))
        };
        let is_ours = || hosted.replica.as_ref().and_then(owner).map(|epoch| epoch.0);
        sighting.may_replace(ShardId(self.shard), expected) || is_ours() == Some(self.epoch.0)
    }

    fn give_qos0_room(&self, bytes: u64) {
        self.seat().qos0_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Has a question for retained messages wait for the word that this node leads, or for who does.
    pub(super) fn read_retained(&self, hosted: &mut Hosted, question: Question) {
        let refused = match &mut hosted.lead {
            Some(lead) => lead.reads.push(question),
            None => hosted.questions.push(question),
        };
        if let Some(answered) = refused {
            tracing::warn!(
                shard = self.shard,
                "too many wait for retained messages: a subscription gets none"
            );
            hosted.retained(answered);
        }
    }

    fn tick(&self, hosted: &mut Hosted) {
        hosted.standstill.handle_tick(self.boot());
        hosted.asks_retained_later = false;
        self.look_for_room(hosted);
        if let (None, Leading::At(leader)) = (&hosted.lead, hosted.leading) {
            self.ask_seated(hosted, leader);
        }
        if let Some(lead) = &mut hosted.lead {
            lead.reads.handle_tick();
            self.look_for_due(lead);
            self.restate_routes(lead);
        }
        if let Some(group) = &hosted.replica {
            let counted = group.with(|machine| {
                let durable = machine.durable();
                (durable.counters(), durable.sessions())
            });
            self.seat().counters.store(Arc::new(counted));
        }
    }

    /// Brings what this node asks to whoever leads.
    fn forward(&self, hosted: &mut Hosted) {
        let now = self.boot();
        if let Some(lead) = &mut hosted.lead {
            let is_open = |id| self.threads.is_open(id);
            while let Some(sent) = hosted.stream.poll_sent(is_open) {
                lead.handle_item(Wired::Sent(sent), now);
            }
        } else if let Leading::At(leader) = hosted.leading {
            self.send_up(hosted, leader);
            self.ask_retained(hosted, leader);
        }
    }

    /// Tells the io threads whether more may come.
    fn tell_backlog(&self, hosted: &mut Hosted) {
        let (is_idle, bytes) = (hosted.stream.is_idle(), hosted.stream.held_bytes());
        let blocked = hosted.backlog.blocked(is_idle, bytes, self.boot());
        let seat = self.seat();
        if blocked.is_full && !seat.is_full.load(Ordering::Relaxed) {
            tracing::warn!(
                shard = self.shard,
                bytes,
                "the log of a shard takes nothing: messages for its sessions are withheld"
            );
        }
        seat.is_stuck.store(blocked.is_stuck, Ordering::Relaxed);
        seat.is_full.store(blocked.is_full, Ordering::Relaxed);
        seat.held_bytes.store(bytes, Ordering::Relaxed);
        let withdrawn = hosted.stream.withdrawn();
        seat.withdrawn.store(withdrawn, Ordering::Relaxed);
        let excused = match blocked.is_stuck {
            true => hosted.stream.unanswered_bytes(),
            false => 0,
        };
        let before = seat.excused_bytes.swap(excused, Ordering::Relaxed);
        self.shards.under_way().excuse(before, excused);
    }

    /// Meta ended the epoch of a process that still runs: nothing of it counts any more.
    pub(super) fn epoch_ended(&self) {
        (self.on_fatal)(Fatal::EpochEnded(self.epoch));
    }

    async fn flush(&self, hosted: &mut Hosted) {
        for (thread, events) in hosted.out.iter_mut().enumerate() {
            if !events.is_empty() {
                self.threads
                    .send(thread, IoMessage::Shard(std::mem::take(events)))
                    .await;
            }
        }
        for (to, letters) in std::mem::take(&mut hosted.letters) {
            // What an ended epoch's connections do not get, their successors do.
            if let Given::Unknown(letters) = self.peers.post(to, letters) {
                hosted.letters.insert(to, letters);
            }
        }
    }
}

impl Hosted {
    /// Puts a letter on its way to another node.
    pub(super) fn post(&mut self, to: NodeEpoch, posted: Posted) {
        self.letters.entry(to).or_default().push(posted);
    }

    /// Fills in which ownership the `Open` replaces, as this replica knows it. The shell of the
    /// connection asks again, naming the ownership that it was told, while its socket is open.
    fn expecting(&self, mut open: Open) -> Open {
        if let (None, Some(group)) = (open.expected_epoch, &self.replica) {
            open.expected_epoch = group.with(|machine| machine.durable().epoch(&open.client));
        }
        open
    }

    /// The session has an owner that was not known here when the connection was accepted
    /// (`docs/adr/009`): the client is to come again.
    fn refuse_open(&mut self, connection: ConnectionId, client: ClientId) {
        let event = ShardEvent::Opened {
            connection,
            client,
            answer: session::Answer::Refused(ReasonCode::ServerUnavailable),
        };
        self.out[Place::of(connection).thread].push(event);
    }

    pub(super) fn retained(&mut self, answered: Answered) {
        let Answered {
            connection,
            token,
            rows,
        } = answered;
        let event = ShardEvent::Retained {
            connection,
            token,
            rows,
        };
        self.out[Place::of(connection).thread].push(event);
    }

    fn is_idle(&self) -> bool {
        self.stream.is_idle() && self.lead.as_ref().is_none_or(Lead::is_idle)
    }
}

/// Has acknowledgements that wait released in time.
fn released_in_time(hosted: &mut Hosted, waits: impl FnOnce(&mut Stream) -> bool) {
    if waits(&mut hosted.stream) && !hosted.acks_are_timed {
        hosted.acks_are_timed = true;
        // Its end is the timer's: nobody waits for it.
        drop(hosted.me.send_after(ACKS_WAIT, || ShardMessage::AcksDue));
    }
}
