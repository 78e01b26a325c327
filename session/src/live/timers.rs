//! Connect timeout, keep alive, settle deadline.

use mqtt::{ReasonCode, Version};

use super::effect::ClosedBy;
use super::requests::RETAINED_WAIT_MS;
use super::{Live, Phase};
use crate::{MonoMs, Now, WillFate};

impl Live {
    pub(super) fn next_deadline(&self) -> Option<MonoMs> {
        let all = match self.phase {
            Phase::Closed | Phase::ClosingOpen => return None,
            Phase::Open => [
                self.keep_alive_deadline(),
                self.settle_deadline(),
                self.retained_deadline(),
            ],
            _ => [Some(self.connect_deadline()), None, None],
        };
        all.into_iter().flatten().min()
    }

    pub(super) fn timeout(&mut self, now: Now) {
        let is_due = |at: Option<MonoMs>| at.is_some_and(|at| at <= now.mono);
        if self.phase != Phase::Open {
            if is_due(self.next_deadline()) {
                self.close_server(ReasonCode::ServerUnavailable);
            }
            return;
        }
        //# [MQTT-3.1.2-22] ... MUST close the Network Connection to the Client as if the
        //# network had failed
        if is_due(self.keep_alive_deadline()) {
            return self.close_server(ReasonCode::KeepAliveTimeout);
        }
        if is_due(self.settle_deadline()) {
            return self.close_server(ReasonCode::ServerBusy);
        }
        while is_due(self.retained_deadline()) {
            let late = self.requests.as_ref().and_then(|r| r.oldest_retained());
            let Some((token, _)) = late else { return };
            self.retained(token, Vec::new(), now);
        }
    }

    pub(super) fn close_server(&mut self, reason: ReasonCode) {
        self.close(reason, ClosedBy::Server, WillFate::Keep);
    }

    fn connect_deadline(&self) -> MonoMs {
        // Before CONNECT nothing was heard: this is the time of accept.
        self.accepted.plus_ms(self.config.connect_timeout_ms)
    }

    fn keep_alive_deadline(&self) -> Option<MonoMs> {
        let allowed_ms = u64::from(self.keep_alive_s) * 1_500;
        let counts = allowed_ms > 0 && !self.is_read_stopped;
        counts.then(|| self.last_heard.plus_ms(allowed_ms))
    }

    fn settle_deadline(&self) -> Option<MonoMs> {
        let publish = self.inbound.as_ref().and_then(|i| i.oldest());
        let request = self.requests.as_ref().and_then(|r| r.oldest());
        let oldest = [publish, request].into_iter().flatten().min()?;
        Some(oldest.plus_ms(self.config.settle_deadline_ms))
    }

    fn retained_deadline(&self) -> Option<MonoMs> {
        let (_, since) = self.requests.as_ref()?.oldest_retained()?;
        Some(since.plus_ms(RETAINED_WAIT_MS))
    }

    /// Whether the version lets the server say why it disconnects.
    pub(super) fn may_send_disconnect(&self) -> bool {
        self.version == Version::V5 && self.phase == Phase::Open
    }
}
