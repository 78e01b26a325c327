//! A client that comes again, wherever there is a node that takes it.

use std::sync::Arc;

use mqttbytes::v4::Connect;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Shared;
use crate::fleet::homes::Homes;
use crate::fleet::wire::{Lost, Wire};
use crate::profile;

/// Is a client with a session that outlives its connections.
pub(super) struct Client<'a> {
    shared: &'a Shared,
    pub(super) id: String,
    homes: Homes,
    random: SmallRng,
    failures: u32,
    connections: u64,
    pub(super) sessions_missing: u64,
}

impl<'a> Client<'a> {
    /// Creates the client; `number` says where it begins.
    pub(super) fn new(shared: &'a Shared, id: String, number: u32) -> Self {
        let seed = profile::mix(&[shared.config.seed, u64::from(number), 3]);
        Self {
            homes: Homes::of(Arc::clone(&shared.config.addresses), number as usize),
            random: SmallRng::seed_from_u64(seed ^ id.len() as u64),
            shared,
            id,
            failures: 0,
            connections: 0,
            sessions_missing: 0,
        }
    }

    /// Connects, again and again until a node takes the client.
    pub(super) async fn connect(&mut self) -> Wire {
        loop {
            let mut connect = Connect::new(self.id.as_str());
            connect.clean_session = false;
            // A killed node's system ends its connections by itself.
            connect.keep_alive = 0;
            match Wire::open(self.homes.address(), &connect).await {
                Ok(wire) => {
                    self.failures = 0;
                    let was_there = self.connections > 0;
                    self.sessions_missing += u64::from(was_there && !wire.is_resumed);
                    self.connections += 1;
                    return wire;
                }
                Err(lost) => self.handle_lost(&lost).await,
            }
        }
    }

    /// Turns to another node and waits as firmware does.
    pub(super) async fn handle_lost(&mut self, lost: &Lost) {
        let failures = self.failures;
        tracing::debug!(client_id = self.id, %lost, failures, "connection lost");
        let backoff = &self.shared.config.backoff;
        let delay = backoff.delay(failures, self.random.random());
        self.failures += 1;
        self.turn();
        tokio::time::sleep(delay).await;
    }

    /// Turns to another node.
    pub(super) fn turn(&mut self) {
        self.homes.turn(self.random.random());
    }

    pub(super) fn reconnects(&self) -> u64 {
        self.connections.saturating_sub(1)
    }
}
