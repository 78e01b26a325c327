//! Questions for retained messages at the leader of their shard.
//!
//! Another node may lead the shard by now, and have acknowledged newer messages: whose disk is slow learns it late, since a
//! vote for another has to be on that disk first (`chaos disks --seed 20261202`). So the leader asks for a ReadIndex before it
//! answers (Raft, dissertation, 6.4), one for all that have come by then.

use cluster::ShardMachine;
use cluster::exchange::{RetainedReply, RetainedRequest, Said, WantedRetained};
use cluster::link::Responder;
use cluster::raft::Group;
use cluster_core::BootMs;

use super::ShardMessage;
use super::host::{Hosted, ShardHost};
use super::lead::Lead;
use super::questions::{Answered, QUESTIONS_MAX, Question};

/// Who asks, and what.
#[derive(Debug)]
pub(super) enum Asked<R = Responder> {
    /// A connection of this node.
    Here(Question),
    /// Another node; as many as its link grants.
    There(RetainedRequest, R),
}

/// What waits for the word that the shard is led here still. One word is asked for at a time, for all that have come by
/// then; what comes meanwhile waits for the next.
#[derive(Debug)]
pub(super) struct Reads<R = Responder> {
    waiting: Vec<Asked<R>>,
    /// Those for whom the word is on its way.
    under_way: Vec<Asked<R>>,
    /// The last word did not come.
    rests: bool,
}

impl<R> Default for Reads<R> {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            under_way: Vec::new(),
            rests: false,
        }
    }
}

impl<R> Reads<R> {
    /// Takes a question of this node. Where too many wait it is answered with nothing, at once.
    pub(super) fn push(&mut self, question: Question) -> Option<Answered> {
        if self.waiting.len() >= QUESTIONS_MAX {
            return Some(question.unanswered());
        }
        self.waiting.push(Asked::Here(question));
        None
    }

    /// Takes what another node asks.
    pub(super) fn handle_request(&mut self, request: RetainedRequest, responder: R) {
        self.waiting.push(Asked::There(request, responder));
    }

    /// Whether the word is to be asked for now.
    pub(super) fn poll_word(&mut self) -> bool {
        if self.rests || self.waiting.is_empty() || !self.under_way.is_empty() {
            return false;
        }
        self.under_way = std::mem::take(&mut self.waiting);
        true
    }

    /// The word came: these may be answered. Or it did not: it is asked for again after the next tick.
    pub(super) fn handle_word(&mut self, is_led: bool) -> Vec<Asked<R>> {
        let mut asked = std::mem::take(&mut self.under_way);
        if is_led {
            return asked;
        }
        self.rests = true;
        asked.append(&mut self.waiting);
        self.waiting = asked;
        Vec::new()
    }

    /// Time passed.
    pub(super) fn handle_tick(&mut self) {
        self.rests = false;
    }

    /// The leadership is over: the questions of this node, for who leads next. Other nodes ask it themselves.
    pub(super) fn into_questions(self) -> impl Iterator<Item = Question> {
        let all = self.under_way.into_iter().chain(self.waiting);
        all.filter_map(|asked| match asked {
            Asked::Here(question) => Some(question),
            Asked::There(..) => None,
        })
    }
}

/// Whether the group is led here, and the machine has applied everything that was answered before this call, on whatever
/// node.
pub(crate) async fn has_applied(group: &Group<ShardMachine>) -> bool {
    let Ok(index) = group.read_index().await else {
        return false;
    };
    let mut applied = group.watch_applied();
    applied.wait_for(|applied| *applied >= index).await.is_ok()
}

impl ShardHost {
    /// Asks for the word that questions wait for.
    pub(super) fn ask_word(&self, hosted: &mut Hosted) {
        let Some(lead) = &mut hosted.lead else { return };
        if !lead.reads.poll_word() {
            return;
        }
        let (group, me, lead) = (lead.group.clone(), hosted.me.clone(), lead.number);
        tokio::spawn(async move {
            let is_led = has_applied(&group).await;
            if me.cast(ShardMessage::Word { lead, is_led }).is_err() {
                tracing::debug!("the shard's host has ended: the node is stopping");
            }
        });
    }

