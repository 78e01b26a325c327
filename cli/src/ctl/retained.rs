//! `tidewire ctl retained`.

use admin::bridge::Payload;
use admin::retained::{LIMIT_DEFAULT, LIMIT_MAX, Retained, RetainedMessages, RetainedQuestion};
use clap::Subcommand;

use super::pages::{Listed, end, gather};
use super::table::{Facts, Side, Table, bytes, cut, span};
use super::{Done, Failed, Node, degraded};

/// Characters of a payload in a table.
const PAYLOAD_CHARS: usize = 40;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Retained messages whose topics match a filter.
    List {
        /// A filter such as a/+/b or #.
        filter: String,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = LIMIT_DEFAULT, value_parser = super::limit)]
        limit: usize,
        /// Topics behind this one: where an earlier list ended.
        #[arg(long, value_name = "TOPIC")]
        after: Option<String>,
    },
    /// The retained message of a topic, with up to 64 KiB of its payload; 1 if there is none.
    Show {
        /// A topic, without wildcards.
        topic: String,
    },
}

pub(super) fn run(node: &Node, verb: &Verb) -> Done {
    match verb {
        Verb::List {
            filter,
            limit,
            after,
        } => list(node, filter, *limit, after.as_ref()),
        Verb::Show { topic } => show(node, topic),
    }
}

fn list(node: &Node, filter: &str, limit: usize, after: Option<&String>) -> Done {
    let listed = gather(after.cloned(), limit, LIMIT_MAX, |after, limit| {
        let page = node.client.retained(&RetainedQuestion {
            filter: filter.to_owned(),
            after,
            limit: Some(limit),
        })?;
        Ok(Listed {
            rows: page.messages,
            next: page.next,
            missing: page.missing,
        })
    })?;
    let all = RetainedMessages {
        messages: listed.rows,
        next: listed.next,
        missing: listed.missing,
    };
    let printed = node.print(&all, |all| table(&all.messages))?;
    end(printed, all.next.as_deref(), all.missing)
}

fn show(node: &Node, topic: &str) -> Done {
    if topic.contains(['+', '#']) {
        let why =
            format!("{topic:?} is a filter: `tidewire ctl retained list` lists what it matches");
        return Err(Failed::Usage(why));
    }
    let answer = node.client.retained(&RetainedQuestion {
        filter: topic.to_owned(),
        after: None,
        limit: Some(1),
    })?;
    match answer.messages.first() {
        Some(message) => node.print(message, one),
        None if answer.missing.is_empty() => Err(Failed::Nothing(format!(
            "topic {topic:?} has no retained message"
        ))),
        None => degraded(answer.missing),
    }
}

fn table(messages: &[Retained]) -> String {
    let mut table = Table::new(&[
        ("topic", Side::Left),
        ("qos", Side::Right),
        ("bytes", Side::Right),
        ("received", Side::Left),
        ("expires in", Side::Right),
        ("publisher", Side::Left),
        ("payload", Side::Left),
    ]);
    for message in messages {
        let shown = text_of(&message.payload);
        let more = if message.is_cut { "…" } else { "" };
        let shown = match cut(&shown, PAYLOAD_CHARS) {
            short if short == shown => format!("{shown}{more}"),
            short => short,
        };
        table.row([
            message.topic.clone(),
            message.qos.to_string(),
            message.payload_bytes.to_string(),
            time(message.received_ms),
            message.expires_in_s.map_or_else(dash, span),
            message.publisher.clone().unwrap_or_else(dash),
            shown,
        ]);
    }
    table.text()
}

fn one(message: &Retained) -> String {
    let mut facts = Facts::default();
    facts.add("topic", &message.topic);
    facts.add("shard", &message.shard.to_string());
    facts.add("qos", &message.qos.to_string());
    facts.add("publisher", message.publisher.as_deref().unwrap_or("-"));
    facts.add("received", &time(message.received_ms));
    let expires = message
        .expires_in_s
        .map_or_else(|| "never".to_owned(), |s| format!("in {}", span(s)));
    facts.add("expires", &expires);
    let length = bytes(message.payload_bytes);
    let cut = if message.is_cut { ", cut" } else { "" };
    facts.add("payload", &format!("{length}{cut}"));
    facts.text() + &super::table::plain(&text_of(&message.payload)) + "\n"
}

fn text_of(payload: &Payload) -> String {
    match payload {
        Payload::Text(text) => text.clone(),
        Payload::Base64(text) => format!("base64:{text}"),
    }
}

fn time(ms: u64) -> String {
    admin::time::format_time(i64::try_from(ms).unwrap_or(i64::MAX))
}

fn dash() -> String {
    "-".to_owned()
}
