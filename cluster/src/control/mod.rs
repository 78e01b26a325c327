//! The control plane between nodes: small questions, and news of how their actors ended.
//!
//! It is not for data: `ractor_cluster`, which carries it between processes, has no bound on its queues
//! and lets what is large hold up what is small. So questions, answers and how many are under way are
//! bounded here, and whoever must know that something arrived uses [`crate::exchange`]. Its sessions run
//! over the stream lane of the link; the lower number of two nodes opens it, and again when it has ended
//! ([`reconnect::Reconnect`]).
//!
//! Registry and groups of `ractor` belong to the process. Nodes that share a process use the plain
//! implementation, whose questions are requests of the link.

mod distributed;
mod keeper;
mod plain;
mod reconnect;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cluster_core::NodeId;
use runtime::{ChildSpec, Clock};

use crate::link::{ClusterId, Incoming, LinkStream, Links};
use distributed::Distributed;
pub use plain::CHANNEL;
use plain::Plain;

/// Longest question or piece of news, in bytes.
pub const QUESTION_BYTES_MAX: usize = 64 << 10;
/// Longest answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Questions of other nodes that are being answered at a time; more are told so.
const ANSWERING_MAX: usize = 16;

/// An answer that is being made.
pub type Answering = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;

/// What answers other nodes and takes their news.
pub trait ControlService: Send + Sync + 'static {
    /// Answers a question, in at most [`ANSWER_BYTES_MAX`].
    fn answer(&self, from: NodeId, question: Vec<u8>) -> Answering;

    /// Takes a piece of news; must return at once.
    fn handle_news(&self, from: NodeId, news: Vec<u8>);
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is no session with the node.
    #[error("there is no control session with node {0}")]
    NotConnected(NodeId),
    /// The question is longer than may be asked.
    #[error("a question of {0} bytes: at most {QUESTION_BYTES_MAX} may be asked")]
    TooLong(usize),
    /// The node answers as many questions as it may.
    #[error("node {0} answers {ANSWERING_MAX} questions already")]
    Busy(NodeId),
    /// The session, or the node's part of it, ended meanwhile; or the answer is none.
    #[error("node {0} did not answer: {1}")]
    Unanswered(NodeId, String),
    /// It took too long.
    #[error("node {0} did not answer within {1:?}")]
    Late(NodeId, Duration),
}

/// What a control plane is made of.
pub struct ControlParts {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Links to the peers.
    pub links: Links,
    /// Paces reconnects.
    pub clock: Arc<dyn Clock>,
    /// What answers the others.
    pub service: Arc<dyn ControlService>,
}

/// What carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ControlKind {
    /// `ractor_cluster`, for a node that has its process for itself.
    Distributed,
    /// Requests of the link, for nodes that share a process.
    #[default]
    Plain,
}

/// The control plane of a node; cheap to clone.
#[derive(Clone)]
pub struct Control(Carrier);

#[derive(Clone)]
enum Carrier {
    Distributed(Arc<Distributed>),
    Plain(Arc<Plain>),
}

impl Control {
    /// A control plane, with the actor to be supervised if it has one: it may be started again at any
    /// time.
    pub fn new(kind: ControlKind, parts: ControlParts) -> (Self, Option<ChildSpec>) {
        match kind {
            ControlKind::Distributed => {
                let (distributed, child) = Distributed::new(parts);
                (Self(Carrier::Distributed(distributed)), Some(child))
            }
            ControlKind::Plain => (Self(Carrier::Plain(Arc::new(Plain::new(parts)))), None),
        }
    }

    /// Asks a node.
    ///
    /// # Errors
    /// There is no answer; whether the node saw the question is not known.
    pub async fn ask(
        &self,
        node: NodeId,
        question: Vec<u8>,
        patience: Duration,
    ) -> Result<Vec<u8>, AskError> {
        if question.len() > QUESTION_BYTES_MAX {
            return Err(AskError::TooLong(question.len()));
        }
        match &self.0 {
            Carrier::Distributed(it) => it.ask(node, question, patience).await,
            Carrier::Plain(it) => it.ask(node, question, patience).await,
        }
    }

    /// Tells all connected nodes a piece of news, once and without a receipt. News longer than
    /// [`QUESTION_BYTES_MAX`] are dropped.
    pub fn tell(&self, news: &[u8]) {
        if news.len() > QUESTION_BYTES_MAX {
            tracing::warn!(bytes = news.len(), "news that is too long was dropped");
            return;
        }
        match &self.0 {
            Carrier::Distributed(it) => it.tell(news),
            Carrier::Plain(it) => it.tell(news),
        }
    }

    /// The nodes that can be asked now.
    pub fn connected(&self) -> Vec<NodeId> {
        match &self.0 {
            Carrier::Distributed(it) => it.connected(),
            Carrier::Plain(it) => it.connected(),
        }
    }

    /// Takes a stream that a peer has opened.
    pub fn handle_stream(&self, from: NodeId, stream: LinkStream) {
        match &self.0 {
            Carrier::Distributed(it) => it.handle_stream(from, stream),
            Carrier::Plain(_) => tracing::warn!(%from, "a stream that nobody expects was ended"),
        }
    }

    /// Takes a request of [`CHANNEL`].
    pub fn handle_request(&self, request: Incoming) {
        match &self.0 {
            // The asked node says so by dropping the request.
            Carrier::Distributed(_) => {
                tracing::warn!(from = %request.from, "a question by the link that nobody expects");
            }
            Carrier::Plain(it) => it.handle_request(request),
        }
    }
}
