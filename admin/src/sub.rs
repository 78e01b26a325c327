//! Who gets the messages of a topic, and why: `GET /v1/sub/routes`.

use serde::{Deserialize, Serialize};

use crate::parameters::{ParameterError, number, pairs, query_of};
use crate::session::Subscription;

/// Subscribers of one kind in one answer unless another number is asked for.
pub const LIMIT_DEFAULT: usize = 100;
/// Subscribers of one kind in one answer at most.
pub const LIMIT_MAX: usize = 1_000;

/// Which topic is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutesQuestion {
    /// The topic.
    pub topic: String,
    /// At most so many subscribers of a kind; [`LIMIT_DEFAULT`] unless said.
    pub limit: Option<usize>,
}

impl RoutesQuestion {
    /// Reads a query string.
    ///
    /// # Errors
    /// [`ParameterError`] naming the parameter.
    pub fn parse(query: &str) -> Result<Self, ParameterError> {
        let mut asked = Self::default();
        for (name, value) in pairs(query)? {
            match name.as_str() {
                "topic" => asked.topic = value,
                "limit" => asked.limit = Some(number("limit", &value, 1..=LIMIT_MAX)?),
                _ => {
                    let known = "topic, limit";
                    return Err(ParameterError::Unknown { name, known });
                }
            }
        }
        Ok(asked)
    }

    /// Writes the query string that [`Self::parse`] reads.
    pub fn to_query(&self) -> String {
        query_of([
            ("topic", Some(self.topic.clone())),
            ("limit", self.limit.map(|limit| limit.to_string())),
        ])
    }
}

/// Where messages of a topic go from the node that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// The topic.
    pub topic: String,
    /// The node that was asked: a message that is published there goes so.
    pub node: u32,
    /// The stream rule that takes it as telemetry, if one does.
    pub stream: Option<Stream>,
    /// Clean sessions, by node.
    pub nodes: Vec<NodeRoutes>,
    /// Persistent sessions and shared groups, by shard.
    pub shards: Vec<ShardRoutes>,
    /// The shard that keeps the retained message of the topic.
    pub retained_shard: u16,
    /// What is not in the answer: shards that nobody leads, nodes that did not answer.
    pub missing: Vec<String>,
}

/// A stream rule that takes a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// The filter for which it does.
    pub filter: String,
}

/// Clean sessions on one node that get a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRoutes {
    /// The node.
    pub node: u32,
    /// How many there are.
    pub total: u64,
    /// Of them so many as were asked for.
    pub clients: Vec<Subscriber>,
}

/// Persistent sessions and groups of one shard that get a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRoutes {
    /// The shard.
    pub shard: u16,
    /// The node that leads it.
    pub leader: u32,
    /// How many sessions there are.
    pub total: u64,
    /// Of them so many as were asked for, by their client ids.
    pub sessions: Vec<Subscriber>,
    /// How many groups there are.
    pub groups_total: u64,
    /// Of them so many as were asked for.
    pub groups: Vec<Group>,
}

/// A subscriber, and why it gets the message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscriber {
    /// Its client.
    pub client: String,
    /// The node where it is connected; absent while it is away.
    pub node: Option<u32>,
    /// The run of that node; absent while it is away.
    pub node_epoch: Option<u64>,
    /// The subscriptions that match.
    pub because: Vec<Subscription>,
}

/// A shared group, of whose members one gets the message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its filter, `$share` and name included.
    pub filter: String,
    /// Members.
    pub members: u64,
    /// Those of them that are connected.
    pub connected: u64,
    /// Messages that wait for a member or its acknowledgement.
    pub queue_messages: u64,
    /// Their bytes, as accounted.
    pub queue_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_its_query_string() {
        let asked = RoutesQuestion {
            topic: "a b/ü&=+".into(),
            limit: Some(3),
        };
        assert_eq!(RoutesQuestion::parse(&asked.to_query()), Ok(asked));
        let error = RoutesQuestion::parse("limit=0").expect_err("too few");
        assert!(error.to_string().contains("\"0\""), "{error}");
    }
}
