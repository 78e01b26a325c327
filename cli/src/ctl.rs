//! `tidewire ctl`: a noun is a module, with its verbs, their answers and their tables.

pub(crate) mod bridge;
pub(crate) mod cluster;
pub(crate) mod drain;
pub(crate) mod node;
pub(crate) mod shard;
pub(crate) mod tsdb;

mod table;

use std::io::Write as _;

use admin::client::{Client, ClientError};
use serde::Serialize;

use crate::arguments::{Ctl, CtlOutput, Noun};
use crate::query::code_of;
use crate::{exit, fail, not_built};

/// Is the node that is asked, and the form in which its answers are printed.
struct Node {
    client: Client,
    output: CtlOutput,
}

/// How a verb ends whose answer was printed.
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
    let done = match &arguments.noun {
        Noun::Bridge { verb } => bridge::run(&node, verb),
        Noun::Tsdb { verb } => tsdb::run(&node, verb),
        Noun::Node { verb } => node::run(&node, verb),
        Noun::Cluster { verb } => cluster::run(&node, verb),
        Noun::Shard { verb } => shard::run(&node, verb),
        Noun::Other(words) => return other(words),
    };
    match done {
        Ok(End::Good) => 0,
        Ok(End::Degraded) => exit::DEGRADED,
        Err(Failed::Node(error)) => fail(code_of(&error), &error),
        Err(Failed::Output(error)) => fail(exit::FAILED, &error),
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

/// Ends with what is degraded, which is said on standard error.
fn degraded(trouble: impl IntoIterator<Item = String>) -> Done {
    let mut end = End::Good;
    for one in trouble {
        eprintln!("degraded: {}", table::plain(&one));
        end = End::Degraded;
    }
    Ok(end)
}
