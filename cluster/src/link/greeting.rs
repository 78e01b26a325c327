//! The messages of the handshake, as bytes. `docs/formats/link.md` has the offsets.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use cluster_core::{FeatureLevel, FolderId, NodeId, StartCount};

use super::lane::{Grant, Lane};

/// How every message begins, in every version.
const MAGIC: [u8; 8] = *b"TIDELINK";
/// The version that this node speaks.
pub const PROTOCOL_VERSION: u16 = 1;
/// Bytes of the head, in every version.
const HEAD_BYTES: usize = 20;
/// Bytes of the largest body, in every version.
const BODY_BYTES_MAX: usize = 1024;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSAL: u8 = 3;
const WISH: u8 = 4;
const ADMISSION: u8 = 5;

/// Identity of a cluster, drawn at random when it is founded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Who a node says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number in the cluster.
    pub node: NodeId,
    /// Its data folder.
    pub folder: FolderId,
    /// How often it was started on that folder: its incarnation.
    pub start: StartCount,
    /// The feature level that it knows to be in use in the cluster.
    pub level: FeatureLevel,
    /// The highest feature level that it understands.
    pub understood: FeatureLevel,
}

/// The first message, of the side that dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who dials.
    pub identity: NodeIdentity,
    /// What the connection is for.
    pub lane: Lane,
    /// Who is sought.
    pub sought: NodeId,
    /// Drawn for this connection; the answer repeats it.
    pub nonce: u128,
}

/// The answer to a hello that is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Who answers.
    pub identity: NodeIdentity,
    /// Of the hello.
    pub nonce: u128,
    /// What the side that dialed may have open.
    pub grant: Grant,
}

/// The first message of a node without a number, which wants one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The cluster that it has to be, if its data folder belongs to one.
    pub cluster: Option<ClusterId>,
    /// Its data folder.
    pub folder: FolderId,
    /// The number that it wants; `None` for any. No node has number 0.
    pub node: Option<NodeId>,
    /// The highest feature level that it understands.
    pub understood: FeatureLevel,
    /// Drawn for this connection; the answer repeats it.
    pub nonce: u128,
}

/// The answer to a wish that is granted: how long what follows is, which its users read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Of the wish.
    pub nonce: u128,
    /// Bytes that follow.
    pub payload_bytes: u32,
    /// Their CRC-32C.
    pub payload_crc: u32,
}

/// Why a link is refused: what was offered, and what would have been good.
///
/// Both sides print it, so it speaks of neither as "we".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was wrong.
    pub code: RefusalCode,
    /// The value in question.
    pub offered: u128,
    /// What would have been good, or its bound.
    pub expected: u128,
}

/// What was wrong with a greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// The link protocol has another version.
    Version,
    /// Of another cluster.
    Cluster,
    /// It does not understand the feature level in use.
    Level,
    /// The node number belongs to another data folder.
    Folder,
    /// A later run of the same node was seen.
    Start,
    /// Another node than the one that was sought.
    Node,
    /// The node number is that of the node that judges.
    OwnNumber,
    /// The node was removed from the cluster.
    Removed,
    /// The certificate names another node.
    Certificate,
    /// No such lane.
    Lane,
    /// Too many of something.
    Crowded,
    /// No greeting.
    Garbage,
    /// Nothing came in time.
    Silence,
    /// The answer is to another hello.
    Nonce,
    /// The data folder is that of another member than the one that was asked for.
    Member,
    /// Nobody decides at present.
    Leaderless,
    /// There is no more room for members.
    Full,
    /// Another reason, of a later version.
    Other(u16),
}

const CODES: [RefusalCode; 17] = [
    RefusalCode::Version,
    RefusalCode::Cluster,
    RefusalCode::Level,
    RefusalCode::Folder,
    RefusalCode::Start,
    RefusalCode::Node,
    RefusalCode::OwnNumber,
    RefusalCode::Removed,
    RefusalCode::Certificate,
    RefusalCode::Lane,
    RefusalCode::Crowded,
    RefusalCode::Garbage,
    RefusalCode::Silence,
    RefusalCode::Nonce,
    RefusalCode::Member,
    RefusalCode::Leaderless,
    RefusalCode::Full,
];

impl RefusalCode {
    /// The number on the wire: its place in the list, from 1.
    pub(crate) fn number(self) -> u16 {
        if let Self::Other(number) = self {
            return number;
        }
        let place = CODES.iter().position(|code| *code == self);
        place.map_or(0, |place| place as u16 + 1)
    }

    pub(crate) fn of_number(number: u16) -> Self {
        let place = usize::from(number).checked_sub(1);
        let known = place.and_then(|place| CODES.get(place));
        known.copied().unwrap_or(Self::Other(number))
    }
}

impl Refusal {
    /// Bytes of one.
    pub const BYTES: usize = 36;

    /// A refusal of a value.
    pub fn new(code: RefusalCode, offered: impl Into<u128>, expected: impl Into<u128>) -> Self {
        Self {
            code,
            offered: offered.into(),
            expected: expected.into(),
        }
    }

