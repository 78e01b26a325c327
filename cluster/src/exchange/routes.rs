//! Rows for the leader of the routes.

use cluster_core::{NodeId, RoutesAnswer, RoutesCommand};

use super::said;
use crate::stored::wire::{choice, record};

/// Asks for an entry of the routes' log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutesRequest {
    /// What it is to hold.
    pub command: RoutesCommand,
}

record!(RoutesRequest { command });

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutesReply {
    /// It is applied at the leader.
    Applied(RoutesAnswer),
    /// It is not in the log: another node leads, which this one may know.
    NotLeading(Option<NodeId>),
    /// It may be in the log.
    Unknown,
}

choice!(RoutesReply, "reply to rows" {
    1 => Applied(answer),
    2 => NotLeading(leader),
    3 => Unknown,
});

choice!(RoutesAnswer, "answer of the routes" {
    1 => Done { version },
    2 => Full { version },
    3 => Ended,
});

said!(new: RoutesRequest = "rows for the routes", RoutesReply = "a reply to rows");
