//! `tidewire ctl bridge`.

use admin::bridge::{
    Contact, DeadLetters, Lag, LetterQuestion, LogSizes, Pause, Payload, Replay, Replayed, Status,
    Topic,
};
use admin::time::format_time;
use clap::{Args, Subcommand};

use super::table::{Side, Table, cut, plain};
use super::{Done, Failed, Node, degraded};

/// Characters of a reason and of a payload in a table; JSON has all of them.
const CELL_CHARS_MAX: usize = 60;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// How telemetry leaves the node; exit code 3 when something is degraded.
    Status,
    /// Hold the way to Kafka: streams do as when Kafka is away, until `resume` or a restart.
    Pause(DryRun),
    /// Let the way to Kafka go on.
    Resume(DryRun),
    /// What the store has not processed, by partition, and what waits in spools for Kafka.
    Lag {
        /// Partitions without lag too.
        #[arg(long)]
        all: bool,
    },
    /// Messages that could not be stored, or not whole.
    Dlq {
        #[command(subcommand)]
        verb: DlqVerb,
    },
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct DryRun {
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DlqVerb {
    /// List dead letters, newest first; exit code 3 when some may be missing.
    List(List),
    /// Send the messages of dead letters again, with their devices and times of receipt.
    ///
    /// It ends when they are durable as their streams' modes demand; exit code 3 when of some
    /// nothing is known after 10 s. The letters stay in the list, and a message that fails again
    /// makes a new letter, so mend what made it fail first.
    Replay(ReplayArguments),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Most letters, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = limit)]
    limit: usize,
    /// Only letters of this reason, such as unparsable.
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Go on where an earlier list ended.
    #[arg(long, value_name = "PLACE")]
    after: Option<String>,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["id", "reason"])))]
pub(crate) struct ReplayArguments {
    /// Id of one letter, as `list` prints it.
    id: Option<String>,
    /// All letters of a reason, newest first.
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Most letters at one time, 1 to 1000 [default: 1000].
    #[arg(long, value_name = "N", value_parser = limit, conflicts_with = "id")]
    limit: Option<usize>,
    /// Go on where an earlier replay ended.
    #[arg(long, value_name = "PLACE", conflicts_with = "id")]
    after: Option<String>,
    /// List the letters of the reason that would be sent, and do nothing.
    #[arg(long, conflicts_with = "id")]
    dry_run: bool,
}

fn limit(text: &str) -> Result<usize, String> {
    let max = admin::bridge::LETTERS_MAX;
    let limit = text.parse().ok().filter(|limit| (1..=max).contains(limit));
    limit.ok_or_else(|| format!("must be 1 to {max}"))
}

impl Verb {
    /// Whether it changes nothing.
    pub(super) fn looks_only(&self) -> bool {
        match self {
            Self::Status | Self::Lag { .. } => true,
            Self::Pause(_) | Self::Resume(_) => false,
            Self::Dlq { verb } => matches!(verb, DlqVerb::List(_)),
        }
    }
}

pub(super) fn run(node: &Node, verb: &Verb) -> Done {
    match verb {
        Verb::Status => status(node),
        Verb::Pause(dry) => pause(node, true, *dry),
        Verb::Resume(dry) => pause(node, false, *dry),
        Verb::Lag { all } => lag(node, *all),
        Verb::Dlq {
            verb: DlqVerb::List(asked),
        } => list(node, asked),
        Verb::Dlq {
            verb: DlqVerb::Replay(asked),
        } => replay(node, asked),
    }
}

fn status(node: &Node) -> Done {
    let status = node.client.bridge()?;
    node.print(&status, status_table)?;
    degraded(status.trouble)
}

fn pause(node: &Node, paused: bool, dry: DryRun) -> Done {
    if !dry.dry_run {
        return node.print(&node.client.pause_bridge(paused)?, pause_table);
    }
    let Some(kafka) = node.client.bridge()?.kafka else {
        let why = "there is no Kafka here: telemetry stays in the embedded log";
        return Err(Failed::Nothing(why.to_owned()));
    };
    let change = match kafka.paused == paused {
        true => "; it is so already",
        false => "",
    };
    node.print(&Pause { paused }, |pause| {
        format!("would be {}{change}\n", pause_table(pause).trim_end())
    })
}

