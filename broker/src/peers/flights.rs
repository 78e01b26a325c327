//! Requests under way to one node whose answers are wanted in their order.

use std::time::Duration;

use bytes::Bytes;
use cluster::link::{PendingReply, RequestError};
use tokio::sync::mpsc;

/// Requests under way: enough that the next one fills while one is answered.
const FLIGHTS_MAX: usize = 8;
/// How long an answer may take: longer than a leader tries to get an item into its log.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// How long until what was refused, or lost, is sent again.
pub(crate) const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Requests under way, in order; `F` says what each carries.
pub(crate) struct Flights<F> {
    flights: mpsc::Sender<(F, PendingReply)>,
    under_way: usize,
    pauses: bool,
}

impl<F: Send + 'static> Flights<F> {
    /// None yet. `landed` is told each answer, in the order of the requests, and says whether
    /// anybody still wants to know.
    pub(crate) fn new(
        mut landed: impl FnMut(F, Result<Bytes, RequestError>) -> bool + Send + 'static,
    ) -> Self {
        let (flights, mut incoming) = mpsc::channel::<(F, PendingReply)>(FLIGHTS_MAX);
        tokio::spawn(async move {
            while let Some((flight, reply)) = incoming.recv().await {
                let reply = reply.wait().await;
                if !landed(flight, reply) {
                    return;
                }
            }
        });
        Self {
            flights,
            under_way: 0,
            pauses: false,
        }
    }

    /// Whether another one may begin.
    pub(crate) fn has_room(&self) -> bool {
        self.under_way < FLIGHTS_MAX && !self.pauses
    }

    /// One has begun.
    pub(crate) fn begin(&mut self, flight: F, reply: PendingReply) {
        self.under_way += 1;
        let sent = self.flights.try_send((flight, reply));
        assert!(sent.is_ok(), "as many find room as may be under way");
    }

    /// One was answered.
    pub(crate) fn handle_landed(&mut self) {
        self.under_way -= 1;
    }

    /// None begins until [`Flights::go_on`], which the caller is to have called after
    /// [`RETRY_DELAY`]; false if he knows already.
    pub(crate) fn pause(&mut self) -> bool {
        !std::mem::replace(&mut self.pauses, true)
    }

    /// The pause is over.
    pub(crate) fn go_on(&mut self) {
        self.pauses = false;
    }
}
