//! Answers to commands that were applied before.

use mqtt::{ClientId, Filter, ReasonCode};

use super::session::State;
use super::{Durable, granted};
use crate::{Answer, Command, Epoch, Open, Retained, Subscribed, Subscription, Unsubscribed};

impl Durable {
    /// What a command is answered that was applied before: what the rows remember of it. Changes
    /// nothing (SEMANTICS, Publishing: "a repeat changes nothing and is answered as the first
    /// was").
    pub fn answer_repeat(&self, command: &Command) -> Answer {
        match command {
            Command::Open(open) => self.repeat_open(open),
            Command::Subs(subs) => match self.state_of(&subs.client, subs.epoch) {
                Ok(state) => {
                    let each = subs.filters.iter();
                    let each = each.map(|(filter, wanted)| self.repeat_sub(state, filter, wanted));
                    Answer::Subscribed(each.collect())
                }
                Err(answer) => answer,
            },
            Command::Unsubs(unsubs) => {
                let of = |filter| Unsubscribed {
                    reason: ReasonCode::Success,
                    version: self.outbox.version(filter),
                };
                Answer::Unsubscribed(unsubs.filters.iter().map(of).collect())
            }
            Command::Q2In {
                client,
                epoch,
                packet_id,
            } => match self.state_of(client, *epoch) {
                Ok(state) => match state.q2.number(*packet_id) {
                    Some((n, floor)) => Answer::Q2In { n, floor },
                    // The first was refused: an exchange ends only after its answer was heard.
                    None => Answer::Refused(ReasonCode::ReceiveMaximumExceeded),
                },
                Err(answer) => answer,
            },
            Command::Enqueue(_) => Answer::Enqueued {
                taken: 0,
                dropped: 0,
                repeat: true,
            },
            Command::Q2Out { .. } => Answer::Q2Out { found: true },
            Command::Rec { .. } => Answer::Rec { found: true },
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

    fn repeat_sub(&self, state: &State, filter: &Filter, wanted: &Subscription) -> Subscribed {
        let is_there = state.subscription(filter).is_some();
        Subscribed {
            reason: if is_there {
                granted(wanted.options.qos)
            } else {
                ReasonCode::QuotaExceeded
            },
            version: if is_there {
                self.outbox.version(filter)
            } else {
                0
            },
            replay: state.replays.iter().any(|replay| replay.filter == *filter),
        }
    }

    fn state_of(&self, client: &ClientId, epoch: Epoch) -> Result<&State, Answer> {
        match self.sessions.get(client) {
            Some(session) if session.epoch == epoch => {
                session.state.as_deref().ok_or(Answer::WrongEpoch {
                    current: Some(epoch),
                })
            }
            session => Err(Answer::WrongEpoch {
                current: session.map(|session| session.epoch),
            }),
        }
    }
}
