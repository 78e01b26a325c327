//! What a node does while it leads meta: leases, ends of epochs, plans of moves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster_core::{
    BootMs, EndReason, EpochView, Grants, GrantsEffect, Group as GroupName, Meta, MetaAnswer,
    MetaCommand, NodeEpoch, NodeId, NotGranted, Renewal, RenewalId, Round, StartCount, plan,
};

use super::driver::{Done, Runtime};
use super::event::MemberEvent;
use super::inner::NotProposed;
use super::message::{Message, RENEW, RenewalAnswer};
use crate::link::Responder;

/// How long an answer to a renewal is waited for; its lease is half over then.
const RENEW_DEADLINE: Duration = Duration::from_millis(1_500);
/// The pause after a plan before meta is planned for again although nothing has changed, in
/// milliseconds.
const PLAN_PAUSE_MS: u64 = 2_000;
/// The pause after a proposal to end an epoch, in milliseconds.
const END_PAUSE_MS: u64 = 500;
/// Renewals that wait for a round; an epoch has at most seven.
const RENEWALS_MAX: usize = 7 * cluster_core::MEMBERS_MAX;

/// One leadership of meta.
#[derive(Debug)]
pub(super) struct MetaTerm {
    term: u64,
    grants: Grants,
    /// Who waits for the answer to which renewal; no responder for this node itself.
    asked: BTreeMap<(NodeEpoch, RenewalId), Option<Responder>>,
    is_planning: bool,
    /// The index of meta that was planned for last, and when.
    planned: Option<(u64, BootMs)>,
    is_ending: bool,
    end_next: BootMs,
}

impl MetaTerm {
    fn new(term: u64, now: BootMs) -> Self {
        Self {
            term,
            grants: Grants::new(now),
            asked: BTreeMap::new(),
            is_planning: false,
            planned: None,
            is_ending: false,
            end_next: now,
        }
    }
}

impl Runtime {
    /// What has changed of the epochs from one state of meta to the next.
    pub(super) fn handle_epochs(
        &mut self,
        meta: &Meta,
        before: Option<&Meta>,
        epochs: &EpochView,
        now: BootMs,
    ) {
        let me = self.inner.me;
        let known = before.map(Meta::epochs).unwrap_or_default();
        let ended: Vec<NodeEpoch> = known.current.difference(&epochs.current).copied().collect();
        for &epoch in &ended {
            if let Some(term) = &mut self.term {
                term.grants.handle_ended(epoch);
            }
            if let Some(node) = before.and_then(|before| before.node_of(epoch))
                && node != me
            {
                self.say(MemberEvent::Gone { node, epoch });
            }
        }
        let own = self
            .tenure
            .handle_epochs(epochs, &ended, meta.is_lone(), now);
        if let Some(epoch) = own {
            self.handle_own_end(epoch, now);
        }
        self.show_lease(now);
    }

    fn handle_own_end(&mut self, epoch: NodeEpoch, now: BootMs) {
        self.show_lease(now);
        tracing::warn!(%epoch, "meta has ended the epoch of this node");
        self.say(MemberEvent::Ended(epoch));
    }

    /// Sets what acknowledgements ask.
    fn show_lease(&self, now: BootMs) {
        let heard = |shard| self.heard.get(&shard).copied();
        self.inner.lease.set(self.tenure.until(), heard, now);
    }

