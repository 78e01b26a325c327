//! `tidewire ctl tsdb`.

use std::fmt::Write as _;

use admin::tsdb::Status;
use clap::Subcommand;

use super::{Done, Node};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Segments, rows, bytes per point, and what passed the line.
    Status,
}

pub(super) fn run(node: &Node, verb: &Verb) -> Done {
    match verb {
        Verb::Status => node.print(&node.client.tsdb()?, table),
    }
}

fn table(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        text.write_fmt(words).expect("a String takes everything");
        text.push('\n');
    };
    line(format_args!(
        "LEVEL  SEGMENTS        ROWS      POINTS       BYTES  B/POINT"
    ));
    for level in &status.store.levels {
        let per_point = match level.points {
            0 => "-".to_owned(),
            points => format!("{:.2}", level.block_bytes as f64 / points as f64),
        };
        line(format_args!(
            "{:>5}  {:>8}  {:>10}  {:>10}  {:>10}  {per_point:>7}",
            level.level, level.segments, level.rows, level.points, level.bytes
        ));
    }
    let store = &status.store;
    line(format_args!(
        " head            -  {:>10}  {:>10}  {:>10}        -",
        store.head_rows, store.head_points, store.head_bytes
    ));
    let merged = store.merged_bytes_per_point;
    let merged = merged.map_or_else(|| "nothing merged yet".into(), |b| format!("{b:.3}"));
    line(format_args!("bytes per point of merged blocks: {merged}"));
    let pipeline = &status.pipeline;
    line(format_args!(
        "messages: {} accepted, {} processed, {} waiting",
        pipeline.accepted_messages,
        pipeline.processed_messages,
        pipeline.lag.values().sum::<u64>()
    ));
    line(format_args!(
        "points: {} stored, {} came again, {} replaced; {} rows late",
        pipeline.stored_points,
        pipeline.duplicate_points,
        pipeline.replaced_points,
        pipeline.late_rows
    ));
    line(format_args!(
        "seals: {}, merges: {}; log on disk: {} bytes",
        pipeline.seals, pipeline.merges, pipeline.log_bytes
    ));
    for (reason, count) in &pipeline.dead_letters {
        line(format_args!("dead letters, {reason}: {count}"));
    }
    text
}
