//! Questions for retained messages whose leader is on another node.

use std::collections::VecDeque;
use std::sync::Arc;

use cluster::exchange::{RetainedReply, RetainedRequest, WantedRetained};
use mqtt::Filter;
use session::{ConnectionId, Message, Token};

/// Filters of one request.
const FILTERS_MAX: usize = 1_000;
/// Questions that wait, each of a SUBSCRIBE; one beyond is answered with nothing. Those of
/// connections that ended wait on for a leader too.
pub(super) const QUESTIONS_MAX: usize = 1 << 16;
/// Bytes that answers reserve on the lane of requests, of all shards that one node leads together, at
/// most: a quarter of what there is. One that a large message needs comes on top.
const REPLIES_BYTES: u32 = 8 << 20;
/// Bytes that an answer may have, at least and at most, unless one message needs more.
const REPLY_BYTES_MIN: u32 = 4 << 10;
const REPLY_BYTES_MAX: u32 = 64 << 10;

/// Filters, each with its place in what a connection asked.
pub(crate) type Wanted = Arc<[(usize, Filter)]>;
/// What is retained for the filter at this place.
pub(crate) type RowsAt = (usize, Vec<Arc<Message>>);

/// What a connection asks of a shard.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) connection: ConnectionId,
    pub(super) token: Token,
    pub(super) wanted: Wanted,
    /// Most rows for one filter.
    pub(super) limit: usize,
}

impl Question {
    /// This is its answer.
    pub(super) fn answered(self, rows: Vec<RowsAt>) -> Answered {
        Answered {
            connection: self.connection,
            token: self.token,
            rows,
        }
    }

    /// Nobody looks.
    pub(super) fn unanswered(self) -> Answered {
        self.answered(Vec::new())
    }
}

/// The answer to a question.
#[derive(Debug, PartialEq)]
pub(super) struct Answered {
    pub(super) connection: ConnectionId,
    pub(super) token: Token,
    pub(super) rows: Vec<RowsAt>,
}

/// Questions that wait for the leader elsewhere. One request is under way at a time; the next takes
/// all that gathered meanwhile.
#[derive(Debug)]
pub(super) struct Questions {
    waiting: VecDeque<Open>,
    /// Number of the request under way.
    under_way: Option<u64>,
    requests: u64,
    reply_bytes: u32,
    /// Bytes that a message needs which found no room in the last answer.
    needed_bytes: u32,
}

/// A question, and what is there of its answer.
#[derive(Debug)]
struct Open {
    question: Question,
    rows: Vec<RowsAt>,
    /// More may come for the last of `rows`.
    is_part: bool,
}

impl Open {
    /// Filters that are not answered whole.
    fn left(&self) -> impl Iterator<Item = WantedRetained> {
        let done = self.rows.len() - usize::from(self.is_part);
        let limit = self.question.limit;
        let wanted = self.question.wanted.iter().enumerate().skip(done);
        wanted.map(move |(at, (_, filter))| {
            let rows = self.rows.get(at).map_or(&[][..], |(_, rows)| rows);
            WantedRetained {
                filter: filter.clone(),
                limit: u32::try_from(limit.saturating_sub(rows.len())).unwrap_or(u32::MAX),
                after: rows.last().map(|row| row.topic.clone()),
            }
        })
    }

    fn is_answered(&self) -> bool {
        self.rows.len() == self.question.wanted.len() && !self.is_part
    }

    fn answer(self) -> Answered {
        self.question.answered(self.rows)
    }
}

impl Questions {
    /// None yet, of one of so many shards.
    pub(super) fn new(shards: u16) -> Self {
        let share = REPLIES_BYTES / u32::from(shards.max(1));
        Self {
            waiting: VecDeque::new(),
            under_way: None,
            requests: 0,
            reply_bytes: share.clamp(REPLY_BYTES_MIN, REPLY_BYTES_MAX),
            needed_bytes: 0,
        }
    }

    /// Takes a question. Where too many wait it is answered with nothing, at once.
    pub(super) fn push(&mut self, question: Question) -> Option<Answered> {
        let open = Open {
            question,
            rows: Vec::new(),
            is_part: false,
        };
        if self.waiting.len() >= QUESTIONS_MAX {
            return Some(open.answer());
        }
        self.waiting.push_back(open);
        None
    }

    /// The next request and its number, unless one is under way.
    pub(super) fn poll_request(&mut self) -> Option<(u64, RetainedRequest)> {
        if self.under_way.is_some() || self.waiting.is_empty() {
            return None;
        }
        let wanted = self.waiting.iter().flat_map(Open::left);
        let wanted = wanted.take(FILTERS_MAX).collect();
        self.requests += 1;
        self.under_way = Some(self.requests);
        let reply_bytes = self.reply_bytes.max(self.needed_bytes);
        let request = RetainedRequest {
            wanted,
            reply_bytes,
        };
        Some((self.requests, request))
    }

    /// A request was answered, or was not and is to be asked again; gives what is answered whole now.
    pub(super) fn handle_reply(
        &mut self,
        request: u64,
        reply: Option<RetainedReply>,
    ) -> Vec<Answered> {
        if self.under_way != Some(request) {
            return Vec::new();
        }
        self.under_way = None;
        let Some(reply) = reply else {
            return Vec::new();
        };
        self.needed_bytes = reply.needed_bytes;
        let mut answered = Vec::new();
        for answer in reply.answers {
            let Some(open) = self.waiting.front_mut() else {
                break;
            };
            match open.rows.last_mut().filter(|_| open.is_part) {
                Some((_, rows)) => rows.extend(answer.rows),
                None => {
                    let Some((at, _)) = open.question.wanted.get(open.rows.len()) else {
                        break;
                    };
                    open.rows.push((*at, answer.rows));
                }
            }
            open.is_part = !answer.is_whole;
            if open.is_answered() {
                answered.extend(self.waiting.pop_front().map(Open::answer));
            }
        }
        answered
    }

    /// The shard is led here now: all questions, to be answered whole.
    pub(super) fn take_all(&mut self) -> Vec<Question> {
        self.under_way = None;
        self.needed_bytes = 0;
        self.waiting.drain(..).map(|open| open.question).collect()
    }
}

#[cfg(test)]
#[path = "questions_test.rs"]
mod questions_test;
