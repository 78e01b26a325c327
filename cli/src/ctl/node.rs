//! `tidewire ctl node`.

use admin::node::NodeInfo;
use clap::Subcommand;

use super::{Done, Node};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Number, version and addresses.
    Info,
}

pub(super) fn run(node: &Node, verb: &Verb) -> Done {
    match verb {
        Verb::Info => node.print(&node.client.node()?, table),
    }
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
