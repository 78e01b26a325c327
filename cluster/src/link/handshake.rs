//! Who may link with whom: the rules of the handshake, without a socket.

use std::collections::BTreeMap;

use bytes::BytesMut;
use cluster_core::{FeatureLevel, FolderId, NodeId, StartCount};

use super::greeting::{Greeting, Hello, NodeIdentity, Refusal, RefusalCode, Welcome, Wish};
use super::lane::Grant;

/// Nodes whose runs are remembered; a hello of one more is refused.
pub const NODES_MAX: usize = 1_024;

/// This node, and what it knows of the others.
#[derive(Clone, Debug)]
pub struct Roster {
    own: NodeIdentity,
    known: BTreeMap<NodeId, Known>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// The data folder of the number, and its latest run.
    Runs(FolderId, StartCount),
    /// No peer any more. Its number is never given again.
    Removed,
}

impl Roster {
    /// Knows nobody else.
    pub fn new(own: NodeIdentity) -> Self {
        Self {
            own,
            known: BTreeMap::new(),
        }
    }

    /// This node.
    pub fn own(&self) -> NodeIdentity {
        self.own
    }

    /// Takes note of the feature level that is in use from now on.
    pub fn set_level(&mut self, level: FeatureLevel) {
        self.own.level = level;
    }

    /// Takes note that this node has counted another start of itself, under which it is known from
    /// now on. A lower one changes nothing.
    pub fn set_start(&mut self, start: StartCount) {
        self.own.start = start.max(self.own.start);
    }

    /// Takes note of a member: its data folder, and its latest run. A run that is past, and a
    /// removed node, change nothing.
    pub fn learn(&mut self, node: NodeId, folder: FolderId, start: StartCount) {
        match self.known.get_mut(&node) {
            Some(Known::Runs(of, latest)) if *of == folder => *latest = start.max(*latest),
            Some(_) => {}
            None => {
                self.known.insert(node, Known::Runs(folder, start));
            }
        }
    }

    /// Takes note that a node is no peer any more.
    pub fn remove(&mut self, node: NodeId) {
        self.known.insert(node, Known::Removed);
    }

    /// Judges the hello of a node that dialed, and takes note of its run if it is good.
    ///
    /// `certified` is the number that its certificate names, where there are certificates.
    ///
    /// # Errors
    /// Says what is wrong; nothing is taken note of.
    pub fn judge_hello(&mut self, hello: &Hello, certified: Option<NodeId>) -> Result<(), Refusal> {
        let peer = &hello.identity;
        self.judge(peer, certified)?;
        if hello.sought != self.own.node {
            let (offered, expected) = (self.own.node.0, hello.sought.0);
            return Err(Refusal::new(RefusalCode::Node, offered, expected));
        }
        self.learn(peer.node, peer.folder, peer.start);
        Ok(())
    }

    /// Judges the answer to a hello, and takes note of the peer's run if it is good.
    ///
    /// # Errors
    /// Says what is wrong; nothing is taken note of.
    pub fn judge_welcome(
        &mut self,
        hello: &Hello,
        welcome: &Welcome,
        certified: Option<NodeId>,
    ) -> Result<(), Refusal> {
        let peer = &welcome.identity;
        if welcome.nonce != hello.nonce {
            return Err(Refusal::new(RefusalCode::Nonce, welcome.nonce, hello.nonce));
        }
        self.judge(peer, certified)?;
        if peer.node != hello.sought {
            let (offered, expected) = (peer.node.0, hello.sought.0);
            return Err(Refusal::new(RefusalCode::Node, offered, expected));
        }
        self.learn(peer.node, peer.folder, peer.start);
        Ok(())
    }

    fn judge(&self, peer: &NodeIdentity, certified: Option<NodeId>) -> Result<(), Refusal> {
        let own = &self.own;
        if peer.cluster != own.cluster {
            let (offered, expected) = (peer.cluster.0, own.cluster.0);
            return Err(Refusal::new(RefusalCode::Cluster, offered, expected));
        }
        // Each must understand what the other may already write; which level is in use they learn
        // at different times, so the levels in use are not compared.
        for (understood, used) in [(peer.understood, own.level), (own.understood, peer.level)] {
            if understood < used {
                return Err(Refusal::new(RefusalCode::Level, understood.0, used.0));
            }
        }
        if let Some(certified) = certified.filter(|certified| *certified != peer.node) {
            let (offered, expected) = (peer.node.0, certified.0);
            return Err(Refusal::new(RefusalCode::Certificate, offered, expected));
        }
        if peer.node == own.node {
            let number = peer.node.0;
            return Err(Refusal::new(RefusalCode::OwnNumber, number, number));
        }
        match self.known.get(&peer.node) {
            None if self.known.len() >= NODES_MAX => {
                let limit = NODES_MAX as u32;
                Err(Refusal::new(RefusalCode::Crowded, peer.node.0, limit))
            }
            None => Ok(()),
            Some(Known::Removed) => {
                Err(Refusal::new(RefusalCode::Removed, peer.node.0, peer.node.0))
            }
            Some(Known::Runs(folder, _)) if *folder != peer.folder => {
                Err(Refusal::new(RefusalCode::Folder, peer.folder.0, folder.0))
            }
            Some(Known::Runs(_, latest)) if peer.start < *latest => {
                Err(Refusal::new(RefusalCode::Start, peer.start.0, latest.0))
            }
            Some(Known::Runs(..)) => Ok(()),
        }
    }
}

