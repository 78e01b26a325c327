//! Whether a replica leads its shard: who does hands out effects.

use defects::Defect;

use super::Durable;
use super::full_nodes::FullNodes;
use super::loads::Loads;

impl Durable {
    /// This replica leads its shard, and has applied all that the log had committed before: it hands
    /// everything out, since nobody knows what a leader before has handed out and what of that
    /// arrived. Each row of the outbox (routes, wills, memberships); what is queued for each connected
    /// session, from the oldest unacknowledged message on, which [`crate::Live`] drops as far as it
    /// has had it; what members of groups have not acknowledged; who lost a session of late.
    ///
    /// May be called again by who leads already. Looks at every session.
    pub fn handle_lead(&mut self) {
        self.handle_follow();
        self.leads = true;
        self.takeovers.lead(self.time);
        self.outbox.resume();
        if defects::is(Defect::OutboxNotResumed) {
            self.outbox.pass_over();
        }
        self.shares.resume();
        self.groups.lead();
        for (client, session) in &mut self.sessions {
            let connected = session.is_connected();
            if let Some(state) = session.state.as_mut().filter(|_| connected) {
                // What earlier owners may have sent stays as it was: that is replicated.
                state.queue.restart_delivery();
                session.is_ready = true;
                self.ready.push_back(client.clone());
            }
        }
    }

    /// Another replica leads, or none: nothing is handed out any longer, and nothing kept of what
    /// was. Answers to [`super::DurableEffect::Load`] may still come.
    pub fn handle_follow(&mut self) {
        self.leads = false;
        self.takeovers.follow();
        self.full = FullNodes::default();
        self.loads = Loads::new(self.limits.payload_cache_bytes);
        for client in std::mem::take(&mut self.ready) {
            if let Some(session) = self.sessions.get_mut(&client) {
                session.is_ready = false;
            }
        }
        self.groups.follow();
    }

    /// Whether effects are handed out here.
    pub fn leads(&self) -> bool {
        self.leads
    }
}
