//! `tidewire ctl trace`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use admin::client::{Client, ClientError};
use admin::trace::{
    EVENTS_DEFAULT, EVENTS_MAX, Event, Line, RATE_DEFAULT, RATE_MAX, SECONDS_MAX, TraceQuestion,
};
use clap::{Args, Subcommand};

use super::lb::reached;
use super::table::plain;
use super::{Done, End, Failed, Node};
use crate::arguments::{CtlOutput, duration};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Packets of one client, both ways, at the node where it is.
    Client {
        /// Client id; it may connect later, then at the node that is asked.
        client: String,
        #[command(flatten)]
        bounds: Bounds,
    },
    /// Messages of topics, as publishers send them to and subscribers get them from the node that is
    /// asked.
    Topic {
        /// A filter such as a/+/b or #.
        filter: String,
        #[command(flatten)]
        bounds: Bounds,
    },
}

/// How far a trace goes.
#[derive(Debug, Args)]
pub(crate) struct Bounds {
    /// How long, up to an hour.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = time)]
    time: Duration,
    /// How many events.
    #[arg(long, value_name = "N", default_value_t = EVENTS_DEFAULT, value_parser = events)]
    events: u64,
    /// How many a second; more are counted as missed.
    #[arg(long, value_name = "N", default_value_t = RATE_DEFAULT, value_parser = rate)]
    rate: u64,
}

fn time(text: &str) -> Result<Duration, String> {
    let time = duration(text).map_err(|error| error.to_string())?;
    match (1..=SECONDS_MAX).contains(&time.as_secs()) {
        true => Ok(time),
        false => Err("not from 1s to 1h".to_owned()),
    }
}

fn events(text: &str) -> Result<u64, String> {
    within(text, EVENTS_MAX)
}

fn rate(text: &str) -> Result<u64, String> {
    within(text, RATE_MAX)
}

fn within(text: &str, max: u64) -> Result<u64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| format!("not a number from 1 to {max}"))
}

pub(super) fn run(node: &Node, verb: &Verb) -> Done {
    match verb {
        Verb::Client { client, bounds } => {
            let elsewhere = elsewhere(node, client)?;
            let asked = TraceQuestion {
                client: Some(client.clone()),
                ..question(bounds)
            };
            let at = elsewhere.as_ref().unwrap_or(&node.client);
            trace(at, node.output, &asked)
        }
        Verb::Topic { filter, bounds } => {
            let asked = TraceQuestion {
                topic: Some(filter.clone()),
                ..question(bounds)
            };
            trace(&node.client, node.output, &asked)
        }
    }
}

fn question(bounds: &Bounds) -> TraceQuestion {
    TraceQuestion {
        seconds: Some(bounds.time.as_secs()),
        events: Some(bounds.events),
        rate: Some(bounds.rate),
        ..TraceQuestion::default()
    }
}

/// The node where a client is, if it is not the one that is asked.
fn elsewhere(node: &Node, client: &str) -> Result<Option<Client>, Failed> {
    let details = match node.client.session(client) {
        Ok(details) => details,
        // It may connect yet.
        Err(ClientError::Refused { status: 404, .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let here = node.client.node()?.node;
    let at = details.session.node.filter(|_| details.session.connected);
    let Some(at) = at.filter(|at| *at != here) else {
        return Ok(None);
    };
    let members = node.client.members()?;
    let member = members.members.iter().find(|member| member.node == at);
    let report = member.and_then(|member| Some((member, member.report.as_ref()?)));
    let away = || {
        Failed::Nothing(format!(
            "the client is at node {at}, which says nothing of itself"
        ))
    };
    let (member, report) = report.ok_or_else(away)?;
    let admin: SocketAddr = reached(member, &report.node.admin).map_err(Failed::Nothing)?;
    eprintln!("the client is at node {at}: tracing there, at http://{admin}");
    Ok(Some(Client::new(&admin.to_string())))
}

fn trace(client: &Client, output: CtlOutput, asked: &TraceQuestion) -> Done {
    let mut failed = None;
    let mut is_ended = false;
    client.trace(asked, |line| {
        is_ended |= matches!(line, Line::End { .. });
        let shown = show(line, output);
        let goes_on = shown.is_ok();
        failed = shown.err();
        goes_on
    })?;
    match failed {
        Some(error) => Err(Failed::Output(error)),
        None if is_ended => Ok(End::Good),
        None => Err(Failed::Nothing(
            "the node ended the trace early: it stops".to_owned(),
        )),
    }
}

fn show(line: &Line, output: CtlOutput) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match (output, line) {
        (CtlOutput::Json, line) => {
            let text = serde_json::to_string(line).expect("a line is JSON");
            writeln!(out, "{text}")?;
        }
        (CtlOutput::Table, Line::Event(event)) => writeln!(out, "{}", words(event))?,
        (CtlOutput::Table, Line::Begin { node }) => eprintln!("tracing at node {node}"),
        (
            CtlOutput::Table,
            Line::End {
                because,
                shown,
                missed,
            },
        ) => eprintln!("ended by {because}: {shown} shown, {missed} missed"),
    }
    out.flush()
}

fn words(event: &Event) -> String {
    let at = admin::time::format_time(i64::try_from(event.at_ms).unwrap_or(i64::MAX));
    let arrow = if event.from_client { "->" } else { "<-" };
    let mut line = format!("{at} {} {arrow} {}", event.client, event.packet);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            line += &format!(" {name}={value}");
        }
    };
    add("topic", event.topic.clone());
    add("qos", event.qos.map(|qos| qos.to_string()));
    add("id", event.packet_id.map(|id| id.to_string()));
    add("retain", event.retain.then(|| "1".to_owned()));
    add("dup", event.dup.then(|| "1".to_owned()));
    add("bytes", event.payload_bytes.map(|bytes| bytes.to_string()));
    add(
        "reason",
        event.reason.map(|reason| format!("{reason:#04x}")),
    );
    if let Some(about) = &event.about {
        line += &format!(" ({about})");
    }
    plain(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_a_line() {
        let event = Event {
            at_ms: 0,
            client: "car\n7".into(),
            from_client: true,
            packet: "PUBLISH".into(),
            topic: Some("d/7".into()),
            qos: Some(1),
            packet_id: Some(3),
            payload_bytes: Some(9),
            ..Event::default()
        };
        let line = words(&event);
        assert!(
            line.ends_with("car\\n7 -> PUBLISH topic=d/7 qos=1 id=3 bytes=9"),
            "{line}"
        );
        let event = Event {
            packet: "closed".into(),
            reason: Some(0x98),
            about: Some("by the node".into()),
            ..Event::default()
        };
        assert!(words(&event).ends_with("<- closed reason=0x98 (by the node)"));
    }
}
