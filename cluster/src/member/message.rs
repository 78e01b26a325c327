//! What members tell each other on the control lane, as bytes. `docs/formats/member.md` has them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use bytes::Bytes;
use cluster_core::{
    ADDRESS_BYTES_MAX, FeatureLevel, FolderId, Group, Hello, MEMBERS_MAX, MetaAnswer, MetaCommand,
    NodeEpoch, NodeId, NotGranted, RaftId, Refusal, Renewal, RenewalId, SHARDS_MAX, StartCount,
};
use mqtt::Templates;

use crate::Damaged;
use crate::link;
use crate::stored::wire::{Reader, Sink, Stored, Why, choice, record, whole, wrapped};

/// Channel kinds of this room.
pub const CHANNELS: RangeInclusive<u16> = 32..=47;
/// A [`Ping`]; nothing is answered.
pub(super) const PING: u16 = 32;
/// Asks for the [`Ping`] that the asked node would send now.
pub(super) const HEARS: u16 = 33;
/// A [`Renewal`] to meta's leader; a [`RenewalAnswer`].
pub(super) const RENEW: u16 = 34;
/// A [`MetaCommand`] to meta's leader; a [`ProposeAnswer`].
pub(super) const PROPOSE: u16 = 35;
/// The [`Hello`] of a node that wants to join, to meta's leader; a [`JoinAnswer`].
pub(super) const JOIN: u16 = 36;
/// A [`Prepare`] to the node that is to get a replica; a [`Prepared`].
pub(super) const PREPARE: u16 = 37;
/// Asks the leader of the routes group for its committed index; a [`ReadAnswer`].
pub(super) const READ_ROUTES: u16 = 38;

/// Bytes of the longest answer, except to [`JOIN`].
pub(super) const ANSWER_BYTES_MAX: u32 = 16 << 10;
/// Bytes of the longest answer to [`JOIN`]: every member with its address.
pub(super) const JOIN_ANSWER_BYTES_MAX: u32 = 128 << 10;

/// The version of every message.
const VERSION: u8 = 1;
/// Groups that a node can lead.
const GROUPS_MAX: usize = SHARDS_MAX as usize + 2;

/// A sign of life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ping {
    /// The epoch that the node has begun, as far as it knows.
    pub epoch: Option<NodeEpoch>,
    /// Which run of the node this is.
    pub start: StartCount,
    /// Whether it stops: it stands for nothing, and is to be handed nothing.
    pub is_stopping: bool,
    /// The groups that it leads and accepts writes for; at most 130.
    pub claims: BTreeMap<Group, Claim>,
    /// The peers that it hears; at most [`MEMBERS_MAX`].
    pub heard: BTreeSet<NodeId>,
}

/// A leadership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Claim {
    /// Its term.
    pub term: u64,
    /// The index that the leader has applied.
    pub applied: u64,
    /// [`crate::Machine::reached`] of the leader.
    pub reached: u64,
}

/// What becomes of a [`Renewal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RenewalAnswer {
    /// The lease lasts on.
    Granted {
        /// As of [`cluster_core::GrantsEffect::Grant`].
        meta_seen: u64,
    },
    /// It does not.
    Refused(NotGranted),
    /// The asked node does not lead meta.
    NotLeader(Option<NodeId>),
}

/// What becomes of a proposal that was passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProposeAnswer {
    /// It was applied.
    Applied(MetaAnswer),
    /// Nothing was proposed: the asked node does not lead meta.
    NotLeader(Option<NodeId>),
    /// Nobody knows what became of it.
    Unknown,
    /// Nothing was proposed: the asked node has too many proposals under way.
    Busy,
}

/// What becomes of the wish to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JoinAnswer {
    /// The node is a member.
    Joined(Joined),
    /// The same, of a cluster with device-owned templates.
    JoinedWith {
        /// All else.
        joined: Joined,
        /// The templates; never none.
        templates: Templates,
    },
    /// It is not.
    Refused(link::Refusal),
    /// The asked node does not lead meta.
    NotLeader(Option<NodeId>),
}

/// What a node has to know that has become a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its number.
    pub node: NodeId,
    /// The cluster: the data folder of its founder.
    pub cluster: FolderId,
    /// What is in use.
    pub level: FeatureLevel,
    /// Session shards of the cluster.
    pub shards: u16,
    /// Its buckets of telemetry.
    pub buckets: u16,
    /// The other members; at most [`MEMBERS_MAX`].
    pub members: BTreeMap<NodeId, Neighbour>,
}

/// A member as another one has to know it to link with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its data folder.
    pub folder: FolderId,
    /// Its last start that began an epoch; 0 before the first.
    pub start: StartCount,
    /// Where it is dialed; empty before its first epoch. At most [`ADDRESS_BYTES_MAX`] bytes.
    pub address: String,
}

/// A group is about to get a learner: its node is to make an empty replica unless it has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prepare {
    /// The group.
    pub group: Group,
    /// The replica.
    pub replica: RaftId,
    /// Version of the move's row: a node that has applied it knows better.
    pub version: u64,
}