    /// Begins, enters and renews.
    pub(super) fn keep_lease(&mut self, now: BootMs) {
        if let Some(start) = self.tenure.poll_begin() {
            self.begin(start);
        }
        let applied = *self.routes_applied.borrow_and_update();
        self.tenure.handle_routes_applied(applied);
        if let Some(epoch) = self.tenure.poll_read() {
            let inner = Arc::clone(&self.inner);
            self.tasks.spawn(async move {
                let index = inner.read_routes().await;
                if let Err(why) = &index {
                    tracing::debug!(why, "the routes cannot be read");
                }
                Done::RoutesRead(epoch, index.ok())
            });
        }
        if let Some((epoch, id)) = self.tenure.poll_renewal(now) {
            self.renew(epoch, id, now);
        }
        let was_held = self.was_held;
        self.show_lease(now);
        self.was_held = self.inner.lease.is_held(now.0);
        if was_held && !self.was_held {
            self.inner.counters.leases_lost_total.add(1);
            // A node that stops has ended its epoch itself.
            let is_stopping = self.handover.is_begun();
            if !is_stopping {
                tracing::warn!(
                    "the lease is lost: nothing is acknowledged until it is granted again"
                );
            }
        }
        if let Some(epoch) = self.tenure.poll_serving() {
            tracing::info!(%epoch, "this node serves");
            self.say(MemberEvent::Serving(epoch));
        }
    }

    fn begin(&mut self, start: StartCount) {
        let inner = Arc::clone(&self.inner);
        let command = MetaCommand::Begin(cluster_core::Begin {
            node: inner.me,
            folder: inner.folder,
            start,
            address: inner.address.clone(),
            level: inner.understood,
        });
        self.tasks
            .spawn(async move { Done::Begun(inner.propose(&command).await) });
    }

    pub(super) fn handle_begun(&mut self, answer: Result<MetaAnswer, NotProposed>, now: BootMs) {
        match answer {
            Ok(MetaAnswer::Begun { epoch }) => {
                self.tenure.handle_begun(epoch, now);
                self.say(MemberEvent::Begun(epoch));
                if let Some(meta) = self.meta.clone() {
                    let epochs = meta.epochs();
                    self.handle_epochs(&meta, Some(&meta), &epochs, now);
                }
            }
            Ok(MetaAnswer::Refused(why)) => {
                tracing::error!(%why, "meta refuses this start of the node");
                self.tenure.handle_refused();
                self.say(MemberEvent::NotBegun(why));
            }
            Ok(other) => {
                tracing::error!(?other, "meta answers a beginning with something else");
                self.tenure.handle_unanswered();
            }
            Err(why) => {
                tracing::warn!(%why, "no epoch is begun yet");
                self.tenure.handle_unanswered();
            }
        }
    }

    /// Asks meta's leader for the lease.
    fn renew(&mut self, epoch: NodeEpoch, id: RenewalId, now: BootMs) {
        let renewal = Renewal {
            epoch,
            id,
            meta_applied: self.meta.as_ref().map_or(0, |meta| meta.index()),
            routes_applied: *self.routes_applied.borrow(),
            heard: self.epochs_heard(),
            leads: self.leads(),
        };
        self.inner.counters.renewals_total.add(1);
        let Some(leader) = self.inner.leader(GroupName::Meta) else {
            return;
        };
        if leader == self.inner.me {
            return self.handle_renewal(renewal, None, now);
        }
        let inner = Arc::clone(&self.inner);
        self.tasks.spawn(async move {
            let asked = inner.ask_for(leader, RENEW, renewal.encode(), RENEW_DEADLINE);
            match asked.await {
                Ok(answer) => Done::Renewed(epoch, id, answer),
                Err(why) => {
                    tracing::debug!(why, "a renewal has no answer");
                    Done::Nothing
                }
            }
        });
    }

    fn leads(&self) -> u16 {
        let shards = self.own.keys();
        shards
            .filter(|group| matches!(group, GroupName::Shard(_)))
            .count() as u16
    }

