//! What a host does as the leader of its shard.

use std::sync::Arc;

use cluster::Outcome;
use cluster::exchange::ItemsReply;
use cluster::raft::Unproposed;
use cluster_core::{Batch, EpochView, Refused, RouteVersion, RoutesAnswer, WillKey};
use session::{Answer, Command, Message, MessageId};

use super::host::{Hosted, ShardHost};
use super::lead::{self, Lead, Remote, Requests, Wired};
use super::stream::Stream;
use super::{Leading, ShardMessage};

/// Commands that one look at the clock may make due.
const DUE_COMMANDS_MAX: usize = 1_000;

impl ShardHost {
    /// Another node leads the shard, this one, or none. Everything unanswered is sent again.
    pub(super) fn led(&self, hosted: &mut Hosted, leading: Leading) {
        hosted.leading = leading;
        hosted.stream.restart();
        // Who asked is told that there is no answer, and asks the next leader.
        let unread = hosted.lead.take().map(|lead| lead.reads.into_questions());
        for question in unread.into_iter().flatten() {
            self.read_retained(hosted, question);
        }
        hosted.full.clear();
        hosted.requests = Requests::default();
        hosted.asked_seated.clear();
        let Leading::Here = leading else {
            hosted.memberships.handle_follow();
            if let Some(group) = &hosted.replica {
                group.with(|machine| machine.durable_mut().handle_follow());
            }
            return;
        };
        let Some(group) = hosted.replica.clone() else {
            return;
        };
        hosted.leads += 1;
        let mut lead = Lead::new(self.shard, hosted.leads, group, self.reading());
        // The sessions of ended epochs are disconnected before anything else is applied.
        lead.handle_item(Wired::Epochs(hosted.epochs.clone()), self.boot());
        hosted.lead = Some(lead);
        for question in hosted.questions.take_all() {
            self.read_retained(hosted, question);
        }
    }

    /// Meta says that these epochs are current.
    pub(super) fn epochs(&self, hosted: &mut Hosted, epochs: EpochView) {
        if epochs.index <= hosted.epochs.index {
            return;
        }
        hosted.epochs = epochs;
        if let Some(lead) = &mut hosted.lead {
            lead.handle_item(Wired::Epochs(hosted.epochs.clone()), self.boot());
        }
    }

    pub(super) fn routes_answered(&self, hosted: &mut Hosted, answer: Option<RoutesAnswer>) {
        let now = self.boot();
        let Some(lead) = &mut hosted.lead else { return };
        match answer {
            Some(answer) => lead.drain.handle_routes_answer(answer, now),
            None => lead.drain.handle_routes_failed(now),
        }
    }

    /// What time makes due goes on its way into the log.
    pub(super) fn look_for_due(&self, lead: &mut Lead) {
        let now = self.boot();
        lead.handle_timeout(now);
        let stamped = lead.stamp(self.reading());
        let due = lead.group.with(|machine| {
            let time = session::WallMs(stamped.time.time.0);
            machine.durable().due(time, DUE_COMMANDS_MAX)
        });
        for command in due {
            // The end of a wait ends nothing that a client counts on.
            if stamped.may_expire || matches!(command, Command::ReplayEnd { .. }) {
                lead.handle_item(Wired::Duty(command), now);
            }
        }
    }

    /// Proposes what waits, in one entry, unless one is under way, or too many payloads wait in
    /// memory for a flush: then its end brings us here again.
    pub(super) fn propose(&self, hosted: &mut Hosted) {
        let Some(lead) = &mut hosted.lead else { return };
        let (unflushed, limit) = lead.group.with(|machine| {
            let durable = machine.durable();
            let messages = durable.counters().queue_messages;
            let limit = self.memory.unflushed(messages, durable.sessions() as u64);
            (durable.unflushed_bytes() as u64, limit)
        });
        if unflushed > limit / 2 {
            lead.group.flush_soon();
        }
        if unflushed > limit {
            return;
        }
        let (stream, requests) = (&mut hosted.stream, &mut hosted.requests);
        let batch = lead.poll_batch(|item, reason| refused(stream, requests, &item, reason));
        let Some((batch, items)) = batch else {
            return;
        };
        let time = lead.stamp(self.reading()).time;
        let entry = lead::encode(time, lead.times, self.epoch, &items);
        let (group, me, lead) = (lead.group.clone(), hosted.me.clone(), lead.number);
        tokio::spawn(async move {
            let result = group.propose(entry).await;
            let landed = ShardMessage::Landed {
                lead,
                batch,
                items,
                result,
            };
            if me.cast(landed).is_err() {
                tracing::debug!("the shard's host has ended: the node is stopping");
            }
        });
    }

