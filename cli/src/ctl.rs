//! `tidewire ctl`: a noun is a module, with its verbs, their answers and their tables.

pub(crate) mod bridge;
pub(crate) mod cluster;
pub(crate) mod drain;
pub(crate) mod lb;
pub(crate) mod node;
pub(crate) mod retained;
pub(crate) mod session;
pub(crate) mod shard;
pub(crate) mod sub;
pub(crate) mod trace;
pub(crate) mod tsdb;

mod health;
mod pages;
mod rebalance;
mod table;

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use admin::client::{Client, ClientError};
use serde::Serialize;

use crate::arguments::{Ctl, CtlOutput, Noun};
use crate::query::code_of;
use crate::{exit, fail, not_built};

/// Most rows of a list.
const LIST_MAX: usize = 100_000;

/// Is the node that is asked, and the form in which its answers are printed.
struct Node {
    client: Client,
    output: CtlOutput,
}

/// How a verb ends whose answer was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All is well: exit code 0.
    Good,
    /// It was done, but something is degraded, as was printed: exit code 3.
    Degraded,
}

/// Why a verb has no answer.
#[derive(Debug)]
enum Failed {
    Node(ClientError),
    Output(std::io::Error),
    /// What is asked for is not there: exit code 1.
    Nothing(String),
    /// What was asked is no question: exit code 2.
    Usage(String),
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Self::Node(error)
    }
}

type Done = Result<End, Failed>;

/// Asks the node and prints its answer; the exit code.
pub(crate) fn run(arguments: &Ctl) -> u8 {
    let node = Node {
        client: Client::new(&arguments.target.admin),
        output: arguments.output,
    };
    match arguments.watch {
        None => once(&node, &arguments.noun),
        Some(_) if !looks_only(&arguments.noun) => {
            let why = "--watch is for verbs that only look; nothing was done";
            fail(exit::USAGE, &why)
        }
        Some(seconds) => watch(&node, &arguments.noun, Duration::from_secs(seconds)),
    }
}

fn once(node: &Node, noun: &Noun) -> u8 {
    let done = match noun {
        Noun::Bridge { verb } => bridge::run(node, verb),
        Noun::Tsdb { verb } => tsdb::run(node, verb),
        Noun::Node { verb } => node::run(node, verb),
        Noun::Cluster { verb } => cluster::run(node, verb),
        Noun::Shard { verb } => shard::run(node, verb),
        Noun::Client { verb } => session::clients(node, verb),
        Noun::Session { verb } => session::sessions(node, verb),
        Noun::Sub { verb } => sub::run(node, verb),
        Noun::Retained { verb } => retained::run(node, verb),
        Noun::Lb { verb } => lb::run(node, verb),
        Noun::Trace { verb } => trace::run(node, verb),
        Noun::Doctor => health::doctor(node),
        Noun::Other(words) => return other(words),
    };
    match done {
        Ok(End::Good) => 0,
        Ok(End::Degraded) => exit::DEGRADED,
        Err(Failed::Node(error)) => fail(code_of(&error), &error),
        Err(Failed::Output(error)) => fail(exit::FAILED, &error),
        Err(Failed::Nothing(error)) => fail(exit::FAILED, &error),
        Err(Failed::Usage(error)) => fail(exit::USAGE, &error),
    }
}

/// Asks again and again, also while the node is away, until interrupted; ends with what cannot pass.
fn watch(node: &Node, noun: &Noun, pause: Duration) -> u8 {
    loop {
        if node.output == CtlOutput::Table && std::io::stdout().is_terminal() {
            // Home, and clear to the end.
            print!("\u{1b}[H\u{1b}[J");
        }
        let code = once(node, noun);
        if ![0, exit::DEGRADED, exit::UNREACHABLE].contains(&code) {
            return code;
        }
        std::thread::park_timeout(pause);
    }
}

/// Whether a verb changes nothing.
fn looks_only(noun: &Noun) -> bool {
    match noun {
        Noun::Bridge { verb } => verb.looks_only(),
        Noun::Client { verb } => !matches!(verb, session::ClientVerb::Kick { .. }),
        Noun::Shard { verb } => {
            use shard::Verb;
            !matches!(verb, Verb::TransferLeader { .. } | Verb::Move { .. })
        }
        Noun::Cluster { verb } => verb.looks_only(),
        Noun::Tsdb { .. }
        | Noun::Node { .. }
        | Noun::Session { .. }
        | Noun::Sub { .. }
        | Noun::Retained { .. }
        | Noun::Doctor => true,
        // A trace goes on by itself.
        Noun::Trace { .. } | Noun::Lb { .. } | Noun::Other(_) => false,
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

impl Node {
    /// Prints an answer: as it came, on one line, or as a table.
    fn print<T: Serialize>(&self, answer: &T, table: impl FnOnce(&T) -> String) -> Done {
        let text = match self.output {
            CtlOutput::Json => serde_json::to_string(answer).expect("an answer is JSON") + "\n",
            CtlOutput::Table => table(answer),
        };
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(Failed::Output)?;
        Ok(End::Good)
    }
}

/// Rows of a list, over as many answers as that takes.
fn limit(text: &str) -> Result<usize, String> {
    within(text, LIST_MAX)
}

/// Rows of one answer.
fn page_limit(text: &str) -> Result<usize, String> {
    within(text, admin::sub::LIMIT_MAX)
}

fn within(text: &str, max: usize) -> Result<usize, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| format!("not a number from 1 to {max}"))
}

/// Ends with what is degraded, which is said on standard error.
fn degraded(trouble: impl IntoIterator<Item = String>) -> Done {
    let mut end = End::Good;
    for one in trouble {
        eprintln!("degraded: {}", table::plain(&one));
        end = End::Degraded;
    }
    Ok(end)
}
