//! The points as running nodes answer them, whichever of them is asked.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use admin::client::{Client, ClientError};
use admin::query::QueryAnswer;
use admin::question::{LIMIT_DEFAULT, Question};

use super::Error;
use super::check::{Store, StoredPoint};
use super::node::Node;
use super::nodes::Nodes;
use crate::profile;

/// How long one question is asked again while its answer is partial or missing.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Time between two tries; a node waits by itself before it answers partially.
const PAUSE: Duration = Duration::from_millis(100);

/// Is the store of a cluster, read with questions to its nodes in turn.
#[derive(Debug)]
pub(super) struct Answers {
    clients: Vec<Client>,
    devices: u32,
}

impl Answers {
    pub(super) fn of(nodes: &Nodes, devices: u32) -> Self {
        Self {
            clients: nodes.running().map(Node::client).collect(),
            devices,
        }
    }

    pub(super) fn at(admins: &[SocketAddr], devices: u32) -> Self {
        let clients = admins.iter().map(|admin| Client::new(&admin.to_string()));
        Self {
            clients: clients.collect(),
            devices,
        }
    }

    /// Asks one node after the other, `first` first, until one has a whole answer.
    fn ask(&self, first: usize, device: &str, question: &Question) -> Result<QueryAnswer, Error> {
        let deadline = Instant::now() + ANSWER_DEADLINE;
        let turns = self.clients.iter().cycle().skip(first % self.clients.len());
        let mut last = String::new();
        for client in turns {
            last = match client.query(device, question) {
                Ok(answer) if !answer.partial => return Ok(answer),
                Ok(_) => "the answer is partial".to_owned(),
                Err(ClientError::Refused { status, error }) if status < 500 => {
                    return Err(Error::Failed(format!("the query of {device}: {error}")));
                }
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                break;
            }
            std::thread::park_timeout(PAUSE);
        }
        Err(Error::Failed(format!(
            "no node has answered all of {device} within {ANSWER_DEADLINE:?}: {last}"
        )))
    }

    fn for_each_point_of_device(
        &self,
        device: u32,
        each: &mut dyn FnMut(StoredPoint<'_>),
    ) -> Result<(), Error> {
        let id = profile::device_id(device);
        let mut from_ms = 0;
        loop {
            let question = Question {
                from: Some(from_ms.to_string()),
                ..Question::default()
            };
            // Not the one that the device began to publish to.
            let answer = self.ask(device as usize + 1, &id, &question)?;
            for row in &answer.rows {
                for (metric, value) in &row.metrics {
                    each(StoredPoint {
                        device: &id,
                        ts_ms: row.ts,
                        metric,
                        value: value.0,
                    });
                }
            }
            match answer.rows.last() {
                Some(last) if answer.rows.len() == LIMIT_DEFAULT => from_ms = last.ts + 1,
                _ => return Ok(()),
            }
        }
    }
}

impl Store for Answers {
    fn for_each_point(&self, each: &mut dyn FnMut(StoredPoint<'_>)) -> Result<(), Error> {
        self.for_each_point_of(&|_| true, each)
    }

    fn for_each_point_of(
        &self,
        chosen: &dyn Fn(u32) -> bool,
        each: &mut dyn FnMut(StoredPoint<'_>),
    ) -> Result<(), Error> {
        let mut devices = (0..self.devices).filter(|device| chosen(*device));
        devices.try_for_each(|device| self.for_each_point_of_device(device, each))
    }
}
