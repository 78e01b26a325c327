//! Sessions and connections of clients: `GET /v1/client`, `GET /v1/session`.

use serde::{Deserialize, Serialize};

use crate::parameters::{ParameterError, number, pairs, query_of, truth};

/// Sessions of one answer unless another number is asked for.
pub const LIMIT_DEFAULT: usize = 100;
/// Sessions of one answer at most.
pub const LIMIT_MAX: usize = 1_000;

/// Which sessions are asked for: the query string of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionQuestion {
    /// Those whose client id begins so.
    pub prefix: Option<String>,
    /// Those behind this client id: `next` of the answer before.
    pub after: Option<String>,
    /// At most so many; [`LIMIT_DEFAULT`] unless said.
    pub limit: Option<usize>,
    /// Those whose client is, or was last, at this node.
    pub node: Option<u32>,
    /// Those whose client is connected, or is away.
    pub connected: Option<bool>,
}

impl SessionQuestion {
    /// Reads a query string.
    ///
    /// # Errors
    /// [`ParameterError`] naming the parameter.
    pub fn parse(query: &str) -> Result<Self, ParameterError> {
        let mut asked = Self::default();
        for (name, value) in pairs(query)? {
            match name.as_str() {
                "prefix" => asked.prefix = Some(value),
                "after" => asked.after = Some(value),
                "limit" => asked.limit = Some(number("limit", &value, 1..=LIMIT_MAX)?),
                "node" => asked.node = Some(number("node", &value, 1..=u32::MAX)?),
                "connected" => asked.connected = Some(truth("connected", &value)?),
                _ => {
                    let known = "prefix, after, limit, node, connected";
                    return Err(ParameterError::Unknown { name, known });
                }
            }
        }
        Ok(asked)
    }

    /// Writes the query string that [`Self::parse`] reads.
    pub fn to_query(&self) -> String {
        query_of([
            ("prefix", self.prefix.clone()),
            ("after", self.after.clone()),
            ("limit", self.limit.map(|limit| limit.to_string())),
            ("node", self.node.map(|node| node.to_string())),
            ("connected", self.connected.map(|is| is.to_string())),
        ])
    }
}

/// Sessions in the order of their client ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// All that were asked for, up to `next`.
    pub sessions: Vec<Session>,
    /// Behind which client id to go on; absent at the end. An answer may have fewer sessions than
    /// asked for, or none, and go on.
    pub next: Option<String>,
    /// What is not in the answer: shards that nobody leads, nodes that did not answer.
    pub missing: Vec<String>,
}

/// A session, as the leader of its shard has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its client.
    pub client: String,
    /// Its shard.
    pub shard: u16,
    /// Whether a connection owns it.
    pub connected: bool,
    /// The node of that connection, or of the last one; absent if that run of the node has ended.
    pub node: Option<u32>,
    /// The run of that node.
    pub node_epoch: u64,
    /// Its number within that node.
    pub connection_id: u64,
    /// The ownership.
    pub epoch: u64,
    /// The ownership that began the session.
    pub incarnation: u64,
    /// Whether it outlives its connection.
    pub persistent: bool,
    /// Seconds since its client went.
    pub away_s: Option<u64>,
    /// Seconds until it ends, unless its client comes back; absent also if it never does.
    pub expires_in_s: Option<u64>,
    /// Session Expiry Interval in seconds; 4294967295 is for ever.
    pub expiry_s: u32,
    /// Receive Maximum of its client.
    pub receive_maximum: u16,
    /// Subscriptions in the shard: of a clean session the shared ones alone.
    pub subscriptions: u64,
    /// Messages of QoS 1 and 2 in its queue.
    pub queue_messages: u64,
    /// Their bytes, as accounted.
    pub queue_bytes: u64,
    /// What its node says of the connection.
    pub connection: Option<Connection>,
}

/// A connection, as its node has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its number within its node.
    pub id: u64,
    /// Where it comes from.
    pub peer: Option<String>,
    /// `3.1.1` or `5`.
    pub protocol: String,
    /// Seconds since it was accepted.
    pub connected_s: u64,
    /// Milliseconds since its client was heard.
    pub silent_ms: u64,
    /// Keep alive in seconds; 0 for none.
    pub keep_alive_s: u16,
    /// Largest packet that the client takes, in bytes; absent without a limit.
    pub packet_bytes_max: Option<u32>,
    /// QoS 1 and 2 messages that are sent and not acknowledged.
    pub inflight: u64,
    /// Messages that wait in the node for the window or the socket.
    pub waiting: u64,
    /// Bytes of those of them that are in no shard.
    pub waiting_bytes: u64,
    /// Bytes of packets that the socket has not taken.
    pub unsent_bytes: u64,
    /// Acknowledgements that the client is owed.
    pub owed: u64,
    /// Subscriptions of a clean session.
    pub subscriptions: u64,
    /// Messages dropped because the queue of the connection was full.
    pub dropped_full: u64,
    /// Messages that expired there.
    pub dropped_expired: u64,
    /// Messages above the client's Maximum Packet Size.
    pub dropped_too_large: u64,
}

/// All about one client: `GET /v1/session/CLIENT`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionDetails {
    /// At a glance.
    pub session: Session,
    /// Which node has answered for the shard.
    pub answered_by: u32,
    /// Whether that node leads the shard: else the answer may be behind.
    pub by_leader: bool,
    /// What it subscribed to, wherever that is kept.
    pub subscriptions: Vec<Subscription>,
    /// How many there are; more than listed where the connection has very many.
    pub subscriptions_total: u64,
    /// Messages of the queue that may have been sent and are not acknowledged.
    pub unacknowledged: u64,
    /// When the oldest message of the queue was received, in milliseconds since 1970; absent also
    /// while its payload is on disk alone.
    pub oldest_ms: Option<u64>,
    /// QoS 2 messages of the client that it has not released.
    pub unreleased: u64,
    /// Its will.
    pub will: Option<Will>,
    /// Why nothing is said of the connection, if there is one.
    pub connection_unknown: Option<String>,
}

/// A subscription of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its filter.
    pub filter: String,
    /// The highest QoS at which it takes messages.
    pub qos: u8,
}

/// A will, without its payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Will {
    /// Where it is published.
    pub topic: String,
    /// With which QoS.
    pub qos: u8,
    /// Will Delay Interval in seconds.
    pub delay_s: u32,
}

/// What a client is disconnected with: `POST /v1/client/CLIENT/kick`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kick {
    /// Whether the session ends too.
    #[serde(default)]
    pub clean: bool,
    /// Only says what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// A client that was disconnected, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kicked {
    /// Which.
    pub client: String,
    /// At which node.
    pub node: u32,
    /// Whether the session ends too.
    pub clean: bool,
    /// Whether nothing was done.
    pub dry_run: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_its_query_string() {
        let asked = SessionQuestion {
            prefix: Some("car/ü&".into()),
            after: Some("car 7".into()),
            limit: Some(7),
            node: Some(3),
            connected: Some(false),
        };
        assert_eq!(SessionQuestion::parse(&asked.to_query()), Ok(asked));
        let nothing = SessionQuestion::default();
        assert_eq!(SessionQuestion::parse(&nothing.to_query()), Ok(nothing));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, named) in [
            ("limit=0", "0"),
            ("limit=1001", "1001"),
            ("node=one", "one"),
            ("connected=maybe", "maybe"),
            ("prefiks=a", "prefiks"),
        ] {
            let error = SessionQuestion::parse(query).expect_err(query);
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