fn lag(node: &Node, all: bool) -> Done {
    let mut lag = node.client.bridge_lag()?;
    lag.partitions.retain(|one| all || one.lag > 0);
    node.print(&lag, lag_table)?;
    degraded(lag.store.trouble())
}

fn list(node: &Node, asked: &List) -> Done {
    let question = LetterQuestion {
        limit: Some(asked.limit),
        reason: asked.reason.clone(),
        after: asked.after.clone(),
    };
    let found = node.client.dead_letters(&question)?;
    node.print(&found, letters_table)?;
    if let Some(next) = &found.next {
        eprintln!("{} more; go on with --after {next}", found.remaining);
    }
    degraded(found.partial)
}

fn replay(node: &Node, asked: &ReplayArguments) -> Done {
    if asked.dry_run {
        let letters = List {
            limit: asked.limit.unwrap_or(admin::bridge::LETTERS_MAX),
            reason: asked.reason.clone(),
            after: asked.after.clone(),
        };
        return list(node, &letters);
    }
    let replay = match (&asked.id, &asked.reason) {
        (Some(id), _) => Replay::Letter { id: id.clone() },
        (None, reason) => Replay::Reason {
            // One of both is there, or the arguments were refused.
            reason: reason.clone().unwrap_or_default(),
            limit: asked.limit,
            after: asked.after.clone(),
        },
    };
    let answer = node.client.replay(&replay)?;
    node.print(&answer, replayed_table)?;
    if let Some(next) = answer.next.as_ref().filter(|_| answer.unsettled == 0) {
        eprintln!("{} remain; go on with --after {next}", answer.remaining);
    }
    degraded(trouble_of(&answer))
}

fn trouble_of(answer: &Replayed) -> Vec<String> {
    let mut trouble = Vec::new();
    if answer.unsettled > 0 {
        trouble.push(format!(
            "of {} messages nothing is known: they may arrive later; the same command sends them again",
            answer.unsettled
        ));
    }
    if let Some(refusal) = &answer.refusal {
        trouble.push(format!("{} were not sent: {refusal}", answer.refused));
    }
    trouble.extend(answer.partial.clone());
    trouble
}

fn pause_table(pause: &Pause) -> String {
    let word = if pause.paused { "paused" } else { "running" };
    format!("{word}\n")
}

fn status_table(status: &Status) -> String {
    let mut text = String::new();
    if let Some(log) = &status.log {
        text += &log_lines(log);
    }
    if let Some(kafka) = &status.kafka {
        let state = if kafka.paused { "paused" } else { "running" };
        text += &format!(
            "kafka      {state}; {} producers rebuilt\n",
            kafka.producers_rebuilt
        );
    }
    let source = status.store.source.as_deref().unwrap_or("no topic");
    let state = match status.store.trouble() {
        None => format!("reads {source}"),
        Some(trouble) => format!("does not read {source}: {trouble}"),
    };
    text += &format!("store      {}\n", plain(&state));
    if let Some(kafka) = &status.kafka {
        text.push('\n');
        text += &topics_now(&kafka.topics);
        text.push('\n');
        text += &topics_since(&kafka.topics);
    }
    text
}

fn log_lines(log: &LogSizes) -> String {
    format!(
        "log        embedded: {} partitions, {} records, {} unread\n\
         on disk    {} bytes, and {} on their way\n",
        log.partitions, log.records, log.unread_records, log.disk_bytes, log.inflight_bytes
    )
}

