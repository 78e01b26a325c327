//! What other nodes ask of the leader of a shard.

use bytes::Bytes;
use cluster::exchange::{Items, ItemsReply, Passing, RetainedRequest, Said, Seated, kinds};
use cluster::link::Responder;
use cluster::{Damaged, ShardItem as LogItem};
use session::Command;

use super::Leading;
use super::host::{Hosted, ShardHost};
use super::stream::{Carried, Item, Reply};

/// A request of another node.
#[derive(Debug)]
pub(crate) enum Request {
    /// Items of its numbered stream.
    Items(Vec<LogItem>),
    /// QoS 0, past the log.
    Passing(Passing),
    /// Retained messages.
    Retained(RetainedRequest),
    /// To be told once memberships of these versions are with their homes.
    Seated(Vec<u64>),
}

impl Request {
    /// Reads what a node asks of the leader of a shard; `None` for what is something else.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read(kind: u16, payload: &Bytes) -> Option<Result<Self, Damaged>> {
        Some(match kind {
            kinds::ITEMS => Items::decode(payload).and_then(Self::items),
            kinds::PASSING => Passing::decode(payload).map(Self::Passing),
            kinds::RETAINED => RetainedRequest::decode(payload).map(Self::Retained),
            kinds::SEATED => Seated::decode(payload).map(|asked| Self::Seated(asked.versions)),
            _ => return None,
        })
    }

    /// What leaders alone want in the log comes from no other node.
    fn items(Items { items }: Items) -> Result<Self, Damaged> {
        let is_item = |item: &LogItem| matches!(item, LogItem::Item { .. });
        match items.iter().all(is_item) {
            true => Ok(Self::Items(items)),
            false => Err(Damaged {
                what: "items of a stream".to_owned(),
                why: "one is not of a stream".to_owned(),
            }),
        }
    }
}

impl ShardHost {
    /// What another node asks of the leader.
    pub(super) fn asked(&self, hosted: &mut Hosted, request: Request, responder: Responder) {
        let Some(lead) = &mut hosted.lead else {
            return not_leading(hosted.leading, &request, responder);
        };
        match request {
            Request::Items(items) => {
                let now = self.boot();
                for wired in hosted.requests.take(items, responder) {
                    lead.handle_item(wired, now);
                }
            }
            Request::Passing(passing) => {
                responder.reply(Bytes::new());
                self.passing(hosted, passing);
            }
            Request::Retained(request) => lead.reads.handle_request(request, responder),
            Request::Seated(versions) => {
                hosted.asked_seated.push((versions, responder));
                self.let_go(hosted);
            }
        }
    }

    /// Messages of QoS 0 of another node.
    fn passing(&self, hosted: &mut Hosted, passing: Passing) {
        for message in &passing.messages {
            self.deliver_qos0(hosted, message);
        }
        for retain in passing.retains {
            hosted.stream.push(Item {
                command: Carried::new(Command::Retain(retain), None),
                reply: Reply::Nobody,
            });
        }
    }
}

/// Another node leads, or none: the node that asks looks for it.
fn not_leading(leading: Leading, request: &Request, responder: Responder) {
    if let Request::Items(_) = request {
        let leader = match leading {
            Leading::At(node) => Some(node),
            Leading::Here | Leading::Nobody => None,
        };
        responder.reply(ItemsReply::NotLeading(leader).encode());
    }
    // Of the rest it is told that there is no answer.
}
