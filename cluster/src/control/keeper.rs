//! The actor that keeps a session with each peer.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use cluster_core::NodeId;
use ractor::{Actor, ActorProcessingErr, ActorRef, Message, SupervisionEvent, pg};
use ractor_cluster::node::NodeServerSessionInformation as SessionInfo;
use ractor_cluster::{
    BoxRead, BoxWrite, ClusterBidiStream, NodeEventSubscription, NodeServer, NodeServerMessage,
};
use runtime::Random;
use tokio::sync::Semaphore;

use super::distributed::{GROUP, RespondentMessage, Sessions, places, spawn_answer};
use super::reconnect::Reconnect;
use super::{ANSWER_BYTES_MAX, ControlParts, ControlService};
use crate::link::LinkStream;

/// How often peers and pauses are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Longest message that is taken, in bytes: an answer and what stands around it.
const FRAME_BYTES_MAX: u64 = ANSWER_BYTES_MAX as u64 + 4_096;

/// Runs the node server and the respondent as its children, and has a session opened with every peer
/// of a higher number. When one of the two ends it ends too, and all three are started again.
pub(super) struct Keeper {
    pub(super) parts: Arc<ControlParts>,
    pub(super) seat: Arc<ArcSwapOption<ActorRef<KeeperMessage>>>,
    pub(super) sessions: Arc<Sessions>,
}

pub(super) enum KeeperMessage {
    /// Looks at peers and pauses.
    Tick,
    /// A peer has opened a stream.
    Accepted(NodeId, LinkStream),
    /// What became of the stream that was to be opened.
    Dialed(NodeId, Result<LinkStream, String>),
    /// A session with who says that it is this node can be used.
    Ready(SessionInfo),
    /// A session ended.
    Ended(SessionInfo),
}

impl Message for KeeperMessage {}

pub(super) struct State {
    server: ActorRef<NodeServerMessage>,
    reconnect: Reconnect,
}

impl Keeper {
    fn name(&self, node: NodeId) -> String {
        format!("{}@{:032x}", label(node), self.parts.cluster.0)
    }

    fn dial(&self, me: &ActorRef<KeeperMessage>, node: NodeId) {
        let (links, me) = (self.parts.links.clone(), me.clone());
        tokio::spawn(async move {
            let opened = links.open_stream(node).await;
            let opened = opened.map_err(|error| error.to_string());
            // The keeper is gone otherwise, and the stream with it.
            let _gone = me.cast(KeeperMessage::Dialed(node, opened));
        });
    }

    fn ready(&self, state: &mut State, session: &SessionInfo) {
        let Some(node) = node_of(&session.peer_addr) else {
            return;
        };
        let name = session.peer_name.as_ref().map(|name| name.name.as_str());
        if name != Some(self.name(node).as_str()) {
            tracing::warn!(%node, name, "a control session says another name than its link: it is ended");
            session.actor.stop(Some("another name".to_owned()));
            return;
        }
        state
            .reconnect
            .handle_ready(self.parts.clock.mono_ms(), node);
        self.sessions.rcu(|sessions| {
            let mut sessions = (**sessions).clone();
            sessions.insert(node, session.node_id);
            sessions
        });
        tracing::info!(%node, "a control session is ready");
    }

    fn ended(&self, state: &mut State, session: &SessionInfo) {
        let Some(node) = node_of(&session.peer_addr) else {
            return;
        };
        let ended = session.node_id;
        let is_current = self
            .sessions
            .load()
            .get(&node)
            .is_none_or(|it| *it == ended);
        if !is_current {
            // Another session has taken its place.
            return;
        }
        self.sessions.rcu(|sessions| {
            let mut sessions = (**sessions).clone();
            sessions.remove(&node);
            sessions
        });
        state
            .reconnect
            .handle_ended(self.parts.clock.mono_ms(), node);
        tracing::info!(%node, "a control session ended");
    }
}