    /// Meta's leader has answered.
    pub(super) fn handle_renewed(
        &mut self,
        epoch: NodeEpoch,
        id: RenewalId,
        answer: RenewalAnswer,
        now: BootMs,
    ) {
        match answer {
            RenewalAnswer::Granted { meta_seen } => {
                self.tenure.handle_granted(epoch, id, meta_seen);
            }
            RenewalAnswer::Refused(NotGranted::Ended) => {
                if self.tenure.epoch() == Some(epoch)
                    && let Some(epoch) = self.tenure.handle_ended()
                {
                    self.handle_own_end(epoch, now);
                }
            }
            RenewalAnswer::Refused(why) => {
                tracing::warn!(%why, "the lease is not renewed");
                if why == NotGranted::RoutesBehind {
                    self.wake_routes();
                }
            }
            RenewalAnswer::NotLeader(leader) => {
                tracing::debug!(?leader, "a renewal went to a node that does not lead meta");
            }
        }
        self.show_lease(now);
    }

    /// Has the leader of the routes say how far they are committed. It says so to all members then, for
    /// as long as the group is in use: one that has every entry, and was not up when the commit of the
    /// last one was told, hears of it from a group that sleeps no other way.
    fn wake_routes(&mut self) {
        let inner = Arc::clone(&self.inner);
        self.tasks.spawn(async move {
            if let Err(why) = inner.read_routes().await {
                tracing::debug!(why, "the routes cannot be read");
            }
            Done::Nothing
        });
    }

    /// A node asks for its lease: another one, or this one without a responder.
    pub(super) fn handle_renewal(
        &mut self,
        renewal: Renewal,
        responder: Option<Responder>,
        now: BootMs,
    ) {
        let leader = self.inner.leader(GroupName::Meta);
        let (Some(term), Some(meta)) = (&mut self.term, &self.meta) else {
            if let Some(responder) = responder {
                let answer = RenewalAnswer::NotLeader(leader.filter(|node| *node != self.inner.me));
                responder.reply(answer.encode());
            }
            return;
        };
        if term.asked.len() < RENEWALS_MAX {
            let key = (renewal.epoch, renewal.id);
            term.asked.insert(key, responder);
            term.grants.handle_renewal(renewal, &meta.epochs(), now);
        }
        self.grant();
    }

    /// A quorum round of meta has ended.
    pub(super) fn handle_round(&mut self, term: u64, round: Round, is_good: bool, now: BootMs) {
        // What the round has shown to be committed is applied: the view must be as new.
        self.read_meta(now);
        let epochs = self.meta.as_ref().map(|meta| meta.epochs());
        let known = self.term.as_mut().filter(|known| known.term == term);
        if let (Some(known), Some(epochs)) = (known, epochs) {
            if is_good {
                known.grants.handle_round(round, &epochs, now);
            } else {
                known.grants.handle_round_failed(round);
            }
        }
        self.grant();
    }

    /// Does what the leases ask for.
    fn grant(&mut self) {
        while let Some(term) = &mut self.term
            && let Some(effect) = term.grants.poll_effect()
        {
            match effect {
                GrantsEffect::Round(round) => self.begin_round(round),
                GrantsEffect::Grant {
                    epoch,
                    id,
                    meta_seen,
                } => {
                    self.inner.counters.leases_granted_total.add(1);
                    self.answer(epoch, id, RenewalAnswer::Granted { meta_seen });
                }
                GrantsEffect::Refuse { epoch, id, why } => {
                    let counters = &self.inner.counters;
                    let counter = match why {
                        NotGranted::Ended | NotGranted::Ending => {
                            &counters.leases_refused_ended_total
                        }
                        NotGranted::RoutesBehind => &counters.leases_refused_routes_total,
                        NotGranted::Deaf(_) => &counters.leases_refused_deaf_total,
                    };
                    counter.add(1);
                    self.answer(epoch, id, RenewalAnswer::Refused(why));
                }
            }
        }
    }

    fn begin_round(&mut self, round: Round) {
        let (Some(term), Some(group)) = (&self.term, self.inner.meta()) else {
            return;
        };
        let term = term.term;
        self.tasks.spawn(async move {
            let read = group.read_index().await;
            Done::Round(term, round, read.is_ok())
        });
    }