/// How far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prepared {
    /// The replica runs.
    Ready,
    /// It is being made: ask again.
    NotYet,
    /// Meta does not want it there.
    Unwanted,
}

/// How far a group was committed when its leader was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadAnswer {
    /// Up to here.
    Index(u64),
    /// The asked node does not lead it.
    NotLeader(Option<NodeId>),
    /// No quorum said so in time.
    Failed,
}

/// Something that one node tells another.
pub(super) trait Message: Sized {
    /// What it is called where it cannot be read.
    const NAME: &'static str;

    /// The bytes.
    fn encode(&self) -> Bytes;

    /// Reads them.
    ///
    /// # Errors
    /// They are no such message, of an unknown version, damaged, or exceed a bound.
    fn decode(bytes: &[u8]) -> Result<Self, Damaged>;
}

/// Nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Empty;

impl Stored for Empty {
    fn put(&self, _: &mut impl Sink) {}

    fn get(_: &mut Reader<'_>) -> Result<Self, Why> {
        Ok(Self)
    }
}

wrapped!(RenewalId);
record!(Ping {
    epoch,
    start,
    is_stopping,
    claims,
    heard,
});
record!(Claim {
    term,
    applied,
    reached
});
record!(Renewal {
    epoch,
    id,
    meta_applied,
    routes_applied,
    heard,
    leads,
});
choice!(RenewalAnswer, "answer to a renewal" {
    1 => Granted { meta_seen },
    2 => Refused(why),
    3 => NotLeader(leader),
});
choice!(NotGranted, "reason for no lease" { 1 => Ended, 2 => RoutesBehind, 3 => Deaf(other), 4 => Ending });
choice!(ProposeAnswer, "answer to a proposal" {
    1 => Applied(answer),
    2 => NotLeader(leader),
    3 => Unknown,
    4 => Busy,
});
choice!(MetaAnswer, "answer of meta" {
    1 => Done,
    2 => Joined { node },
    3 => Begun { epoch },
    4 => Recovered { incarnation },
    5 => Refused(refusal),
});
choice!(Refusal, "refusal of meta" {
    1 => NotFounded,
    2 => Founded { shards, buckets },
    3 => OtherFolder(node),
    4 => FolderTaken(node),
    5 => NoMember(node),
    6 => OldStart { node, asked, known },
    7 => LevelTooLow { asked, level },
    8 => MemberBehind { node, level },
    9 => Changed { current },
    10 => Moving { version },
    11 => Busy { node, limit },
    12 => Leaving(node),
    13 => OtherCluster { asked, known },
    14 => Invalid(what),
    15 => StillNeeded(node),
    16 => Full { what, limit },
    17 => HoldsNone(node),
    18 => HoldsOne(node),
    19 => Away(node),
    20 => NotLost { alive, voters },
});
record!(Hello {
    cluster,
    node,
    folder,
    level,
});
choice!(JoinAnswer, "answer to a node that joins" {
    1 => Joined(joined),
    2 => Refused(refusal),
    3 => NotLeader(leader),
    4 => JoinedWith { joined, templates },
});
record!(Joined {
    node,
    cluster,
    level,
    shards,
    buckets,
    members,
});
record!(Neighbour {
    folder,
    start,
    address,
});
record!(Prepare {
    group,
    replica,
    version,
});
choice!(Prepared, "state of a replica" { 1 => Ready, 2 => NotYet, 3 => Unwanted });
choice!(ReadAnswer, "answer to a read" {
    1 => Index(index),
    2 => NotLeader(leader),
    3 => Failed,
});

impl Stored for usize {
    fn put(&self, out: &mut impl Sink) {
        (*self as u64).put(out);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        let number = u64::get(from)?;
        Self::try_from(number).map_err(|error| Why::Text(error.to_string()))
    }
}

/// What refusals of meta say in words; a node of another version may say more.
const WORDS: [&str; 17] = [
    "no such shard",
    "nodes come and go by a move",
    "no such bucket",
    "a shard needs a voter",
    "a node holds one replica of a shard",
    "no such group",
    "the move changes nothing",
    "only a replica that stays can be renewed",
    "the number of shards",
    "the number of members",
    "the number of nodes ever",
    "the length of an address",
    "the number of new replicas",
    "the bucket holds rows",
    "nobody else would stay",
    "the bucket holds no rows",
    "the shard has no three voters: it is still being placed",
];
/// What stands for words that this version does not have.
const OTHER_WORDS: &str = "what another version says of it";

impl Stored for &'static str {
    fn put(&self, out: &mut impl Sink) {
        let place = WORDS.iter().position(|words| words == self);
        let code = place.map_or(0, |place| place as u8 + 1);
        code.put(out);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        let code = u8::get(from)?;
        let place = usize::from(code).checked_sub(1);
        match place.map(|place| WORDS.get(place)) {
            None => Ok(OTHER_WORDS),
            Some(Some(words)) => Ok(words),
            Some(None) => Err(Why::Tag {
                what: "wording of a refusal",
                tag: code,
            }),
        }
    }
}

