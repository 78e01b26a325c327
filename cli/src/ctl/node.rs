//! `tidewire ctl node`.

use admin::memory::Memory;
use admin::node::NodeInfo;
use clap::Subcommand;

use super::table::{Facts, Side, Table, bytes};
use super::{Done, Node};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Number, version and addresses.
    Info,
    /// Where its memory goes: the plan of memory_bytes_limit, and what each part holds now.
    Memory,
}

pub(super) fn run(node: &Node, verb: &Verb) -> Done {
    match verb {
        Verb::Info => node.print(&node.client.node()?, table),
        Verb::Memory => node.print(&node.client.memory()?, memory_table),
    }
}

fn memory_table(memory: &Memory) -> String {
    let mut facts = Facts::default();
    facts.add("node", &memory.node.to_string());
    let by = match memory.is_configured {
        true => "memory_bytes_limit",
        false => "half of what machine and cgroup allow",
    };
    facts.add("limit", &format!("{}, {by}", bytes(memory.limit_bytes)));
    let resident = memory
        .resident_bytes
        .map_or_else(|| "unknown".to_owned(), bytes);
    facts.add("resident", &resident);
    facts.add("clients", &memory.connections.to_string());
    let mut table = Table::new(&[
        ("part", Side::Left),
        ("holds", Side::Right),
        ("of", Side::Right),
        ("at its limit", Side::Left),
    ]);
    for part in &memory.parts {
        let size = |size: Option<u64>| size.map_or_else(|| "-".to_owned(), bytes);
        table.row([
            part.part.clone(),
            size(part.used_bytes),
            size(part.limit_bytes),
            part.at_limit.clone(),
        ]);
    }
    facts.text() + "\n" + &table.text()
}

fn table(node: &NodeInfo) -> String {
    format!(
        "node       {}\nversion    {}\nmqtt       {}\nadmin      {}\nshards     {}\nbuckets    {}\n\
         templates  {}\ntelemetry  {}\n",
        node.node,
        node.version,
        node.mqtt,
        node.admin,
        node.shards,
        node.buckets,
        match &node.device_templates[..] {
            [] => "none".to_owned(),
            templates => templates.join(", "),
        },
        if node.telemetry { "yes" } else { "no" }
    )
}