/// How each topic stands now.
fn topics_now(topics: &[Topic]) -> String {
    let mut table = Table::new(&[
        ("TOPIC", Side::Left),
        ("MODE", Side::Left),
        ("CONTACT", Side::Left),
        ("AWAY", Side::Right),
        ("IN FLIGHT", Side::Right),
        ("WAITING", Side::Right),
        ("SPOOL", Side::Right),
        ("SPOOL BYTES", Side::Right),
    ]);
    for one in topics {
        let contact = match &one.contact {
            Contact::Unknown => "unknown",
            Contact::Good => "good",
            Contact::Refused { .. } => "refused",
        };
        let full = if one.spool_full { " full" } else { "" };
        table.row([
            one.topic.clone(),
            one.mode.clone(),
            contact.to_owned(),
            one.lanes_away.to_string(),
            one.inflight_records.to_string(),
            one.waiting_records.to_string(),
            one.spool_records.to_string(),
            format!("{}{full}", one.spool_bytes),
        ]);
    }
    table.text()
}

/// What each topic has counted since the start.
fn topics_since(topics: &[Topic]) -> String {
    let mut table = Table::new(&[
        ("SINCE THE START", Side::Left),
        ("ACCEPTED", Side::Right),
        ("DELIVERED", Side::Right),
        ("SPOOLED", Side::Right),
        ("DRAINED", Side::Right),
        ("SHED", Side::Left),
        ("POISONED", Side::Right),
        ("FAILED", Side::Right),
        ("WENT AWAY", Side::Right),
    ]);
    for one in topics {
        let shed = one.shed.iter().filter(|(_, count)| **count > 0);
        let shed: Vec<String> = shed
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        table.row([
            one.topic.clone(),
            one.accepted.to_string(),
            one.delivered.to_string(),
            one.spooled.to_string(),
            one.drained.to_string(),
            if shed.is_empty() {
                "0".to_owned()
            } else {
                shed.join(", ")
            },
            one.poisoned.to_string(),
            one.failed.to_string(),
            one.went_away.to_string(),
        ]);
    }
    table.text()
}

fn lag_table(lag: &Lag) -> String {
    let mut table = Table::new(&[
        ("PARTITION", Side::Right),
        ("POSITION", Side::Right),
        ("END", Side::Right),
        ("LAG", Side::Right),
    ]);
    for one in &lag.partitions {
        table.row([
            one.partition.to_string(),
            one.position.to_string(),
            one.end.to_string(),
            one.lag.to_string(),
        ]);
    }
    let mut text = table.text();
    text += &format!("total lag: {}\n", lag.total);
    for (topic, records) in &lag.spooled {
        text += &format!("spooled for {}: {records}\n", plain(topic));
    }
    text
}

fn letters_table(found: &DeadLetters) -> String {
    if found.letters.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let mut table = Table::new(&[
        ("ID", Side::Left),
        ("RECEIVED", Side::Left),
        ("REASON", Side::Left),
        ("DEVICE", Side::Left),
        ("SOURCE", Side::Left),
        ("TEXT", Side::Left),
        ("PAYLOAD", Side::Left),
    ]);
    for one in &found.letters {
        let offset = one
            .offset
            .map_or_else(|| "-".to_owned(), |offset| offset.to_string());
        let topic = one.topic.as_deref().unwrap_or("log");
        let payload = match &one.payload {
            Payload::Text(text) => cut(text, CELL_CHARS_MAX),
            Payload::Base64(text) => cut(&format!("base64 {text}"), CELL_CHARS_MAX),
        };
        table.row([
            one.id.clone(),
            format_time(one.received_ms),
            one.reason.clone(),
            one.device.clone(),
            format!("{topic}/{}/{offset}", one.partition),
            cut(&one.text, CELL_CHARS_MAX),
            payload,
        ]);
    }
    table.text()
}

fn replayed_table(answer: &Replayed) -> String {
    let mut text = format!("replayed   {}\n", answer.replayed);
    for (word, count) in [
        ("unsettled", answer.unsettled),
        ("refused", answer.refused),
        ("remaining", answer.remaining),
    ] {
        if count > 0 {
            text += &format!("{word:<10} {count}\n");
        }
    }
    text
}

#[cfg(test)]
#[path = "bridge_test.rs"]
mod tests;
