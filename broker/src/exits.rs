//! The supervisor of an io thread's connections: hears how each of them ended.
//!
//! Connections are bare tasks, not `ractor` actors (an idle one would cost ten times the memory,
//! DESIGN §3); what a supervisor needs to know of them reaches this actor in batches.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use runtime::{Exit, ractor};

use crate::counters::Counters;

/// How connections of one io thread ended since the last batch. A batch is made at most once a
/// tick of the thread, and holds at most as many exits as the thread has slots.
#[derive(Debug)]
pub(crate) struct Exits(pub(crate) Vec<(SocketAddr, Exit)>);

impl ractor::Message for Exits {}

/// Supervises the connections of one io thread. A connection is never started again: the client
/// does that.
pub(crate) struct ConnectionSupervisor {
    pub(crate) counters: Arc<Counters>,
    pub(crate) seat: Seat,
}

/// Where an io thread finds its supervisor, also after the supervisor was started again.
pub(crate) type Seat = Arc<ArcSwapOption<ActorRef<Exits>>>;

impl ConnectionSupervisor {
    fn count(&self, exit: &Exit) {
        match exit {
            Exit::ProtocolError(_) => self.counters.protocol_errors_total.add(1),
            Exit::Panicked(_) => self.counters.panics_total.add(1),
            Exit::TimedOut => self.counters.timeouts_total.add(1),
            Exit::Normal | Exit::Kicked | Exit::Io(_) => {}
        }
    }
}

impl Actor for ConnectionSupervisor {
    type Msg = Exits;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, me: ActorRef<Exits>, (): ()) -> Result<(), ActorProcessingErr> {
        self.seat.store(Some(Arc::new(me)));
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Exits>,
        Exits(batch): Exits,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        for (peer, exit) in batch {
            self.count(&exit);
            match exit {
                Exit::Panicked(panic) => {
                    tracing::error!(%peer, panic, "a connection actor panicked");
                }
                Exit::ProtocolError(rule) => {
                    tracing::debug!(%peer, rule, "the client broke the protocol");
                }
                exit => tracing::trace!(%peer, reason = exit.label(), "a connection ended"),
            }
        }
        Ok(())
    }
}