impl Actor for Keeper {
    type Msg = KeeperMessage;
    type State = State;
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<KeeperMessage>,
        (): (),
    ) -> Result<State, ActorProcessingErr> {
        self.sessions.store(Arc::default());
        let cluster = format!("{:032x}", self.parts.cluster.0);
        let server = NodeServer::new(
            0,
            cluster.clone(),
            label(self.parts.node),
            cluster,
            None,
            None,
        )
        // It cannot do without a listener of its own, which nobody uses.
        .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST))
        .with_max_inbound_frame_size(FRAME_BYTES_MAX);
        let (server, _) = Actor::spawn_linked(None, server, (), me.get_cell()).await?;
        let subscription = NodeServerMessage::SubscribeToEvents {
            id: "keeper".to_owned(),
            subscription: Box::new(Subscription(me.clone())),
        };
        server.cast(subscription)?;
        let respondent = Respondent {
            service: Arc::clone(&self.parts.service),
            places: places(),
        };
        Actor::spawn_linked(None, respondent, (), me.get_cell()).await?;
        me.send_interval(TICK, || KeeperMessage::Tick);
        self.seat.store(Some(Arc::new(me)));
        Ok(State {
            server,
            reconnect: Reconnect::new(self.parts.node, Random::from_os()),
        })
    }

    async fn handle(
        &self,
        me: ActorRef<KeeperMessage>,
        message: KeeperMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let now_ms = self.parts.clock.mono_ms();
        match message {
            KeeperMessage::Tick => {
                let peers = self.parts.links.statuses().into_iter();
                // A peer whose link is down is dialed when the link is up again.
                let up = peers.filter(|peer| peer.lanes[1].dialed);
                state
                    .reconnect
                    .handle_peers(now_ms, up.map(|peer| peer.node));
                while let Some(node) = state.reconnect.poll_dial(now_ms) {
                    self.dial(&me, node);
                }
            }
            KeeperMessage::Accepted(node, stream) => open(state, node, stream, true)?,
            KeeperMessage::Dialed(node, Ok(stream)) => open(state, node, stream, false)?,
            KeeperMessage::Dialed(node, Err(why)) => {
                tracing::debug!(%node, why, "no control session was opened");
                state.reconnect.handle_ended(now_ms, node);
            }
            KeeperMessage::Ready(session) => self.ready(state, &session),
            KeeperMessage::Ended(session) => self.ended(state, &session),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<KeeperMessage>,
        event: SupervisionEvent,
        _: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(..) => {
                Err("a part of the control plane ended".into())
            }
            SupervisionEvent::ActorFailed(_, error) => Err(error),
            _ => Ok(()),
        }
    }

    async fn post_stop(
        &self,
        _: ActorRef<KeeperMessage>,
        _: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        self.seat.store(None);
        self.sessions.store(Arc::default());
        Ok(())
    }
}

fn open(
    state: &State,
    node: NodeId,
    stream: LinkStream,
    is_server: bool,
) -> Result<(), ActorProcessingErr> {
    let stream = Box::new(Labelled { node, stream });
    Ok(state
        .server
        .cast(NodeServerMessage::ConnectionOpenedExternal { stream, is_server })?)
}

/// What a session is called here, before and after its peer has said a name.
fn label(node: NodeId) -> String {
    format!("node-{}", node.0)
}

fn node_of(label: &str) -> Option<NodeId> {
    label.strip_prefix("node-")?.parse().ok().map(NodeId)
}

/// A stream of the link with the number that the link's handshake has found.
struct Labelled {
    node: NodeId,
    stream: LinkStream,
}

impl ClusterBidiStream for Labelled {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let (read, write) = tokio::io::split(self.stream);
        (Box::new(read), Box::new(write))
    }

    fn peer_label(&self) -> Option<String> {
        Some(label(self.node))
    }
}

/// Tells the keeper about sessions.
struct Subscription(ActorRef<KeeperMessage>);

impl Subscription {
    fn tell(&self, message: KeeperMessage) {
        // The keeper is the server's supervisor: without it the server ends too.
        let _gone = self.0.cast(message);
    }
}

impl NodeEventSubscription for Subscription {
    fn node_session_opened(&self, _: SessionInfo) {}

    fn node_session_authenticated(&self, _: SessionInfo) {}

    fn node_session_ready(&self, session: SessionInfo) {
        self.tell(KeeperMessage::Ready(session));
    }

    fn node_session_disconnected(&self, session: SessionInfo) {
        self.tell(KeeperMessage::Ended(session));
    }
}

/// Answers the other nodes: the one actor of a node that they can reach.
struct Respondent {
    service: Arc<dyn ControlService>,
    places: Arc<Semaphore>,
}

impl Actor for Respondent {
    type Msg = RespondentMessage;
    type State = ();
    type Arguments = ();

    async fn pre_start(
        &self,
        me: ActorRef<RespondentMessage>,
        (): (),
    ) -> Result<(), ActorProcessingErr> {
        pg::join(GROUP.to_owned(), vec![me.get_cell()]);
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<RespondentMessage>,
        message: RespondentMessage,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RespondentMessage::Ask(from, question, reply) => {
                let answering = || self.service.answer(NodeId(from), question);
                spawn_answer(&self.places, answering, reply);
            }
            RespondentMessage::News(from, news) => self.service.handle_news(NodeId(from), news),
        }
        Ok(())
    }
}
