//! `tidewire ctl`.

use std::fmt::Write as _;

use admin::client::Client;
use admin::node::NodeInfo;
use admin::tsdb::Status;
use serde::Serialize;

use crate::arguments::{Ctl, CtlOutput, NodeVerb, Noun, TsdbVerb};
use crate::query::code_of;
use crate::{exit, fail, not_built};

/// Asks the node and prints its answer; the exit code.
pub(crate) fn run(arguments: &Ctl) -> u8 {
    let client = Client::new(&arguments.target.admin);
    let printed = match &arguments.noun {
        Noun::Tsdb {
            verb: TsdbVerb::Status,
        } => client
            .tsdb()
            .map(|status| print(arguments.output, &status, tsdb_table)),
        Noun::Node {
            verb: NodeVerb::Info,
        } => client
            .node()
            .map(|node| print(arguments.output, &node, node_table)),
        Noun::Other(words) => return other(words),
    };
    match printed {
        Ok(()) => 0,
        Err(error) => fail(code_of(&error), &error),
    }
}

fn other(words: &[String]) -> u8 {
    let noun = words.first().map_or("", String::as_str);
    if not_built::NOUNS.contains(&noun) {
        return not_built::refuse("ctl", words);
    }
    fail(
        exit::USAGE,
        &format!("ctl {noun}: no such noun; `tidewire ctl --help` lists them"),
    )
}

fn print<T: Serialize>(output: CtlOutput, answer: &T, table: fn(&T) -> String) {
    match output {
        CtlOutput::Json => {
            println!(
                "{}",
                serde_json::to_string(answer).expect("an answer is JSON")
            );
        }
        CtlOutput::Table => print!("{}", table(answer)),
    }
}

fn node_table(node: &NodeInfo) -> String {
    format!(
        "node       {}\nversion    {}\nmqtt       {}\nadmin      {}\nshards     {}\nbuckets    {}\n\
         telemetry  {}\n",
        node.node,
        node.version,
        node.mqtt,
        node.admin,
        node.shards,
        node.buckets,
        if node.telemetry { "yes" } else { "no" }
    )
}

fn tsdb_table(status: &Status) -> String {
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
