//! The client of the admin API: blocking, for command-line tools.

use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Failure;
use crate::bridge::{self, DeadLetters, Lag, LetterQuestion, Pause, Replay, Replayed};
use crate::cluster::{
    ClusterStatus, DrainRequest, Holdings, Members, RebalanceRequest, Rebalances, ReplaceRequest,
};
use crate::health::{Health, SafeToStop, SafeToStopQuestion};
use crate::memory::Memory;
use crate::node::NodeInfo;
use crate::query::QueryAnswer;
use crate::question::{Question, encode};
use crate::retained::{RetainedMessages, RetainedQuestion};
use crate::session::{Kick, Kicked, SessionDetails, SessionQuestion, Sessions};
use crate::shard::{
    MoveRequest, Pinned, RecoverRequest, Recovering, ShardDetails, Transfer, Transferred,
    UnpinRequest,
};
use crate::sub::{Routes, RoutesQuestion};
use crate::trace::{Line, SECONDS_DEFAULT, TraceQuestion};
use crate::tsdb::Status;

/// How long an answer may take; a query waits up to 2 s for the writer by itself.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The same for what the node works at, such as a replay, which waits up to 20 s for Kafka.
const WORK_TIMEOUT: Duration = Duration::from_secs(60);

/// Largest answer that is read, in bytes.
const BODY_BYTES_MAX: u64 = 256 << 20;

/// Speaks to the admin API of one node.
#[derive(Clone, Debug)]
pub struct Client {
    url: String,
    agent: ureq::Agent,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The node cannot be reached: exit code 4.
    #[error("cannot reach {url}: {error}; is the node running? set --admin or TIDEWIRE_ADMIN")]
    Unreachable {
        /// The address.
        url: String,
        /// Why.
        error: String,
    },
    /// The node refuses: exit code 1, or 2 when the request is at fault.
    #[error("{error}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the node says.
        error: String,
    },
    /// The answer is not what this version of the program understands.
    #[error("{url} answers something else than this program knows: {error}")]
    Answer {
        /// The address.
        url: String,
        /// Why.
        error: String,
    },
}

impl Client {
    /// A client of the node at `url`, such as `http://127.0.0.1:8080`; the scheme may be absent.
    pub fn new(url: &str) -> Self {
        let scheme = if url.contains("://") { "" } else { "http://" };
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build();
        Self {
            url: format!("{scheme}{}", url.trim_end_matches('/')),
            agent: config.into(),
        }
    }

    /// Whether the node takes clients: `GET /health/ready`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub fn is_ready(&self) -> Result<bool, ClientError> {
        match self.text("/health/ready") {
            Ok(_) => Ok(true),
            Err(ClientError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The node's metrics as text: `GET /metrics`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn metrics(&self) -> Result<String, ClientError> {
        self.text("/metrics")
    }

    /// What the node says about itself.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn node(&self) -> Result<NodeInfo, ClientError> {
        self.get("/v1/node")
    }