    fn answer(&mut self, epoch: NodeEpoch, id: RenewalId, answer: RenewalAnswer) {
        let Some(term) = &mut self.term else {
            return;
        };
        let responder = term.asked.remove(&(epoch, id));
        // Older ones of the epoch are answered no more; their leases would be shorter.
        term.asked
            .retain(|(other, older), _| *other != epoch || *older > id);
        match responder {
            Some(Some(responder)) => responder.reply(answer.encode()),
            Some(None) => self.handle_renewed(epoch, id, answer, self.inner.now()),
            None => {}
        }
    }

    /// Does what meta's leader does besides.
    pub(super) fn keep_term(&mut self, now: BootMs) {
        let control = self.inner.control(GroupName::Meta);
        let leading = control.filter(|control| control.is_leading());
        let leader = leading.and_then(|control| control.leader());
        let Some(leader) = leader.filter(|leader| leader.node == self.inner.me) else {
            // Who waits for a lease asks the next leader.
            self.term = None;
            return;
        };
        if self
            .term
            .as_ref()
            .is_none_or(|term| term.term != leader.term)
        {
            self.term = Some(MetaTerm::new(leader.term, now));
        }
        let routes = self.inner.leaders.load().get(&GroupName::Routes).copied();
        if let (Some(term), Some(routes)) = (&mut self.term, routes) {
            term.grants.handle_routes(routes.applied, now);
        }
        self.grant();
        let Some(meta) = self.meta.clone() else {
            return;
        };
        if !meta.is_lone() {
            self.end_epochs(&meta, now);
        }
        self.plan(&meta, now);
    }

    fn end_epochs(&mut self, meta: &Meta, now: BootMs) {
        let Some(term) = &mut self.term else {
            return;
        };
        if term.is_ending || now < term.end_next {
            return;
        }
        let Some(epoch) = term.grants.poll_end(&meta.epochs(), now) else {
            return;
        };
        term.is_ending = true;
        term.end_next = now.plus_ms(END_PAUSE_MS);
        let node = meta.node_of(epoch).unwrap_or(NodeId(0));
        tracing::warn!(%epoch, %node, "the lease is over for long: the epoch is to end");
        self.inner.counters.ends_proposed_total.add(1);
        let inner = Arc::clone(&self.inner);
        self.tasks.spawn(async move {
            let end = MetaCommand::End {
                epoch,
                reason: EndReason::Dead,
            };
            // Only this leadership knows that it may: another one is not asked.
            inner.answer_proposal(&end).await;
            Done::Ended
        });
    }

    pub(super) fn handle_end_proposed(&mut self) {
        if let Some(term) = &mut self.term {
            term.is_ending = false;
        }
    }

    fn plan(&mut self, meta: &Arc<Meta>, now: BootMs) {
        let Some(term) = &mut self.term else {
            return;
        };
        let is_due = term
            .planned
            .is_none_or(|(index, at)| index != meta.index() || now.since_ms(at) >= PLAN_PAUSE_MS);
        if term.is_planning || !is_due {
            return;
        }
        term.planned = Some((meta.index(), now));
        let commands = plan(meta);
        if commands.is_empty() {
            return;
        }
        term.is_planning = true;
        let inner = Arc::clone(&self.inner);
        self.tasks.spawn(async move {
            for command in commands {
                let answer = inner.answer_proposal(&command).await;
                let is_move = matches!(command, MetaCommand::StartMove(_));
                match answer {
                    super::message::ProposeAnswer::Applied(MetaAnswer::Done) if is_move => {
                        inner.counters.moves_begun_total.add(1);
                    }
                    super::message::ProposeAnswer::Applied(_) => {}
                    // This node leads no longer, or cannot: the next plan is another leader's.
                    _ => break,
                }
            }
            Done::Planned
        });
    }

    pub(super) fn handle_planned(&mut self) {
        if let Some(term) = &mut self.term {
            term.is_planning = false;
        }
    }
}
