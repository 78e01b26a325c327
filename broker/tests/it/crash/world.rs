//! Where the clients of a run find the node, and how they live through its ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mqtt::{Packet, ReasonCode};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::ledger::Ledger;
use crate::harness::{Client, Dial};

/// A node that does not take a client is asked again so soon, or as soon as there is another.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// What every client of a run knows. Clones are of the same run.
#[derive(Clone)]
pub(super) struct World {
    pub(super) ledger: Arc<Ledger>,
    /// The node of now.
    pub(super) address: watch::Receiver<Option<SocketAddr>>,
    /// How far the run is.
    pub(super) stage: watch::Receiver<Stage>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Nodes come and go.
    Crashes,
    /// The last node stays; nothing new is published.
    Rest,
    /// One more message of each publisher, behind which nothing is to come.
    Sentinels,
}

impl World {
    pub(super) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Connects, to whatever node there is then, and says whether the session goes on.
    pub(super) async fn connect(&mut self, dial: impl Fn() -> Dial) -> (Client, bool) {
        loop {
            if let Some(connected) = self.try_connect(dial()).await {
                return connected;
            }
            // Either of both is a reason to try again.
            let _ = tokio::time::timeout(RETRY_DELAY, self.address.changed()).await;
        }
    }

    /// As [`World::connect`], once.
    pub(super) async fn try_connect(&self, dial: Dial) -> Option<(Client, bool)> {
        let address = (*self.address.borrow())?;
        let socket = TcpStream::connect(address).await.ok()?;
        let mut client = Client::over(socket, dial.0.version);
        if !client.try_send(&dial.packet()).await {
            return None;
        }
        match client.try_next().await? {
            Packet::ConnAck(ack) if ack.reason == ReasonCode::Success => {
                Some((client, ack.session_present))
            }
            _ => None,
        }
    }
}
