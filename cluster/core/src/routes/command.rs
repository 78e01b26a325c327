//! What is written to the routes group's log, and what applying it answers.

use mqtt::Filter;

use crate::{EpochView, NodeEpoch, RouteVersion, ShardId};

/// Rows that one entry carries at most.
pub const ROWS_PER_ENTRY: usize = 1_000;

/// Who wants messages, and owns the rows that say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Persistent sessions of a shard; which node leads it changes no row.
    Shard(ShardId),
    /// Clean sessions of one run of a node.
    Node(NodeEpoch),
}

/// A filter's first subscriber at a source came, or its last one left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteDelta {
    /// The filter.
    pub filter: Filter,
    /// Whether the source wants messages that match it.
    pub wanted: bool,
    /// One step per row, in the order in which the source changed its mind.
    pub version: RouteVersion,
}

/// An entry of the routes group's log. Applied whole by [`super::Routes::apply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutesCommand {
    /// Changes of one source. Answers [`RoutesAnswer::Done`], [`RoutesAnswer::Full`] or
    /// [`RoutesAnswer::Ended`].
    Deltas(Deltas),
    /// A recovered shard has stated all its rows again under its new incarnation; older ones go.
    /// Answers [`RoutesAnswer::Done`].
    Restated {
        /// The shard.
        shard: ShardId,
        /// The first version of its incarnation.
        from: RouteVersion,
    },
    /// The node epochs that are current; the rows of ended ones vanish. Answers
    /// [`RoutesAnswer::Done`].
    Epochs(EpochView),
}

/// See [`RoutesCommand::Deltas`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deltas {
    /// Whose rows.
    pub source: Source,
    /// At most [`ROWS_PER_ENTRY`], versions rising. They begin with the source's lowest row that
    /// is not known to be applied, and leave out only what a later row of the same filter
    /// replaces: what is not newer is ignored, so a batch may never overtake another.
    pub rows: Vec<RouteDelta>,
}

/// What applying a [`RoutesCommand`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutesAnswer {
    /// Rows of the source up to here are applied, whichever entry brought them.
    Done {
        /// The source's highest version.
        version: RouteVersion,
    },
    /// Rows beyond this version found no room and are to be sent again.
    Full {
        /// The source's highest version.
        version: RouteVersion,
    },
    /// Nothing changed: the source's epoch has ended.
    Ended,
}