    /// Appends [`Refusal::BYTES`].
    pub(super) fn encode(self, out: &mut BytesMut) {
        out.put_u16_le(self.code.number());
        out.put_u16_le(0);
        out.put_u128_le(self.offered);
        out.put_u128_le(self.expected);
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::BYTES {
            return None;
        }
        let code = RefusalCode::of_number(bytes.get_u16_le());
        let zero = bytes.get_u16_le();
        let (offered, expected) = (bytes.get_u128_le(), bytes.get_u128_le());
        (zero == 0).then_some(Self {
            code,
            offered,
            expected,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offered, expected) = (self.offered, self.expected);
        match self.code {
            RefusalCode::Version => write!(
                f,
                "version {offered} of the link protocol meets version {expected}"
            ),
            RefusalCode::Cluster => {
                write!(f, "cluster {offered:032x} meets cluster {expected:032x}")
            }
            RefusalCode::Level => write!(
                f,
                "a node that understands feature level {offered} meets feature level {expected} in use"
            ),
            RefusalCode::Folder => write!(
                f,
                "the node number belongs to data folder {expected:032x}, not to {offered:032x}"
            ),
            RefusalCode::Start => write!(
                f,
                "start {offered} of the node is past, start {expected} was seen"
            ),
            RefusalCode::Node => write!(f, "node {offered} is not the sought node {expected}"),
            RefusalCode::OwnNumber => {
                write!(f, "node number {offered} is that of both sides")
            }
            RefusalCode::Removed => write!(f, "node {offered} was removed from the cluster"),
            RefusalCode::Certificate => write!(
                f,
                "node number {offered} comes with the certificate of node {expected}"
            ),
            RefusalCode::Lane => write!(f, "lane {offered} is not known"),
            RefusalCode::Crowded => write!(f, "{expected} of this kind are open already"),
            RefusalCode::Garbage => {
                write!(
                    f,
                    "what came is no greeting; it begins with {:02x?}",
                    first(offered)
                )
            }
            RefusalCode::Silence => write!(f, "no greeting came within {expected} ms"),
            RefusalCode::Nonce => {
                write!(f, "nonce {offered:032x} answers nonce {expected:032x}")
            }
            RefusalCode::Member => {
                write!(f, "data folder {offered:032x} belongs to node {expected}")
            }
            RefusalCode::Leaderless => {
                write!(f, "no leader of the meta group could be asked at present")
            }
            RefusalCode::Full => write!(f, "the cluster has {expected} members, as many as can be"),
            RefusalCode::Other(number) => write!(
                f,
                "reason {number} of a later version: {offered} meets {expected}"
            ),
        }
    }
}

/// The first bytes of what is no greeting, as [`garbage`] put them into a number.
fn first(offered: u128) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = offered.to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

/// The refusal of bytes that are no greeting.
fn garbage(bytes: &[u8]) -> Refusal {
    let mut first = [0; 16];
    let shown = bytes.len().min(8);
    first[..shown].copy_from_slice(&bytes[..shown]);
    Refusal::new(RefusalCode::Garbage, u128::from_le_bytes(first), 0_u8)
}

/// A message of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Of the side that dialed.
    Hello(Hello),
    /// A good answer.
    Welcome(Welcome),
    /// A bad one; the connection ends.
    Refusal(Refusal),
    /// Of a node without a number.
    Wish(Wish),
    /// A good answer to that; the connection ends behind what follows.
    Admission(Admission),
}

