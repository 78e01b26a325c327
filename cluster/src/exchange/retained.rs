//! Questions that the leader of a shard answers without its log.

use std::sync::Arc;

use mqtt::{Filter, Topic};
use session::Message;

use super::said;
use crate::stored::wire::{Stored, record};

/// Bytes of an answer beside its messages, and of a list in it; more than they take.
const ANSWER_BYTES: usize = 16;
const ROWS_BYTES: usize = 8;

/// Asks for retained messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedRequest {
    /// Which, in the order in which they are answered.
    pub wanted: Vec<WantedRetained>,
    /// Bytes that the answer may have.
    pub reply_bytes: u32,
}

/// A question of a [`RetainedRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedRetained {
    /// What the topics match.
    pub filter: Filter,
    /// At most so many messages.
    pub limit: u32,
    /// Of topics behind this one only: those up to it are there.
    pub after: Option<Topic>,
}

record!(RetainedRequest {
    wanted,
    reply_bytes
});
record!(WantedRetained {
    filter,
    limit,
    after
});

/// What is retained in the shard; messages have the wall time of its leader.
#[derive(Clone, Debug, PartialEq)]
pub struct RetainedReply {
    /// One for each question, from the first on, as many as found room.
    pub answers: Vec<RetainedRows>,
    /// Bytes that an answer needs in which the next message finds room, if there are no more in this
    /// one than it could have; else 0.
    pub needed_bytes: u32,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq)]
pub struct RetainedRows {
    /// In order of the topics.
    pub rows: Vec<Arc<Message>>,
    /// There are no more.
    pub is_whole: bool,
}

record!(RetainedReply {
    answers,
    needed_bytes
});
record!(RetainedRows { rows, is_whole });

impl RetainedReply {
    /// Answers a request as far as its bytes go. `rows_of` says what is retained.
    pub fn within(
        request: &RetainedRequest,
        mut rows_of: impl FnMut(&WantedRetained) -> Vec<Arc<Message>>,
    ) -> Self {
        let bytes_max = request.reply_bytes as usize;
        let mut bytes = ANSWER_BYTES;
        let mut reply = Self {
            answers: Vec::new(),
            needed_bytes: 0,
        };
        let mut encoded = Vec::new();
        for wanted in &request.wanted {
            bytes += ROWS_BYTES;
            if bytes > bytes_max {
                return reply;
            }
            let (mut rows, mut is_whole) = (Vec::new(), true);
            for row in rows_of(wanted) {
                encoded.clear();
                row.put(&mut encoded);
                if bytes + encoded.len() > bytes_max {
                    is_whole = false;
                    if rows.is_empty() && reply.answers.is_empty() {
                        let needed = ANSWER_BYTES + ROWS_BYTES + encoded.len();
                        reply.needed_bytes = u32::try_from(needed).unwrap_or(u32::MAX);
                    }
                    break;
                }
                bytes += encoded.len();
                rows.push(row);
            }
            reply.answers.push(RetainedRows { rows, is_whole });
            if !is_whole {
                return reply;
            }
        }
        reply
    }
}

/// Asks to be answered, with nothing, once memberships are with their home shards and the routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seated {
    /// Versions of their rows.
    pub versions: Vec<u64>,
}

record!(Seated { versions });

said!(
    new: RetainedRequest = "a question for retained messages",
    RetainedReply = "retained messages",
    Seated = "a question for memberships",
);
