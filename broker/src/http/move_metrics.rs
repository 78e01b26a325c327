//! What is being moved, and what was copied for it, as metrics.

use ::cluster::link::Counter;
use ::cluster::member::Member;
use ::cluster::raft::{RaftNode, Way};
use cluster_core::Group;

use crate::counters::{metric, metric_by};

/// Writes both in the Prometheus text format.
pub(super) fn write(member: &Member, raft: &RaftNode, out: &mut String) {
    write_moves(member, out);
    write_copied(raft, out);
}

fn write_moves(member: &Member, out: &mut String) {
    let status = member.status();
    let moving = status.groups.iter().filter(|(_, row)| row.moving.is_some());
    let shards = moving.filter(|(group, _)| matches!(group, Group::Shard(_)));
    let leaving = status.members.values().filter(|row| row.is_leaving);
    let own = status.members.get(&status.node);
    let gauges = [
        (
            "shards_moving",
            "Shards that are being moved, as meta says.",
            shards.count(),
        ),
        (
            "buckets_moving",
            "Buckets of telemetry with rows that are being moved, as meta says.",
            status.bucket_moves.len(),
        ),
        (
            "members_draining",
            "Members that are to give up what they hold.",
            leaving.count(),
        ),
        (
            "draining",
            "Whether this node is to give up what it holds.",
            usize::from(own.is_some_and(|row| row.is_leaving)),
        ),
        (
            "leftovers",
            "Replicas that this node is yet to delete.",
            own.map_or(0, |row| row.leftovers),
        ),
    ];
    for (name, help, value) in gauges {
        let name = format!("tidewire_cluster_{name}");
        metric(out, &name, help, "gauge", value as u64);
    }
    let counters = member.counters();
    let sample = |step: &str, counter: &Counter| (format!("step=\"{step}\""), counter.get());
    let moves = [
        sample("begun", &counters.moves_begun_total),
        sample("ended", &counters.moves_ended_total),
        sample("aborted", &counters.moves_aborted_total),
        sample("repeated", &counters.move_steps_failed_total),
    ];
    let help = "Moves of groups that this node began as meta's leader, that it ended or gave up as the \
                group's, and steps that it took again.";
    metric_by(out, "tidewire_cluster_moves_total", help, "counter", &moves);
}

fn write_copied(raft: &RaftNode, out: &mut String) {
    let traffic = raft.traffic();
    let both = |of: fn(&Way) -> &Counter| {
        [("sent", &traffic.sent), ("received", &traffic.received)]
            .map(|(direction, way)| (format!("direction=\"{direction}\""), of(way).get()))
    };
    for (name, help, samples) in [
        (
            "log_bytes",
            "Bytes of entries of the groups' logs that went between nodes.",
            both(|way| &way.entries_bytes_total),
        ),
        (
            "snapshot_bytes",
            "Bytes of states of groups that were copied whole between nodes.",
            both(|way| &way.snapshot_bytes_total),
        ),
        (
            "snapshots",
            "States of groups that were copied whole between nodes.",
            both(|way| &way.snapshots_total),
        ),
    ] {
        let name = format!("tidewire_cluster_{name}_total");
        metric_by(out, &name, help, "counter", &samples);
    }
}
