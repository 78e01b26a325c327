//! The control plane by `ractor_cluster`: the handle, and what crosses the wire.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use cluster_core::NodeId;
use ractor::rpc::CallResult;
use ractor::{ActorId, ActorRef, RpcReplyPort, pg};
use ractor_cluster::RactorClusterMessage;
use runtime::{ChildSpec, Restart};
use tokio::sync::Semaphore;

use super::keeper::{Keeper, KeeperMessage};
use super::{ANSWERING_MAX, AskError, ControlParts};
use crate::link::LinkStream;

/// The process group of the actors that answer.
pub(super) const GROUP: &str = "tidewire.control";
/// Questions of this node that are under way at a time.
const ASKING_MAX: usize = 64;

/// First byte of an answer: the rest is one.
pub(super) const ANSWERED: u8 = 0;
/// First byte of an answer: the node answers as many questions as it may.
pub(super) const BUSY: u8 = 1;

/// What a node's respondent is told, by nodes with their numbers.
#[derive(RactorClusterMessage)]
pub(super) enum RespondentMessage {
    /// A question.
    #[rpc]
    Ask(u32, Vec<u8>, RpcReplyPort<Vec<u8>>),
    /// A piece of news.
    News(u32, Vec<u8>),
}

/// The sessions that are ready: `ractor_cluster`'s number of each.
pub(super) type Sessions = ArcSwap<BTreeMap<NodeId, u64>>;

/// The handle. What it points to may be started again behind it.
pub(super) struct Distributed {
    node: NodeId,
    keeper: Arc<ArcSwapOption<ActorRef<KeeperMessage>>>,
    sessions: Arc<Sessions>,
    places: Semaphore,
}

impl Distributed {
    pub(super) fn new(parts: ControlParts) -> (Arc<Self>, ChildSpec) {
        let distributed = Arc::new(Self {
            node: parts.node,
            keeper: Arc::default(),
            sessions: Arc::default(),
            places: Semaphore::new(ASKING_MAX),
        });
        let parts = Arc::new(parts);
        let (seat, sessions) = (
            Arc::clone(&distributed.keeper),
            Arc::clone(&distributed.sessions),
        );
        let spawn = move |parent| -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            let keeper = Keeper {
                parts: Arc::clone(&parts),
                seat: Arc::clone(&seat),
                sessions: Arc::clone(&sessions),
            };
            Box::pin(async move {
                let (actor, _) = ractor::Actor::spawn_linked(None, keeper, (), parent).await?;
                Ok(actor.get_cell())
            })
        };
        let child = ChildSpec {
            name: "control".into(),
            restart: Restart::Always,
            spawn: Box::new(spawn),
        };
        (distributed, child)
    }

    pub(super) async fn ask(
        &self,
        node: NodeId,
        question: Vec<u8>,
        patience: Duration,
    ) -> Result<Vec<u8>, AskError> {
        let respondent = self.respondent(node);
        let respondent = respondent.ok_or(AskError::NotConnected(node))?;
        let Ok(_place) = self.places.try_acquire() else {
            return Err(AskError::Unanswered(
                node,
                format!("{ASKING_MAX} questions of this node are under way"),
            ));
        };
        let own = self.node.0;
        let ask = |reply| RespondentMessage::Ask(own, question, reply);
        let unanswered = |why: String| AskError::Unanswered(node, why);
        match respondent.call(ask, Some(patience)).await {
            Ok(CallResult::Success(mut answer)) => match answer.first() {
                Some(&ANSWERED) => Ok(answer.split_off(1)),
                Some(&BUSY) => Err(AskError::Busy(node)),
                other => Err(unanswered(format!("an answer begins with {other:?}"))),
            },
            Ok(CallResult::Timeout) => Err(AskError::Late(node, patience)),
            Ok(CallResult::SenderError) => Err(unanswered("the session ended".to_owned())),
            Err(error) => Err(unanswered(error.to_string())),
        }
    }

    pub(super) fn tell(&self, news: &[u8]) {
        for node in self.connected() {
            let Some(respondent) = self.respondent(node) else {
                continue;
            };
            let news = RespondentMessage::News(self.node.0, news.to_vec());
            if let Err(error) = respondent.cast(news) {
                tracing::debug!(%node, %error, "news was not sent");
            }
        }
    }

    pub(super) fn connected(&self) -> Vec<NodeId> {
        self.sessions.load().keys().copied().collect()
    }

    pub(super) fn handle_stream(&self, from: NodeId, stream: LinkStream) {
        let keeper = self.keeper.load_full();
        let taken = keeper.map(|keeper| keeper.cast(KeeperMessage::Accepted(from, stream)));
        if !matches!(taken, Some(Ok(()))) {
            tracing::debug!(%from, "a stream came before this node takes any");
        }
    }

    /// The actor that answers there.
    fn respondent(&self, node: NodeId) -> Option<ActorRef<RespondentMessage>> {
        let session = *self.sessions.load().get(&node)?;
        let is_there =
            |id: ActorId| matches!(id, ActorId::Remote { node_id, .. } if node_id == session);
        let members = pg::get_members(&GROUP.to_owned());
        let cell = members.into_iter().find(|cell| is_there(cell.get_id()))?;
        Some(cell.into())
    }
}

/// Answers in a task of its own, or says that too many do.
pub(super) fn spawn_answer(
    places: &Arc<Semaphore>,
    answering: impl FnOnce() -> super::Answering,
    reply: RpcReplyPort<Vec<u8>>,
) {
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        let _late = reply.send(vec![BUSY]);
        return;
    };
    let answering = answering();
    tokio::spawn(async move {
        let mut answer = answering.await;
        answer.insert(0, ANSWERED);
        let _late = reply.send(answer);
        drop(place);
    });
}

/// For the respondent.
pub(super) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(ANSWERING_MAX))
}
