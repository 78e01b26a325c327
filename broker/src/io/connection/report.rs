//! What the connection says about itself, for an operator.

use mqtt::Filter;

use super::super::report::{Report, ReportAsked, SUBSCRIPTIONS_MAX};
use super::Connection;

impl Connection {
    pub(super) fn report(&self, asked: &ReportAsked) {
        let wanted = |filter: &Filter| match &asked.topic {
            Some(topic) => filter.matches(topic),
            None => true,
        };
        let report = Report {
            connection: self.id,
            client: self.live.client().cloned(),
            peer: self.socket.peer_addr().ok(),
            unsent_bytes: self.unsent.len(),
            view: self.live.view(wanted, SUBSCRIPTIONS_MAX, self.io.now()),
        };
        if asked.tell.try_send(Box::new(report)).is_err() {
            tracing::debug!("nobody waits any more for what a connection says");
        }
    }
}
