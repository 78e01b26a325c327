//! The node as a member, and its links, as metrics. Labels are nodes, at most 256, and lanes.

use std::sync::atomic::Ordering;

use ::cluster::link::{Lane, Links};
use ::cluster::member::Member;

use crate::counters::{metric, metric_by};
use crate::peers::Peers;

const LANES: [Lane; 3] = [Lane::Control, Lane::Requests, Lane::Bulk];

/// Writes both, and the streams to other nodes, in the Prometheus text format.
pub(super) fn write(member: &Member, links: &Links, peers: &Peers, out: &mut String) {
    write_member(member, out);
    write_streams(peers, out);
    write_peers(member, links, out);
    write_links(links, out);
}

fn write_member(member: &Member, out: &mut String) {
    let counters = member.counters();
    let status = member.status();
    let leads = status.members.get(&status.node).map_or(0, |row| row.leads);
    let help = "Shards that this node leads.";
    metric(out, "tidewire_member_leads", help, "gauge", leads as u64);
    for (name, help, counter) in [
        (
            "elections",
            "Elections for which this node stood.",
            &counters.elections_total,
        ),
        (
            "suspicions",
            "Times that a node was suspected here.",
            &counters.suspicions_total,
        ),
        (
            "leases_lost",
            "Times that the lease of this node ran out.",
            &counters.leases_lost_total,
        ),
        (
            "returns",
            "Leaderships that this node gave to the node that is to have them.",
            &counters.returns_total,
        ),
        (
            "handovers",
            "Leaderships that this node handed over because it stops.",
            &counters.handovers_total,
        ),
    ] {
        let name = format!("tidewire_member_{name}_total");
        metric(out, &name, help, "counter", counter.get());
    }
}

fn write_streams(peers: &Peers, out: &mut String) {
    let counters = peers.counters();
    for (name, help, counter) in [
        (
            "node_withdrawn",
            "Messages of ended connections that were not sent to another node again.",
            &counters.withdrawn_total,
        ),
        (
            "deliveries_held",
            "Times that a shard handed out no more of queues for a node whose stream was full.",
            &counters.deliveries_held_total,
        ),
        (
            "deliveries_qos0_dropped",
            "QoS 0 messages for sessions dropped because the stream to their node was full, or this node had stood still and may lead no more.",
            &counters.qos0_dropped_total,
        ),
    ] {
        let name = format!("tidewire_broker_{name}_total");
        metric(out, &name, help, "counter", counter.load(Ordering::Relaxed));
    }
    let help = "Bytes of messages of queues in the streams to other nodes.";
    let name = "tidewire_broker_deliveries_bytes";
    metric(out, name, help, "gauge", peers.deliveries_bytes());
}

fn write_peers(member: &Member, links: &Links, out: &mut String) {
    let (status, peers) = (member.status(), links.statuses());
    let others = || {
        status
            .members
            .iter()
            .filter(|(node, _)| **node != status.node)
    };
    let of = |flag: fn(&::cluster::member::MemberRow) -> bool| -> Vec<(String, u64)> {
        let rows = others().map(|(node, row)| (format!("node=\"{node}\""), u64::from(flag(row))));
        rows.collect()
    };
    let help = "Whether this node hears another one.";
    metric_by(
        out,
        "tidewire_member_heard",
        help,
        "gauge",
        &of(|row| row.is_heard),
    );
    let help = "Whether no quorum hears a node, as far as this one knows.";
    let suspected = of(|row| row.is_suspected);
    metric_by(out, "tidewire_member_suspected", help, "gauge", &suspected);
    let connections: Vec<(String, u64)> = peers
        .iter()
        .flat_map(|peer| {
            LANES.into_iter().zip(&peer.lanes).map(|(lane, status)| {
                let count = u64::from(status.dialed) + u64::from(status.accepted);
                (format!("node=\"{}\",lane=\"{lane}\"", peer.node), count)
            })
        })
        .collect();
    let help = "Connections of a lane: one that this node dialed, and one that its peer did.";
    metric_by(
        out,
        "tidewire_link_connections",
        help,
        "gauge",
        &connections,
    );
    let trips = peers.iter().filter_map(|peer| {
        let time = peer.round_trip_ms?;
        Some((format!("node=\"{}\"", peer.node), time))
    });
    let trips: Vec<(String, u64)> = trips.collect();
    let help = "Milliseconds that the last answered ping to a peer took.";
    metric_by(out, "tidewire_link_round_trip_ms", help, "gauge", &trips);
}

fn write_links(links: &Links, out: &mut String) {
    let counters = links.counters();
    let by_lane = |of: fn(&::cluster::link::LaneCounters) -> u64| {
        LANES.map(|lane| (format!("lane=\"{lane}\""), of(counters.lane(lane))))
    };
    let lanes = [
        (
            "sent_bytes",
            "Bytes written to peers.",
            by_lane(|lane| lane.bytes_sent_total.get()),
        ),
        (
            "received_bytes",
            "Bytes read from peers.",
            by_lane(|lane| lane.bytes_received_total.get()),
        ),
        (
            "requests_busy",
            "Requests that were not sent because the peer's grant was taken up.",
            by_lane(|lane| lane.requests_busy_total.get()),
        ),
        (
            "requests_late",
            "Requests whose answer did not come in time.",
            by_lane(|lane| lane.requests_late_total.get()),
        ),
    ];
    for (name, help, samples) in lanes {
        let name = format!("tidewire_link_{name}_total");
        metric_by(out, &name, help, "counter", &samples);
    }
    let refused = [
        ("by=\"this\"".to_owned(), counters.refused_here_total.get()),
        ("by=\"peer\"".to_owned(), counters.refused_there_total.get()),
    ];
    let help = "Greetings that were refused, by this node or by a peer.";
    metric_by(
        out,
        "tidewire_link_refused_total",
        help,
        "counter",
        &refused,
    );
    for (name, help, counter) in [
        (
            "dial_failures",
            "Attempts to dial a peer that came to nothing.",
            &counters.dial_failures_total,
        ),
        (
            "silent",
            "Connections to peers that ended because nothing was heard.",
            &counters.silent_total,
        ),
        (
            "violations",
            "Connections to peers that ended because they broke the protocol.",
            &counters.violations_total,
        ),
    ] {
        let name = format!("tidewire_link_{name}_total");
        metric(out, &name, help, "counter", counter.get());
    }
}
