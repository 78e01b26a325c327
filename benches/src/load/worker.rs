//! A worker: reads its plan and commands, one JSON line each, and answers each with one.

use std::io::{self, BufRead, Write};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use super::engine::Engine;
use super::plan::{Answer, Command, Plan, Tally};

/// Commands that may wait; the coordinator sends one and awaits its answer.
const COMMANDS: usize = 4;

/// How long the worker serves its sockets between two looks for a command, in ns.
const IDLE_NS: u64 = 2_000_000;

/// Works until the input ends.
///
/// # Errors
/// When the answers cannot be written; everything else is an [`Answer::Failed`].
pub fn work(input: impl BufRead + Send + 'static, mut output: impl Write) -> io::Result<()> {
    let (sender, lines) = sync_channel(COMMANDS);
    std::thread::Builder::new()
        .name("commands".into())
        .spawn(move || {
            for line in input.lines() {
                if sender.send(line).is_err() {
                    return;
                }
            }
        })?;
    let Ok(line) = lines.recv() else {
        return Ok(());
    };
    let engine = line
        .and_then(|line| Ok(serde_json::from_str::<Plan>(&line)?))
        .and_then(Engine::new);
    match engine {
        Ok(mut engine) => {
            answer(&mut output, Ok(Tally::default()))?;
            serve(&mut engine, &lines, &mut output)
        }
        Err(error) => answer(&mut output, Err(error)),
    }
}

fn serve(
    engine: &mut Engine,
    lines: &Receiver<io::Result<String>>,
    output: &mut impl Write,
) -> io::Result<()> {
    loop {
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Empty) => {
                engine.idle(IDLE_NS)?;
                continue;
            }
            Err(TryRecvError::Disconnected) => return Ok(()),
        };
        let tally = line
            .and_then(|line| Ok(serde_json::from_str::<Command>(&line)?))
            .and_then(|command| engine.command(command));
        answer(output, tally)?;
    }
}

fn answer(output: &mut impl Write, tally: io::Result<Tally>) -> io::Result<()> {
    let answer = match tally {
        Ok(tally) => Answer::Done(Box::new(tally)),
        Err(error) => Answer::Failed(error.to_string()),
    };
    serde_json::to_writer(&mut *output, &answer)?;
    output.write_all(b"\n")?;
    output.flush()
}