    /// The cluster as the node knows it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn cluster(&self) -> Result<ClusterStatus, ClientError> {
        self.get("/v1/cluster")
    }

    /// The members, each with what it says about itself; the asked node waits for them up to a second.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn members(&self) -> Result<Members, ClientError> {
        self.get("/v1/cluster/members")
    }

    /// Has a member give up what it holds, or keep it after all.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn drain(&self, request: &DrainRequest) -> Result<Holdings, ClientError> {
        self.post("/v1/cluster/drain", request)
    }

    /// What a member still holds.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn holdings(&self, node: u32) -> Result<Holdings, ClientError> {
        self.get(&format!("/v1/cluster/drain/{node}"))
    }

    /// Has the cluster forget a member that was drained and stopped.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn forget(&self, request: &DrainRequest) -> Result<ClusterStatus, ClientError> {
        self.post("/v1/cluster/forget", request)
    }

    /// Clients that are connected, anywhere.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn clients(&self, question: &SessionQuestion) -> Result<Sessions, ClientError> {
        self.get(&format!("/v1/client?{}", question.to_query()))
    }

    /// Sessions, connected or away.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn sessions(&self, question: &SessionQuestion) -> Result<Sessions, ClientError> {
        self.get(&format!("/v1/session?{}", question.to_query()))
    }

    /// All about a client.
    ///
    /// # Errors
    /// [`ClientError`]; refused if there is no session.
    pub fn session(&self, client: &str) -> Result<SessionDetails, ClientError> {
        self.get(&format!("/v1/session/{}", encode(client)))
    }

    /// Disconnects a client.
    ///
    /// # Errors
    /// [`ClientError`]; refused if it is not connected.
    pub fn kick(&self, client: &str, kick: Kick) -> Result<Kicked, ClientError> {
        self.post(&format!("/v1/client/{}/kick", encode(client)), &kick)
    }

    /// Who gets the messages of a topic.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn routes(&self, question: &RoutesQuestion) -> Result<Routes, ClientError> {
        self.get(&format!("/v1/sub/routes?{}", question.to_query()))
    }

    /// Retained messages.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn retained(&self, question: &RetainedQuestion) -> Result<RetainedMessages, ClientError> {
        self.get(&format!("/v1/retained?{}", question.to_query()))
    }

    /// One shard.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn shard(&self, shard: u16) -> Result<ShardDetails, ClientError> {
        self.get(&format!("/v1/shard/{shard}"))
    }

    /// Has another node lead a shard.
    ///
    /// # Errors
    /// [`ClientError`]; when it is not known whether it does, asking again does no harm.
    pub fn transfer_leader(
        &self,
        shard: u16,
        transfer: Transfer,
    ) -> Result<Transferred, ClientError> {
        self.post(&format!("/v1/shard/{shard}/transfer"), &transfer)
    }

    /// Has a replica of a shard moved, and the shard stay there.
    ///
    /// # Errors
    /// [`ClientError`]; asking again does no harm.
    pub fn move_shard(&self, shard: u16, request: MoveRequest) -> Result<Pinned, ClientError> {
        self.post(&format!("/v1/shard/{shard}/move"), &request)
    }

    /// Has a shard placed by the ring again.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn unpin_shard(&self, shard: u16, request: UnpinRequest) -> Result<Pinned, ClientError> {
        self.post(&format!("/v1/shard/{shard}/unpin"), &request)
    }

    /// Has a shard go on with what one replica has.
    ///
    /// # Errors
    /// [`ClientError`]; asking again does no harm.
    pub fn recover_shard(
        &self,
        shard: u16,
        request: RecoverRequest,
    ) -> Result<Recovering, ClientError> {
        self.post(&format!("/v1/shard/{shard}/recover"), &request)
    }

    /// Has a member leave whose place another one takes.
    ///
    /// # Errors
    /// [`ClientError`]; asking again does no harm.
    pub fn replace(&self, request: ReplaceRequest) -> Result<Holdings, ClientError> {
        self.post("/v1/cluster/replace", &request)
    }

    /// Has clients go to the nodes of their shards.
    ///
    /// # Errors
    /// [`ClientError`]; asking again does no harm.
    pub fn rebalance(&self, request: RebalanceRequest) -> Result<Rebalances, ClientError> {
        self.post("/v1/cluster/rebalance", &request)
    }

    /// How far that is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn rebalancing(&self) -> Result<Rebalances, ClientError> {
        self.get("/v1/cluster/rebalance")
    }

    /// Where the memory of the node goes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn memory(&self) -> Result<Memory, ClientError> {
        self.get("/v1/node/memory")
    }

    /// How the cluster is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn health(&self) -> Result<Health, ClientError> {
        self.get("/v1/cluster/health")
    }

    /// Whether a node may be stopped; the one that is asked unless said.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn safe_to_stop(&self, node: Option<u32>) -> Result<SafeToStop, ClientError> {
        let question = SafeToStopQuestion { node };
        self.get(&format!("/v1/cluster/safe-to-stop?{}", question.to_query()))
    }

    /// The telemetry line at a glance.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn tsdb(&self) -> Result<Status, ClientError> {
        self.get("/v1/tsdb")
    }

    /// The rows of a device.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn query(&self, device: &str, question: &Question) -> Result<QueryAnswer, ClientError> {
        self.get(&format!(
            "/v1/query/{}?{}",
            encode(device),
            question.to_query()
        ))
    }

    /// How the bridge stands.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn bridge(&self) -> Result<bridge::Status, ClientError> {
        self.get("/v1/bridge")
    }

    /// Holds the bridge's way to Kafka, or lets it go on.
    ///
    /// # Errors
    /// [`ClientError`]; refused without Kafka.
    pub fn pause_bridge(&self, paused: bool) -> Result<Pause, ClientError> {
        self.post("/v1/bridge/pause", &Pause { paused })
    }

    /// What the store has not processed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn bridge_lag(&self) -> Result<Lag, ClientError> {
        self.get("/v1/bridge/lag")
    }

    /// Dead letters, newest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn dead_letters(&self, question: &LetterQuestion) -> Result<DeadLetters, ClientError> {
        self.get(&format!("/v1/bridge/dlq?{}", question.to_query()))
    }

    /// Sends the messages of dead letters again.
    ///
    /// # Errors
    /// [`ClientError`]; when the node is not reached any more, some may have been sent.
    pub fn replay(&self, replay: &Replay) -> Result<Replayed, ClientError> {
        self.post("/v1/bridge/dlq/replay", replay)
    }

    /// Hands over the lines of a trace as they come, until it ends or `each` says false.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn trace(
        &self,
        question: &TraceQuestion,
        mut each: impl FnMut(&Line) -> bool,
    ) -> Result<(), ClientError> {
        let url = format!("{}/v1/trace?{}", self.url, question.to_query());
        let lasting = Duration::from_secs(question.seconds.unwrap_or(SECONDS_DEFAULT));
        let request = self.agent.get(&url).config();
        let request = request.timeout_global(Some(lasting + TIMEOUT)).build();
        let unreachable = |error: &dyn std::fmt::Display| ClientError::Unreachable {
            url: self.url.clone(),
            error: error.to_string(),
        };
        let mut response = request.call().map_err(|error| unreachable(&error))?;
        let status = response.status().as_u16();
        if status >= 400 {
            let body = response.body_mut().read_to_string();
            return Err(refused(status, &body.map_err(|error| unreachable(&error))?));
        }
        for line in BufReader::new(response.body_mut().as_reader()).lines() {
            let line = line.map_err(|error| unreachable(&error))?;
            let line = serde_json::from_str(&line).map_err(|error| ClientError::Answer {
                url: url.clone(),
                error: error.to_string(),
            })?;
            if !each(&line) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn text(&self, path: &str) -> Result<String, ClientError> {
        let url = format!("{}{path}", self.url);
        self.body(self.agent.get(&url).call())
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let url = format!("{}{path}", self.url);
        self.read(self.agent.get(&url).call(), url)
    }

    fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let url = format!("{}{path}", self.url);
        let request = self.agent.post(&url).config();
        let request = request.timeout_global(Some(WORK_TIMEOUT)).build();
        self.read(request.send_json(body), url)
    }

    fn read<T: DeserializeOwned>(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
        url: String,
    ) -> Result<T, ClientError> {
        let body = self.body(answer)?;
        serde_json::from_str(&body).map_err(|error| ClientError::Answer {
            url,
            error: error.to_string(),
        })
    }

    fn body(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<String, ClientError> {
        let unreachable = |error: ureq::Error| ClientError::Unreachable {
            url: self.url.clone(),
            error: error.to_string(),
        };
        let mut response = answer.map_err(unreachable)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(BODY_BYTES_MAX);
        let body = body.read_to_string().map_err(unreachable)?;
        if status >= 400 {
            return Err(refused(status, &body));
        }
        Ok(body)
    }
}

fn refused(status: u16, body: &str) -> ClientError {
    let failure = serde_json::from_str::<Failure>(body);
    let error = failure.map_or_else(|_| format!("HTTP {status}: {body}"), |one| one.error);
    ClientError::Refused { status, error }
}