    pub(super) fn landed(
        &self,
        hosted: &mut Hosted,
        (number, batch): (u64, Batch),
        items: Vec<Wired>,
        result: Result<Vec<Outcome>, Unproposed>,
    ) {
        // One of an earlier leadership has its outcome all the same.
        let lead = hosted.lead.as_mut().filter(|lead| lead.number == number);
        let outcomes = match (result, lead) {
            (Ok(outcomes), lead) => {
                lead.into_iter()
                    .for_each(|lead| lead.handle_committed(batch));
                outcomes
            }
            (Err(Unproposed::Unavailable { why, .. }), Some(lead)) => {
                return lead.handle_unavailable(batch, items, why, self.boot());
            }
            (Err(_), lead) => {
                lead.into_iter().for_each(|lead| lead.handle_lost(batch));
                let (stream, requests) = (&mut hosted.stream, &mut hosted.requests);
                let lost = |item| refused(stream, requests, item, Refused::Deadline);
                return items.iter().for_each(lost);
            }
        };
        assert_eq!(outcomes.len(), items.len(), "an outcome for each item");
        hosted.backlog.handle_moved();
        for (item, outcome) in items.into_iter().zip(outcomes) {
            self.applied(hosted, item, outcome);
        }
    }

    fn applied(&self, hosted: &mut Hosted, wired: Wired, outcome: Outcome) {
        if let Outcome::Applied(Answer::Enqueued { repeat: false, .. }) = outcome
            && let Some(message) = wired.message()
        {
            self.deliver_qos0(hosted, message);
        }
        match (wired, outcome) {
            (Wired::Sent(sent), Outcome::Applied(answer)) => {
                if let Some(item) = hosted.stream.handle_answer(sent.n) {
                    self.answered(hosted, &item, answer);
                }
            }
            (Wired::Sent(sent), Outcome::Gap { next }) => {
                hosted.stream.handle_gap(sent.attempt, next);
            }
            (Wired::Remote(remote), outcome) => hosted.requests.handle_outcome(&remote, outcome),
            (_, Outcome::Ended) => self.epoch_ended(),
            (Wired::Duty(command), _) => hosted.duty_done(&command),
            (Wired::Epochs(_), _) => {}
        }
    }
}

impl Hosted {
    pub(super) fn loaded(&mut self, messages: Vec<(MessageId, Option<Arc<Message>>)>) {
        let Some(lead) = &self.lead else { return };
        lead.group.with(|machine| {
            let durable = machine.durable_mut();
            for (id, message) in messages {
                match message {
                    Some(message) => durable.handle_loaded(id, message),
                    None => durable.handle_not_found(id),
                }
            }
        });
    }

    /// What the leader wanted in the log is applied.
    fn duty_done(&mut self, command: &Command) {
        if let Command::MembershipDone { version } = command {
            self.memberships.handle_done(*version);
        }
        let Some(lead) = &mut self.lead else { return };
        match command {
            Command::RoutesDone { version } => {
                lead.drain.handle_routes_done(RouteVersion(*version));
            }
            Command::WillDone { id } => lead.drain.handle_will_done(WillKey(id.0)),
            _ => {}
        }
    }
}

/// An item was not brought into the log, or nobody knows: its sender sends it again.
fn refused(stream: &mut Stream, requests: &mut Requests, item: &Wired, reason: Refused) {
    tracing::debug!(%reason, "an item was not proposed; it is sent again");
    match item {
        Wired::Sent(sent) => stream.handle_error(sent.attempt),
        Wired::Remote(Remote { request, .. }) => {
            let reply = match reason {
                Refused::Led(node) => ItemsReply::NotLeading(Some(node)),
                Refused::Busy | Refused::Deadline => ItemsReply::Unknown,
            };
            requests.handle_refused(*request, &reply);
        }
        Wired::Duty(_) | Wired::Epochs(_) => {}
    }
}
