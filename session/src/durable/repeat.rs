//! Answers to commands that were applied before.

use mqtt::{ClientId, Filter, ReasonCode};

use super::session::{Session, State};
use super::{Durable, granted};
use crate::{Answer, Command, Epoch, Open, Retained, Subscribed, Subscription, Unsubscribed};

impl Durable {
    /// What a command is answered that was applied before: what the rows remember of it, else
    /// what lets the connection go on. Changes nothing (SEMANTICS, Publishing: "a repeat changes
    /// nothing and is answered as the first was").
    ///
    /// Commands of a connection that owns the session no longer answer [`Answer::WrongEpoch`],
    /// also when the first came before that: nothing is acknowledged under an old epoch.
    pub fn answer_repeat(&self, command: &Command) -> Answer {
        match command {
            Command::Open(open) => self.repeat_open(open),
            Command::Subs(subs) => self.repeat_owned(&subs.client, subs.epoch, |session| {
                let each = subs.filters.iter();
                let each = each.map(|(filter, wanted)| match filter.shared() {
                    Some(_) => self.repeat_share(&subs.client, filter),
                    None => {
                        self.repeat_sub((&subs.client, session.state.as_deref()), filter, wanted)
                    }
                });
                Answer::Subscribed(each.collect())
            }),
            Command::Unsubs(unsubs) => self.repeat_owned(&unsubs.client, unsubs.epoch, |_| {
                let of = |filter: &Filter| Unsubscribed {
                    reason: ReasonCode::Success,
                    version: self.awaited_version(filter, self.is_owned(&unsubs.client, filter)),
                    membership: self.shares.pending_version(&unsubs.client, filter),
                };
                Answer::Unsubscribed(unsubs.filters.iter().map(of).collect())
            }),
            Command::Membership(membership) => self.answer_membership(&membership.filter),
            Command::Q2In {
                client,
                epoch,
                packet_id,
            } => self.repeat(client, *epoch, |state| match state.q2.number(*packet_id) {
                Some((n, floor)) => Answer::Q2In { n, floor },
                // The first was refused: an exchange ends only after its answer was heard.
                None => Answer::Refused(ReasonCode::ReceiveMaximumExceeded),
            }),
            Command::Q2Out { client, epoch, .. } => {
                self.repeat(client, *epoch, |_| Answer::Q2Out { found: true })
            }
            Command::Rec { client, epoch, .. } => {
                self.repeat(client, *epoch, |_| Answer::Rec { found: true })
            }
            Command::Enqueue(_) => Answer::Enqueued {
                taken: 0,
                dropped: 0,
                repeat: true,
            },
            Command::Retain(_) => Answer::Retained(Retained::Stored),
            _ => Answer::Done,
        }
    }

    fn repeat_open(&self, open: &Open) -> Answer {
        match self.sessions.get(&open.client) {
            Some(session)
                if (session.node_epoch, session.connection)
                    == (open.node_epoch, open.connection) =>
            {
                super::ownership::opened(session)
            }
            // It was refused, or somebody came later: who still waits asks again, knowing this.
            session => Answer::WrongEpoch {
                current: session.map(|session| session.epoch),
            },
        }
    }

    fn repeat_share(&self, client: &ClientId, filter: &Filter) -> Subscribed {
        let share = self.shares.get(client, filter);
        Subscribed {
            reason: share.map_or(ReasonCode::QuotaExceeded, |share| {
                granted(share.subscription.options.qos)
            }),
            version: 0,
            replay: false,
            membership: self.shares.pending_version(client, filter),
        }
    }

    fn repeat_sub(
        &self,
        (client, state): (&ClientId, Option<&State>),
        filter: &Filter,
        wanted: &Subscription,
    ) -> Subscribed {
        let is_there = state.is_some_and(|state| state.subscription(filter).is_some());
        Subscribed {
            reason: if is_there {
                granted(wanted.options.qos)
            } else {
                ReasonCode::QuotaExceeded
            },
            version: if is_there {
                self.awaited_version(filter, self.is_owned(client, filter))
            } else {
                0
            },
            replay: state
                .is_some_and(|state| state.replays.iter().any(|replay| replay.filter == *filter)),
            membership: 0,
        }
    }

    /// The answer to a command of the connection that owns a session.
    fn repeat_owned(
        &self,
        client: &ClientId,
        epoch: Epoch,
        answer: impl FnOnce(&Session) -> Answer,
    ) -> Answer {
        match self.sessions.get(client) {
            Some(session) if session.epoch == epoch => answer(session),
            session => Answer::WrongEpoch {
                current: session.map(|session| session.epoch),
            },
        }
    }

    /// The answer to a command of the connection that owns a persistent session.
    fn repeat(
        &self,
        client: &ClientId,
        epoch: Epoch,
        answer: impl FnOnce(&State) -> Answer,
    ) -> Answer {
        let session = self.sessions.get(client);
        let owned = session.filter(|session| session.epoch == epoch);
        match owned.and_then(|session| session.state.as_deref()) {
            Some(state) => answer(state),
            None => Answer::WrongEpoch {
                current: session.map(|session| session.epoch),
            },
        }
    }
}
