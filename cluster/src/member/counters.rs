//! What a member has done, counted.

use crate::link::Counter;

/// Of this process since its start.
#[derive(Debug, Default)]
pub struct MemberCounters {
    /// Pings handed to links.
    pub pings_sent_total: Counter,
    /// Pings of peers.
    pub pings_received_total: Counter,
    /// Requests of peers that could not be read.
    pub malformed_total: Counter,
    /// Requests of peers, and wishes to join, that found the queue or all places taken.
    pub dropped_total: Counter,
    /// Renewals that this node granted as meta's leader.
    pub leases_granted_total: Counter,
    /// Renewals that it refused because the epoch had ended.
    pub leases_refused_ended_total: Counter,
    /// Renewals that it refused because routes were behind.
    pub leases_refused_routes_total: Counter,
    /// Renewals that it refused because two nodes do not hear each other.
    pub leases_refused_deaf_total: Counter,
    /// Renewals that this node sent.
    pub renewals_total: Counter,
    /// How often this node's own lease ran out.
    pub leases_lost_total: Counter,
    /// Epochs whose end this node proposed as meta's leader.
    pub ends_proposed_total: Counter,
    /// How often a node was suspected here.
    pub suspicions_total: Counter,
    /// How often this node stood for election of a group.
    pub elections_total: Counter,
    /// Leaderships that this node handed to their preferred nodes.
    pub returns_total: Counter,
    /// Leaderships that it handed over because it stops.
    pub handovers_total: Counter,
    /// Moves that this node began as meta's leader.
    pub moves_begun_total: Counter,
    /// Moves that it brought to their end as leader of the group.
    pub moves_ended_total: Counter,
    /// Moves that it gave up as leader of the group.
    pub moves_aborted_total: Counter,
    /// Steps of moves that did not succeed, and were repeated.
    pub move_steps_failed_total: Counter,
    /// Nodes that joined through this one.
    pub joins_total: Counter,
    /// Nodes that it told that they cannot join.
    pub joins_refused_total: Counter,
}
