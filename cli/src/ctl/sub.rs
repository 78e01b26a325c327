//! `tidewire ctl sub`.

use admin::session::Subscription;
use admin::sub::{LIMIT_DEFAULT, Routes, RoutesQuestion, Subscriber};
use clap::Subcommand;

use super::table::{Facts, Side, Table};
use super::{Done, End, Node, degraded};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Who gets a message of this topic, and why; 3 if somebody who knows does not answer.
    Routes {
        /// A topic, without wildcards.
        topic: String,
        /// At most so many subscribers of each node and each shard.
        #[arg(long, value_name = "N", default_value_t = LIMIT_DEFAULT, value_parser = super::page_limit)]
        limit: usize,
    },
}

pub(super) fn run(node: &Node, verb: &Verb) -> Done {
    let Verb::Routes { topic, limit } = verb;
    let question = RoutesQuestion {
        topic: topic.clone(),
        limit: Some(*limit),
    };
    let routes = node.client.routes(&question)?;
    match node.print(&routes, table)? {
        End::Good => degraded(routes.missing),
        End::Degraded => Ok(End::Degraded),
    }
}

fn table(routes: &Routes) -> String {
    let mut facts = Facts::default();
    facts.add("topic", &routes.topic);
    let stream = routes.stream.as_ref().map_or_else(
        || "no stream takes it".to_owned(),
        |stream| format!("stream {}, by {}", stream.name, stream.filter),
    );
    facts.add("telemetry", &stream);
    facts.add("retained", &format!("in shard {}", routes.retained_shard));
    let mut table = Table::new(&[
        ("who", Side::Left),
        ("what", Side::Left),
        ("where", Side::Left),
        ("because of", Side::Left),
    ]);
    let mut unlisted = 0;
    for of in &routes.nodes {
        unlisted += of.total - of.clients.len() as u64;
        for one in &of.clients {
            let place = format!("node {}", of.node);
            table.row([
                one.client.clone(),
                "clean session".into(),
                place,
                because(one),
            ]);
        }
    }
    for of in &routes.shards {
        unlisted += of.total - of.sessions.len() as u64;
        unlisted += of.groups_total - of.groups.len() as u64;
        for one in &of.sessions {
            let place = match (one.node, one.node_epoch) {
                (Some(node), _) => format!("shard {}, at node {node}", of.shard),
                (None, None) => format!("shard {}, away", of.shard),
                (None, Some(_)) => format!("shard {}, at an ended node", of.shard),
            };
            table.row([one.client.clone(), "session".into(), place, because(one)]);
        }
        for one in &of.groups {
            let what = format!("group, {} of {} here", one.connected, one.members);
            let place = format!("shard {}, {} queued", of.shard, one.queue_messages);
            table.row(["one member".into(), what, place, one.filter.clone()]);
        }
    }
    let mut text = facts.text() + "\n";
    match table.text() {
        rows if rows.is_empty() => text += "nobody subscribes to it\n",
        rows => text += &rows,
    }
    if unlisted > 0 {
        text += &format!("and {unlisted} more; --limit shows more of them\n");
    }
    text
}

fn because(one: &Subscriber) -> String {
    let words = |of: &Subscription| format!("{} (QoS {})", of.filter, of.qos);
    let all: Vec<String> = one.because.iter().map(words).collect();
    all.join(", ")
}