/// The side that dials: says hello, waits for the answer.
#[derive(Clone, Copy, Debug)]
pub struct Dialing {
    hello: Hello,
}

/// How a handshake ended badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The other side refused; it has ended the connection.
    #[error("refused by the other side: {0}")]
    Theirs(Refusal),
    /// This side refuses; the other one is to be told.
    #[error("refused by this side: {0}")]
    Ours(Refusal),
}

impl Dialing {
    /// Begins with a hello.
    pub fn new(hello: Hello) -> Self {
        Self { hello }
    }

    /// What to send.
    pub fn hello(&self) -> Hello {
        self.hello
    }

    /// Takes what came so far; gives the welcome once it is there and good. What came behind it
    /// stays in `bytes`.
    ///
    /// # Errors
    /// Says who refused what.
    pub fn handle_bytes(
        &self,
        bytes: &mut BytesMut,
        roster: &mut Roster,
        certified: Option<NodeId>,
    ) -> Result<Option<Welcome>, Rejected> {
        match Greeting::poll_decode(bytes).map_err(Rejected::Ours)? {
            None => Ok(None),
            Some(Greeting::Welcome(welcome)) => {
                let judged = roster.judge_welcome(&self.hello, &welcome, certified);
                judged.map_err(Rejected::Ours)?;
                Ok(Some(welcome))
            }
            Some(Greeting::Refusal(refusal)) => Err(Rejected::Theirs(refusal)),
            Some(Greeting::Hello(Hello { nonce, .. }) | Greeting::Wish(Wish { nonce, .. })) => {
                Err(Rejected::Ours(misplaced(nonce)))
            }
            Some(Greeting::Admission(admission)) => Err(Rejected::Ours(misplaced(admission.nonce))),
        }
    }
}

/// Who greeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// A member, with the answer to send.
    Member(Hello, Welcome),
    /// A node that wants to be one. It is judged by the meta group.
    Applicant(Wish),
}

/// The side that accepted: waits for a hello or a wish.
///
/// Takes what came so far; gives who greeted once it is there and good. What came behind it stays
/// in `bytes`.
///
/// # Errors
/// Says who refused what.
pub fn answer(
    bytes: &mut BytesMut,
    roster: &mut Roster,
    certified: Option<NodeId>,
    grant: impl FnOnce(&Hello) -> Grant,
) -> Result<Option<Met>, Rejected> {
    let hello = match Greeting::poll_decode(bytes).map_err(Rejected::Ours)? {
        None => return Ok(None),
        Some(Greeting::Hello(hello)) => hello,
        Some(Greeting::Wish(wish)) => {
            let wish = certified_wish(wish, certified).map_err(Rejected::Ours)?;
            return Ok(Some(Met::Applicant(wish)));
        }
        Some(Greeting::Refusal(refusal)) => return Err(Rejected::Theirs(refusal)),
        Some(Greeting::Welcome(Welcome { nonce, .. })) => {
            return Err(Rejected::Ours(misplaced(nonce)));
        }
        Some(Greeting::Admission(admission)) => {
            return Err(Rejected::Ours(misplaced(admission.nonce)));
        }
    };
    let judged = roster.judge_hello(&hello, certified);
    judged.map_err(Rejected::Ours)?;
    let welcome = Welcome {
        identity: roster.own(),
        nonce: hello.nonce,
        grant: grant(&hello),
    };
    Ok(Some(Met::Member(hello, welcome)))
}

/// Where there are certificates, a node can have the number of its own only.
fn certified_wish(wish: Wish, certified: Option<NodeId>) -> Result<Wish, Refusal> {
    match (wish.node, certified) {
        (Some(asked), Some(certified)) if asked != certified => {
            Err(Refusal::new(RefusalCode::Certificate, asked.0, certified.0))
        }
        (asked, certified) => Ok(Wish {
            node: asked.or(certified),
            ..wish
        }),
    }
}

/// The refusal of a message that the other side has no use for.
fn misplaced(nonce: u128) -> Refusal {
    Refusal::new(RefusalCode::Garbage, nonce, 0_u8)
}