impl Greeting {
    /// The message as bytes.
    pub fn encode(&self) -> Bytes {
        let mut body = BytesMut::new();
        let kind = match self {
            Self::Hello(hello) => {
                put_identity(&mut body, &hello.identity);
                body.put_u128_le(hello.nonce);
                body.put_u32_le(hello.sought.0);
                body.put_u8(hello.lane.code());
                body.put_bytes(0, 3);
                HELLO
            }
            Self::Welcome(welcome) => {
                put_identity(&mut body, &welcome.identity);
                body.put_u128_le(welcome.nonce);
                body.put_u32_le(welcome.grant.requests);
                body.put_u32_le(welcome.grant.payload_bytes);
                body.put_u64_le(welcome.grant.request_bytes);
                body.put_u64_le(welcome.grant.reply_bytes);
                WELCOME
            }
            Self::Refusal(refusal) => {
                refusal.encode(&mut body);
                REFUSAL
            }
            Self::Wish(wish) => {
                body.put_u128_le(wish.cluster.unwrap_or_default().0);
                body.put_u128_le(wish.folder.0);
                body.put_u128_le(wish.nonce);
                body.put_u32_le(wish.node.unwrap_or_default().0);
                body.put_u16_le(wish.understood.0);
                body.put_u16_le(0);
                WISH
            }
            Self::Admission(admission) => {
                body.put_u128_le(admission.nonce);
                body.put_u32_le(admission.payload_bytes);
                body.put_u32_le(admission.payload_crc);
                ADMISSION
            }
        };
        let mut out = BytesMut::with_capacity(HEAD_BYTES + body.len());
        out.put_slice(&MAGIC);
        out.put_u16_le(PROTOCOL_VERSION);
        out.put_u8(kind);
        out.put_u8(0);
        out.put_u16_le(body.len() as u16);
        out.put_u16_le(0);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &body);
        out.put_u32_le(crc);
        out.put_slice(&body);
        out.freeze()
    }

    /// Takes the next message from the front of `bytes`, once it is whole.
    ///
    /// # Errors
    /// The refusal to answer with; what is wrong shows as soon as its bytes are there. A refusal
    /// that came is read in every version.
    pub fn poll_decode(bytes: &mut BytesMut) -> Result<Option<Self>, Refusal> {
        let begins = bytes.len().min(MAGIC.len());
        if bytes[..begins] != MAGIC[..begins] {
            return Err(garbage(bytes));
        }
        let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let mut fields = &head[MAGIC.len()..];
        let version = fields.get_u16_le();
        let (kind, zero) = (fields.get_u8(), fields.get_u8());
        let body_bytes = usize::from(fields.get_u16_le());
        let zeros = fields.get_u16_le();
        let found = fields.get_u32_le();
        if zero != 0 || zeros != 0 || body_bytes > BODY_BYTES_MAX {
            return Err(garbage(&head[MAGIC.len()..]));
        }
        let message_bytes = HEAD_BYTES + body_bytes;
        if bytes.len() < message_bytes {
            return Ok(None);
        }
        let body = &bytes[HEAD_BYTES..message_bytes];
        let computed = crc32c::crc32c_append(crc32c::crc32c(&head[..HEAD_BYTES - 4]), body);
        if computed != found {
            return Err(garbage(&head[MAGIC.len()..]));
        }
        if version != PROTOCOL_VERSION && kind != REFUSAL {
            return Err(Refusal::new(
                RefusalCode::Version,
                version,
                PROTOCOL_VERSION,
            ));
        }
        let message = match kind {
            HELLO => hello(body)?.map(Self::Hello),
            WELCOME => welcome(body).map(Self::Welcome),
            REFUSAL => Refusal::decode(body).map(Self::Refusal),
            WISH => wish(body).map(Self::Wish),
            ADMISSION => admission(body).map(Self::Admission),
            _ => None,
        };
        let message = message.ok_or_else(|| garbage(&head[MAGIC.len()..]))?;
        bytes.advance(message_bytes);
        Ok(Some(message))
    }
}

const IDENTITY_BYTES: usize = 48;

fn put_identity(out: &mut BytesMut, identity: &NodeIdentity) {
    out.put_u128_le(identity.cluster.0);
    out.put_u128_le(identity.folder.0);
    out.put_u64_le(identity.start.0);
    out.put_u32_le(identity.node.0);
    out.put_u16_le(identity.level.0);
    out.put_u16_le(identity.understood.0);
}

fn get_identity(bytes: &mut &[u8]) -> NodeIdentity {
    NodeIdentity {
        cluster: ClusterId(bytes.get_u128_le()),
        folder: FolderId(bytes.get_u128_le()),
        start: StartCount(bytes.get_u64_le()),
        node: NodeId(bytes.get_u32_le()),
        level: FeatureLevel(bytes.get_u16_le()),
        understood: FeatureLevel(bytes.get_u16_le()),
    }
}

fn hello(mut body: &[u8]) -> Result<Option<Hello>, Refusal> {
    if body.len() != IDENTITY_BYTES + 24 {
        return Ok(None);
    }
    let identity = get_identity(&mut body);
    let nonce = body.get_u128_le();
    let sought = NodeId(body.get_u32_le());
    let lane = body.get_u8();
    let Some(lane) = Lane::of_code(lane) else {
        return Err(Refusal::new(RefusalCode::Lane, lane, 0_u8));
    };
    Ok((body == [0; 3]).then_some(Hello {
        identity,
        lane,
        sought,
        nonce,
    }))
}

fn welcome(mut body: &[u8]) -> Option<Welcome> {
    if body.len() != IDENTITY_BYTES + 40 {
        return None;
    }
    Some(Welcome {
        identity: get_identity(&mut body),
        nonce: body.get_u128_le(),
        grant: Grant {
            requests: body.get_u32_le(),
            payload_bytes: body.get_u32_le(),
            request_bytes: body.get_u64_le(),
            reply_bytes: body.get_u64_le(),
        },
    })
}

fn wish(mut body: &[u8]) -> Option<Wish> {
    if body.len() != 56 {
        return None;
    }
    let cluster = ClusterId(body.get_u128_le());
    let folder = FolderId(body.get_u128_le());
    let nonce = body.get_u128_le();
    let node = NodeId(body.get_u32_le());
    let understood = FeatureLevel(body.get_u16_le());
    (body == [0; 2]).then_some(Wish {
        cluster: (cluster != ClusterId::default()).then_some(cluster),
        folder,
        node: (node != NodeId::default()).then_some(node),
        understood,
        nonce,
    })
}

fn admission(mut body: &[u8]) -> Option<Admission> {
    if body.len() != 24 {
        return None;
    }
    Some(Admission {
        nonce: body.get_u128_le(),
        payload_bytes: body.get_u32_le(),
        payload_crc: body.get_u32_le(),
    })
}
