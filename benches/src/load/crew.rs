//! The workers of a run: as processes of their own, or as threads of this one.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread::JoinHandle;

use super::LoadError;
use super::plan::{Answer, Command, Plan, Tally};
use super::worker::work;

/// What workers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launch {
    /// Processes: this program with these arguments, which must come to [`work`].
    Program(PathBuf, Vec<String>),
    /// Threads, for tests and small runs.
    Threads,
}

/// Running workers. Dropped, they end.
pub(super) struct Crew {
    workers: Vec<Worker>,
}

struct Worker {
    // Before `life`: a worker ends when its input does.
    input: Option<Box<dyn Write + Send>>,
    output: Box<dyn BufRead + Send>,
    life: Life,
}

enum Life {
    Process(Child),
    Thread(Option<JoinHandle<std::io::Result<()>>>),
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.input = None;
        match &mut self.life {
            Life::Process(child) => {
                if let Err(error) = child.wait() {
                    tracing::warn!(%error, "a worker's end cannot be awaited");
                }
            }
            Life::Thread(thread) => {
                if let Some(Ok(Err(error))) = thread.take().map(JoinHandle::join) {
                    tracing::warn!(%error, "a worker ended early");
                }
            }
        }
    }
}

impl Crew {
    /// Starts a worker for each plan.
    pub(super) fn start(launch: &Launch, plans: &[Plan]) -> Result<Self, LoadError> {
        let mut workers = Vec::new();
        for plan in plans {
            let mut worker = Worker::start(launch)?;
            worker.tell(plan)?;
            workers.push(worker);
        }
        for worker in &mut workers {
            worker.answer()?;
        }
        Ok(Self { workers })
    }

    /// Has all workers carry out a command at once; their tallies together.
    pub(super) fn all(&mut self, command: Command) -> Result<Tally, LoadError> {
        self.each(|_| Some(command))
    }

    /// Has each worker carry out its command, if it gets one, all at once; their tallies together.
    pub(super) fn each(
        &mut self,
        command: impl Fn(usize) -> Option<Command>,
    ) -> Result<Tally, LoadError> {
        let mut told = Vec::new();
        for (place, worker) in self.workers.iter_mut().enumerate() {
            if let Some(command) = command(place) {
                worker.tell(&command)?;
                told.push(place);
            }
        }
        let mut tally = Tally::default();
        for place in told {
            tally.merge(&self.workers[place].answer()?);
        }
        Ok(tally)
    }
}

impl Worker {
    fn start(launch: &Launch) -> Result<Self, LoadError> {
        match launch {
            Launch::Program(program, arguments) => {
                let mut child = std::process::Command::new(program)
                    .args(arguments)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .map_err(|error| {
                        LoadError::Worker(format!("{}: {error}", program.display()))
                    })?;
                let input = child.stdin.take().expect("it was asked for");
                let output = child.stdout.take().expect("it was asked for");
                Ok(Self {
                    input: Some(Box::new(input)),
                    output: Box::new(BufReader::new(output)),
                    life: Life::Process(child),
                })
            }
            Launch::Threads => {
                let pipe = || std::io::pipe().map_err(|error| LoadError::Worker(error.to_string()));
                let (commands, input) = pipe()?;
                let (output, answers) = pipe()?;
                let thread = std::thread::Builder::new()
                    .name("load".into())
                    .spawn(move || work(BufReader::new(commands), answers))
                    .map_err(|error| LoadError::Worker(error.to_string()))?;
                Ok(Self {
                    input: Some(Box::new(input)),
                    output: Box::new(BufReader::new(output)),
                    life: Life::Thread(Some(thread)),
                })
            }
        }
    }

    fn tell(&mut self, message: &impl serde::Serialize) -> Result<(), LoadError> {
        let mut line = serde_json::to_vec(message).expect("plain values are JSON");
        line.push(b'\n');
        let input = self.input.as_mut().expect("taken at the end only");
        input
            .write_all(&line)
            .and_then(|()| input.flush())
            .map_err(|error| LoadError::Worker(format!("it takes no commands: {error}")))
    }

    fn answer(&mut self) -> Result<Tally, LoadError> {
        let mut line = String::new();
        let taken = self.output.read_line(&mut line);
        match taken {
            Ok(0) => return Err(LoadError::Worker("it ended".into())),
            Ok(_) => {}
            Err(error) => return Err(LoadError::Worker(error.to_string())),
        }
        match serde_json::from_str(&line) {
            Ok(Answer::Done(tally)) => Ok(*tally),
            Ok(Answer::Failed(reason)) => Err(LoadError::Worker(reason)),
            Err(error) => Err(LoadError::Worker(format!("its answer is not one: {error}"))),
        }
    }
}