    /// The shard is led here still, by this leadership, or it is not known.
    pub(super) fn word(&self, hosted: &mut Hosted, number: u64, is_led: bool) {
        let now = self.boot();
        let lead = hosted.lead.as_mut().filter(|lead| lead.number == number);
        // What an earlier leadership was asked went to who leads now.
        let Some(lead) = lead else { return };
        let asked = lead.reads.handle_word(is_led);
        let answered: Vec<Answered> = asked
            .into_iter()
            .filter_map(|asked| answer(lead, asked, now))
            .collect();
        for answered in answered {
            hosted.retained(answered);
        }
    }
}

/// Answers; gives what a connection of this node is to be told.
fn answer(lead: &Lead, asked: Asked, now: BootMs) -> Option<Answered> {
    match asked {
        Asked::Here(question) => {
            let rows = question.wanted.iter().map(|(at, filter)| {
                let rows = lead.retained(filter, None, question.limit, now);
                (*at, rows)
            });
            let rows = rows.collect();
            Some(question.answered(rows))
        }
        Asked::There(request, responder) => {
            let rows_of = |wanted: &WantedRetained| {
                let (after, limit) = (wanted.after.as_ref(), wanted.limit as usize);
                lead.retained(&wanted.filter, after, limit, now)
            };
            responder.reply(RetainedReply::within(&request, rows_of).encode());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use session::{ConnectionId, Token};

    fn question(n: u64) -> Question {
        Question {
            connection: ConnectionId(n),
            token: Token(n),
            wanted: Vec::new().into(),
            limit: 1,
        }
    }

    fn numbers(asked: impl IntoIterator<Item = Asked<()>>) -> Vec<Option<u64>> {
        let number = |asked| match asked {
            Asked::Here(question) => Some(question.connection.0),
            Asked::There(..) => None,
        };
        asked.into_iter().map(number).collect()
    }

    fn request() -> RetainedRequest {
        RetainedRequest {
            wanted: Vec::new(),
            reply_bytes: 64,
        }
    }

    #[test]
    fn a_word_is_for_those_who_came_before_it_was_asked_for() {
        let mut reads = Reads::default();
        assert!(!reads.poll_word(), "nobody asks");
        assert_eq!(reads.push(question(1)), None);
        reads.handle_request(request(), ());
        assert!(reads.poll_word());
        assert_eq!(reads.push(question(2)), None);
        assert!(!reads.poll_word(), "one is under way");

        assert_eq!(numbers(reads.handle_word(true)), [Some(1), None]);
        assert!(reads.poll_word());
        assert_eq!(numbers(reads.handle_word(true)), [Some(2)]);
        assert!(!reads.poll_word());
    }

    #[test]
    fn without_the_word_nobody_is_answered_and_all_wait_for_a_tick() {
        let mut reads = Reads::<()>::default();
        reads.push(question(1));
        assert!(reads.poll_word());
        reads.push(question(2));
        assert_eq!(numbers(reads.handle_word(false)), []);
        assert!(!reads.poll_word());

        reads.handle_tick();
        assert!(reads.poll_word());
        assert_eq!(numbers(reads.handle_word(true)), [Some(1), Some(2)]);
    }

    #[test]
    fn the_next_leader_is_asked_what_this_node_wants_to_know() {
        let mut reads = Reads::default();
        reads.push(question(1));
        assert!(reads.poll_word());
        reads.handle_request(request(), ());
        reads.push(question(2));
        let left: Vec<u64> = reads.into_questions().map(|one| one.connection.0).collect();
        assert_eq!(left, [1, 2]);
    }

    #[test]
    fn one_question_too_many_is_answered_with_nothing() {
        let mut reads = Reads::<()>::default();
        for n in 0..QUESTIONS_MAX as u64 {
            assert_eq!(reads.push(question(n)), None);
        }
        let answered = reads.push(question(7)).expect("an answer");
        assert_eq!((answered.token, answered.rows.len()), (Token(7), 0));
    }
}
