//! Answers of a shard on their way to who waits for them on this node.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use cluster::link::Responder;
use cluster_core::RouteVersion;
use session::Answer;

use super::ShardMessage;
use super::host::{Hosted, ShardHost};
use super::stream::{Item, Reply};
use crate::ids::Place;
use crate::io::ShardEvent;

/// Answers that wait for the routes, or for memberships.
///
/// Bounded by the connections' requests, and by the outboxes of the members' shards.
#[derive(Default)]
pub(super) struct Answers {
    waiting: VecDeque<Waiting>,
    /// Highest version that every reader of the routes sees.
    routes_visible: RouteVersion,
    /// Memberships of which the leader elsewhere said that they are with their homes, as long as
    /// an answer waits for one of them.
    seated: BTreeSet<u64>,
}

/// An answer that waits.
struct Waiting {
    /// For this version of the routes.
    route: u64,
    /// For the memberships of these versions.
    memberships: Vec<u64>,
    told: Told,
}

/// Who is told an answer.
enum Told {
    Thread(usize, ShardEvent),
    /// The shard of a member, about the row of this version.
    Shard(u16, u64),
}

impl Answers {
    /// Every reader of the routes sees the shard's rows up to here.
    pub(super) fn handle_visible(&mut self, version: RouteVersion) {
        self.routes_visible = self.routes_visible.max(version);
    }

    /// The leader elsewhere says that these memberships are with their homes.
    pub(super) fn handle_seated(&mut self, versions: Vec<u64>) {
        self.seated.extend(versions);
    }

    /// Memberships that answers wait for.
    pub(super) fn awaited(&self) -> BTreeSet<u64> {
        let all = self.waiting.iter().flat_map(|one| &one.memberships);
        all.filter(|version| !self.seated.contains(version))
            .copied()
            .collect()
    }
}

impl ShardHost {
    /// Tells who waits for an item what it answered.
    pub(super) fn answered(&self, hosted: &mut Hosted, item: &Item, answer: Answer) {
        if item.owner().is_some_and(|id| !self.threads.is_open(id)) {
            // Nobody waits any more; and if it went as nothing, the answer is none of its own.
            return;
        }
        match item.reply.clone() {
            Reply::Nobody => {}
            Reply::Owed(owed) => hosted.out[owed.thread(0)].push(ShardEvent::Settled(owed)),
            Reply::Opened(connection, client) => {
                let event = ShardEvent::Opened {
                    connection,
                    client,
                    answer,
                };
                hosted.out[Place::of(connection).thread].push(event);
            }
            Reply::Answer(connection, token) => {
                let route = awaited_version(&answer);
                let memberships = awaited_memberships(&answer);
                let event = ShardEvent::Answer {
                    connection,
                    token,
                    answer,
                };
                let thread = Place::of(connection).thread;
                let told = Told::Thread(thread, event);
                let waiting = Waiting {
                    route,
                    memberships,
                    told,
                };
                self.tell(hosted, waiting);
            }
            Reply::Member(shard, version) => {
                let waiting = Waiting {
                    route: awaited_version(&answer),
                    memberships: Vec::new(),
                    told: Told::Shard(shard, version),
                };
                self.tell(hosted, waiting);
            }
        }
    }

    /// Tells an answer, now or once what it waits for has come.
    fn tell(&self, hosted: &mut Hosted, answer: Waiting) {
        let of_leader = &hosted.answers.seated;
        let seats = &hosted.memberships;
        let seated = |version: &u64| of_leader.contains(version) || seats.is_seated(*version);
        let is_visible = answer.route <= hosted.answers.routes_visible.0;
        if !is_visible || !answer.memberships.iter().all(seated) {
            return hosted.answers.waiting.push_back(answer);
        }
        match answer.told {
            Told::Thread(thread, event) => hosted.out[thread].push(event),
            Told::Shard(shard, version) => self.shards.tell(shard, ShardMessage::Seated(version)),
        }
    }

    /// Tells the answers that need wait no longer.
    pub(super) fn let_go(&self, hosted: &mut Hosted) {
        // Versions of different filters do not arrive in order of the requests.
        for answer in std::mem::take(&mut hosted.answers.waiting) {
            self.tell(hosted, answer);
        }
        let Answers {
            waiting, seated, ..
        } = &mut hosted.answers;
        seated.retain(|version| {
            let mut waiting = waiting.iter();
            waiting.any(|one| one.memberships.contains(version))
        });
        self.answer_seated(hosted);
    }

    /// Answers other nodes whose memberships are with their homes.
    fn answer_seated(&self, hosted: &mut Hosted) {
        let seats = &hosted.memberships;
        let is_due = |asked: &mut (Vec<u64>, Responder)| {
            asked.0.iter().all(|version| seats.is_seated(*version))
        };
        for (_, responder) in hosted.asked_seated.extract_if(.., is_due) {
            responder.reply(Bytes::new());
        }
    }
}

/// The version of the routes that an answer waits for; 0 for none.
fn awaited_version(answer: &Answer) -> u64 {
    match answer {
        Answer::Subscribed(all) => all.iter().map(|one| one.version).max().unwrap_or(0),
        Answer::Unsubscribed(all) => all.iter().map(|one| one.version).max().unwrap_or(0),
        Answer::Membership { version } => *version,
        _ => 0,
    }
}

/// The memberships that an answer waits for.
fn awaited_memberships(answer: &Answer) -> Vec<u64> {
    let all: Vec<u64> = match answer {
        Answer::Subscribed(all) => all.iter().map(|one| one.membership).collect(),
        Answer::Unsubscribed(all) => all.iter().map(|one| one.membership).collect(),
        _ => return Vec::new(),
    };
    all.into_iter().filter(|version| *version > 0).collect()
}