impl Stored for link::Refusal {
    fn put(&self, out: &mut impl Sink) {
        self.code.number().put(out);
        self.offered.put(out);
        self.expected.put(out);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        Ok(Self {
            code: link::RefusalCode::of_number(u16::get(from)?),
            offered: u128::get(from)?,
            expected: u128::get(from)?,
        })
    }
}

/// What must hold of a message beyond what its fields can say.
trait Bounded {
    fn check(&self) -> Result<(), Why> {
        Ok(())
    }
}

impl Bounded for Ping {
    fn check(&self) -> Result<(), Why> {
        at_most("groups of a ping", self.claims.len(), GROUPS_MAX)?;
        at_most("peers of a ping", self.heard.len(), MEMBERS_MAX)
    }
}

impl Bounded for Renewal {
    fn check(&self) -> Result<(), Why> {
        at_most("peers of a renewal", self.heard.len(), MEMBERS_MAX)
    }
}

impl Bounded for MetaCommand {
    fn check(&self) -> Result<(), Why> {
        match self {
            Self::Begin(begin) => at_most(
                "bytes of an address",
                begin.address.len(),
                ADDRESS_BYTES_MAX,
            ),
            Self::Place { placement, .. } => at_most_members(placement),
            Self::StartMove(start) => at_most_members(&start.to),
            _ => Ok(()),
        }
    }
}

impl Bounded for JoinAnswer {
    fn check(&self) -> Result<(), Why> {
        let (Self::Joined(joined) | Self::JoinedWith { joined, .. }) = self else {
            return Ok(());
        };
        at_most("members", joined.members.len(), MEMBERS_MAX)?;
        let mut members = joined.members.values();
        members.try_for_each(|member| {
            at_most(
                "bytes of an address",
                member.address.len(),
                ADDRESS_BYTES_MAX,
            )
        })
    }
}

impl Bounded for Hello {}
impl Bounded for RenewalAnswer {}
impl Bounded for ProposeAnswer {}
impl Bounded for Prepare {}
impl Bounded for Prepared {}
impl Bounded for ReadAnswer {}
impl Bounded for Empty {}

fn at_most_members(placement: &cluster_core::Placement) -> Result<(), Why> {
    at_most(
        "nodes of a placement",
        placement.nodes().count(),
        MEMBERS_MAX,
    )
}

fn at_most(what: &str, count: usize, limit: usize) -> Result<(), Why> {
    if count > limit {
        return Err(Why::State(format!("{count} {what}, {limit} at most")));
    }
    Ok(())
}

macro_rules! messages {
    ($($message:ty: $name:literal),* $(,)?) => {$(
        impl Message for $message {
            const NAME: &'static str = $name;

            fn encode(&self) -> Bytes {
                let mut bytes = Vec::with_capacity(64);
                bytes.push(VERSION);
                self.put(&mut bytes);
                bytes.into()
            }

            fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
                read(bytes).map_err(|why| Damaged {
                    what: Self::NAME.to_owned(),
                    why: why.to_string(),
                })
            }
        }
    )*};
}

messages! {
    Ping: "a ping",
    Renewal: "a renewal",
    RenewalAnswer: "the answer to a renewal",
    MetaCommand: "a proposal",
    ProposeAnswer: "the answer to a proposal",
    Hello: "the wish to join",
    JoinAnswer: "the answer to a node that joins",
    Prepare: "the announcement of a replica",
    Prepared: "the answer to the announcement of a replica",
    ReadAnswer: "the answer to a read",
    Empty: "a question",
}

fn read<T: Stored + Bounded>(bytes: &[u8]) -> Result<T, Why> {
    let mut from = Reader::new(bytes);
    match u8::get(&mut from)? {
        VERSION => {}
        found => {
            return Err(Why::Version {
                found,
                known: VERSION,
            });
        }
    }
    let value: T = whole(from)?;
    value.check()?;
    Ok(value)
}

/// Reads a request or reply of a channel kind as a node does, and writes it again: for tests of the
/// gate, for which it must give the same bytes or an error.
///
/// # Errors
/// The bytes are refused.
pub fn rewritten(kind: u16, is_reply: bool, bytes: &[u8]) -> Result<Bytes, Damaged> {
    fn of<T: Message>(bytes: &[u8]) -> Result<Bytes, Damaged> {
        T::decode(bytes).map(|message| message.encode())
    }
    match (kind, is_reply) {
        (PING, false) | (HEARS, true) => of::<Ping>(bytes),
        (PING, true) | (HEARS | READ_ROUTES, false) => of::<Empty>(bytes),
        (RENEW, false) => of::<Renewal>(bytes),
        (RENEW, true) => of::<RenewalAnswer>(bytes),
        (PROPOSE, false) => of::<MetaCommand>(bytes),
        (PROPOSE, true) => of::<ProposeAnswer>(bytes),
        (JOIN, false) => of::<Hello>(bytes),
        (JOIN, true) => of::<JoinAnswer>(bytes),
        (PREPARE, false) => of::<Prepare>(bytes),
        (PREPARE, true) => of::<Prepared>(bytes),
        (READ_ROUTES, true) => of::<ReadAnswer>(bytes),
        _ => Err(Damaged {
            what: format!("channel {kind}"),
            why: "is none of this room".to_owned(),
        }),
    }
}
