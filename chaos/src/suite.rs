//! Scenarios one after the other, each in a process of its own, and what they come to together.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use benches::load::grouped;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::network::{WITH_PARENT, has_with_parent, namespaces};
use crate::report::Report;
use crate::run::{Job, run_here};
use crate::scenario::{Need, Scenario, shipped};
use crate::{Error, Options, Place};

/// Is what became of one scenario.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It came to a verdict.
    Ran(Box<Report>),
    /// It was not run.
    Skipped {
        /// Its name.
        scenario: String,
        /// What is missing on this machine.
        missing: String,
    },
    /// It came to no verdict.
    Failed {
        /// Its name.
        scenario: String,
        /// How its process ended.
        how: String,
    },
}

/// Is what all scenarios came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Folder of the reports.
    pub out: PathBuf,
    /// Defect that the nodes were told to have.
    pub defect: Option<String>,
    /// Messages acknowledged.
    pub acked: u64,
    /// Messages received.
    pub received: u64,
    /// Faults.
    pub faults: u64,
    /// Nodes killed with SIGKILL.
    pub kills: u64,
    /// Partitions.
    pub partitions: u64,
    /// Violations that checkers found.
    pub violations: u64,
    /// Scenarios that were skipped.
    pub skipped: u64,
    /// Scenarios that came to no verdict.
    pub failed: u64,
    /// Seconds.
    pub seconds: f64,
    /// Each scenario, in order.
    pub outcomes: Vec<Outcome>,
}

impl Summary {
    /// Returns the command's exit code: 0 all green, 1 something was found or failed, 3 something was
    /// skipped. With a defect 0 says that a checker found it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let is_as_wanted = match self.defect {
            Some(_) => self.violations > 0,
            None => self.violations == 0,
        };
        match (is_as_wanted && self.failed == 0, self.skipped) {
            (false, _) => 1,
            (true, 0) => 0,
            (true, _) => 3,
        }
    }

    fn take(&mut self, outcome: Outcome) {
        match &outcome {
            Outcome::Ran(report) => {
                self.acked += report.acked;
                self.received += report.received;
                self.faults += report.faults.len() as u64;
                self.kills += u64::from(report.kills());
                self.partitions += u64::from(report.partitions());
                self.violations += report.violations();
                self.seconds += report.seconds;
            }
            Outcome::Skipped { .. } => self.skipped += 1,
            Outcome::Failed { .. } => self.failed += 1,
        }
        self.outcomes.push(outcome);
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a summary has no map with odd keys")
    }
}

/// Heads of the table's columns.
const HEAD: &str = "scenario              seed      acked   received  faults kills parts  stall s       s  verdict";

fn row(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ran(report) => {
            let found = report.verdicts.iter().filter(|verdict| verdict.count > 0);
            let found: Vec<String> = found
                .map(|verdict| format!("{} {}", verdict.count, verdict.checker))
                .collect();
            let verdict = match found.is_empty() {
                true => "green".to_owned(),
                false => format!("VIOLATIONS: {}", found.join(", ")),
            };
            format!(
                "{:<14} {:>11} {:>10} {:>10} {:>7} {:>5} {:>5} {:>8.1} {:>7.0}  {verdict}",
                report.scenario,
                report.seed,
                grouped(report.acked as f64),
                grouped(report.received as f64),
                report.faults.len(),
                report.kills(),
                report.partitions(),
                report.stall_s,
                report.seconds,
            )
        }
        Outcome::Skipped { scenario, missing } => {
            format!("{scenario:<14} SKIPPED: needs {missing}")
        }
        Outcome::Failed { scenario, how } => format!("{scenario:<14} FAILED: {how}"),
    }
}

/// Writes the names of the shipped scenarios.
pub(crate) fn list(out: &mut dyn Write) -> Result<(), Error> {
    for one in shipped() {
        let scenario = Scenario::find(one.name)?;
        let needs: Vec<String> = scenario.needs().iter().map(Need::to_string).collect();
        let needs = match needs.is_empty() {
            true => String::new(),
            false => format!(" Needs {}.", needs.join(", ")),
        };
        let line = format!("{:<14} {}{needs}", one.name, scenario.about);
        writeln!(out, "{line}").map_err(written)?;
    }
    Ok(())
}

/// Runs scenarios.
pub(crate) fn run(options: &Options, out: &mut dyn Write) -> Result<Summary, Error> {
    options.validate()?;
    let words: Vec<String> = match options.scenarios.is_empty() {
        true => shipped().map(|one| one.name.to_owned()).collect(),
        false => options.scenarios.clone(),
    };
    let scenarios = words
        .iter()
        .map(|word| Scenario::find(word))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(place) = options.here {
        return here(options, place, scenarios);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Failed(format!("the async runtime: {error}")))?;
    runtime.block_on(all(options, words.into_iter().zip(scenarios), out))
}

/// Runs one scenario in this process.
fn here(options: &Options, place: Place, scenarios: Vec<Scenario>) -> Result<Summary, Error> {
    let usage = |what: &str| Error::Usage(format!("--here: {what}"));
    let scenario = scenarios
        .into_iter()
        .next()
        .ok_or_else(|| usage("no scenario"))?;
    let job = Job {
        seed: options.seed.ok_or_else(|| usage("no --seed"))?,
        duration: options.duration.unwrap_or(scenario.duration),
        scenario,
        out: options.out.clone().ok_or_else(|| usage("no --out"))?,
        data: options.data.clone().ok_or_else(|| usage("no --data"))?,
        program: program(options)?,
        is_in_namespace: place == Place::Namespace,
        kafka: options.kafka.clone(),
        kafka_pids: options.kafka_pids.clone(),
        defect: options.defect.clone(),
    };
    let mut summary = Summary {
        defect: options.defect.clone(),
        ..Summary::default()
    };
    summary.take(Outcome::Ran(Box::new(run_here(job)?)));
    Ok(summary)
}

async fn all(
    options: &Options,
    scenarios: impl Iterator<Item = (String, Scenario)>,
    out: &mut dyn Write,
) -> Result<Summary, Error> {
    let folder = match &options.out {
        Some(folder) => folder.clone(),
        None => new_folder(None, "tidewire-chaos-")?.keep(),
    };
    let machine = Machine {
        namespaces: namespaces(),
        has_strace: has_strace(),
    };
    let mut summary = Summary {
        out: folder.clone(),
        defect: options.defect.clone(),
        ..Summary::default()
    };
    let mut say = |line: &str| match options.json {
        true => {
            eprintln!("{line}");
            Ok(())
        }
        false => writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .map_err(written),
    };
    eprintln!("reports in {}", folder.display());
    say(HEAD)?;
    for (word, scenario) in scenarios {
        let outcome = one(options, &machine, &folder, &word, &scenario).await?;
        say(&row(&outcome))?;
        summary.take(outcome);
    }
    let total = format!(
        "total                      {:>10} {:>10} {:>7} {:>5} {:>5} {:>16.0}  {} violations, {} skipped, {} failed",
        grouped(summary.acked as f64),
        grouped(summary.received as f64),
        summary.faults,
        summary.kills,
        summary.partitions,
        summary.seconds,
        summary.violations,
        summary.skipped,
        summary.failed
    );
    say(&total)?;
    if let Some(defect) = &summary.defect {
        say(&caught(defect, &summary))?;
    }
    if options.json {
        writeln!(out, "{}", summary.to_json()).map_err(written)?;
    }
    Ok(summary)
}

/// Which checker found a defect.
fn caught(defect: &str, summary: &Summary) -> String {
    let ran = summary.outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Ran(report) => Some(report),
        _ => None,
    });
    for report in ran {
        let mut verdicts = report.verdicts.iter().filter(|verdict| verdict.count > 0);
        if let Some(verdict) = verdicts.next() {
            let first = verdict.violations.first().map_or("", String::as_str);
            return format!(
                "defect {defect}: caught by {} in {}: {first}",
                verdict.checker, report.scenario
            );
        }
    }
    format!("defect {defect}: NOT caught")
}

/// What this machine has.
struct Machine {
    namespaces: Option<Vec<String>>,
    has_strace: bool,
}

async fn one(
    options: &Options,
    machine: &Machine,
    folder: &Path,
    word: &str,
    scenario: &Scenario,
) -> Result<Outcome, Error> {
    let name = scenario.name.clone();
    // A Kafka of the machine is not seen from a network of its own.
    let namespaces = machine.namespaces.as_ref().filter(|_| !scenario.kafka);
    let is_missing = |need: &Need| match need {
        Need::Network | Need::Mounts => namespaces.is_none(),
        Need::Tracing => !machine.has_strace,
        Need::Kafka => options.kafka.is_none() || options.kafka_pids.is_empty(),
    };
    let missing: Vec<Need> = scenario.needs().into_iter().filter(is_missing).collect();
    if !missing.is_empty() {
        let missing: Vec<String> = missing.iter().map(Need::to_string).collect();
        return Ok(Outcome::Skipped {
            scenario: name,
            missing: missing.join(", "),
        });
    }
    let seed = options.seed.or(scenario.seed);
    let seed = seed.unwrap_or_else(|| SmallRng::from_os_rng().random::<u32>().into());
    let duration = options.duration.unwrap_or(scenario.duration);
    eprintln!(
        "{name} --seed {seed} --for {duration:?}: {}",
        scenario.about
    );
    let out = folder.join(&name);
    std::fs::create_dir_all(&out).map_err(|error| at(&out, &error))?;
    remove_old(&out)?;
    let data = new_folder(options.data.as_deref(), &format!("{name}-"))?;

    let program = program(options)?;
    let running = std::env::current_exe()
        .map_err(|error| Error::Failed(format!("the running program: {error}")))?;
    let mut command = match namespaces.and_then(|words| words.split_first()) {
        Some((first, words)) => {
            let mut command = Command::new(first);
            command.args(words).arg(running);
            command
        }
        None => with_parent(running),
    };
    let place = match namespaces {
        Some(_) => Place::Namespace,
        None => Place::Loopback,
    };
    command.args(["chaos", word, "--here", place.word()]);
    command.args(["--seed", &seed.to_string()]);
    command.args(["--for", &format!("{}ms", duration.as_millis())]);
    command.arg("--out").arg(&out);
    command.arg("--data").arg(data.path());
    command.arg("--program").arg(program);
    if let Some(kafka) = &options.kafka {
        command.args(["--kafka", kafka]);
    }
    for pid in &options.kafka_pids {
        command.args(["--kafka-pid", &pid.to_string()]);
    }
    if let Some(defect) = &options.defect {
        command.args(["--defect", defect]);
    }
    if let Some(strain) = &options.strain {
        command.env("TIDEWIRE_STRAIN", strain);
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Error::Failed(format!("{name}: {error}")))?;
    let status = ended(child).await?;
    let outcome = match Report::read(&out) {
        Ok(report) => Outcome::Ran(Box::new(report)),
        Err(_) => Outcome::Failed {
            scenario: name,
            how: status.to_string(),
        },
    };
    let is_green = matches!(&outcome, Outcome::Ran(report) if report.is_green());
    close(data, is_green);
    Ok(outcome)
}

/// The program on the machine's loopback, so that it does not outlive this one where that can be had.
fn with_parent(running: PathBuf) -> Command {
    let Some((first, words)) = WITH_PARENT.split_first().filter(|_| has_with_parent()) else {
        return Command::new(running);
    };
    let mut command = Command::new(first);
    command.args(words).arg("TERM").arg(running);
    command
}

/// Waits for the end of a scenario's process; an interruption is passed on to it.
async fn ended(mut child: Child) -> Result<ExitStatus, Error> {
    let failed = |error: std::io::Error| Error::Failed(format!("a scenario's process: {error}"));
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        status = child.wait() => return status.map_err(failed),
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
    if let Some(pid) = child.id().map(u32::cast_signed).and_then(Pid::from_raw) {
        // It may have ended this very moment.
        let _ = kill_process(pid, Signal::TERM);
    }
    let _ = tokio::time::timeout(INTERRUPT_DEADLINE, child.wait()).await;
    Err(Error::Interrupted)
}

/// Time in which an interrupted scenario may end by itself.
const INTERRUPT_DEADLINE: Duration = Duration::from_secs(10);

/// Keeps the nodes' folders where somebody will want to look at them.
fn close(data: TempDir, is_green: bool) {
    let path = data.path().to_owned();
    if !is_green {
        eprintln!("the nodes' folders are kept: {}", data.keep().display());
    } else if let Err(error) = data.close() {
        eprintln!("{}: not removed: {error}", path.display());
    }
}

/// A report of an earlier run is not this one's.
fn remove_old(out: &Path) -> Result<(), Error> {
    let path = out.join(crate::report::JSON);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(&path, &error)),
        _ => Ok(()),
    }
}

fn new_folder(below: Option<&Path>, prefix: &str) -> Result<TempDir, Error> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    let made = match below {
        Some(below) => std::fs::create_dir_all(below).and_then(|()| builder.tempdir_in(below)),
        None => builder.tempdir(),
    };
    made.map_err(|error| Error::Failed(format!("a new folder: {error}")))
}

fn program(options: &Options) -> Result<PathBuf, Error> {
    match &options.program {
        Some(program) => Ok(program.clone()),
        None => std::env::current_exe()
            .map_err(|error| Error::Failed(format!("the running program: {error}"))),
    }
}

/// Whether `strace` is there and may attach to a process that is not its child.
fn has_strace() -> bool {
    let Ok(mut sleeper) = std::process::Command::new("sleep")
        .arg("60")
        .stdin(Stdio::null())
        .spawn()
    else {
        return false;
    };
    let tried = std::process::Command::new("timeout")
        .args(["1", "strace", "-qq", "-o", "/dev/null", "-p"])
        .arg(sleeper.id().to_string())
        .stdin(Stdio::null())
        .output();
    let _ = sleeper.kill();
    let _ = sleeper.wait();
    // It is ended by `timeout` if it could attach, and ends by itself at once if not.
    tried.is_ok_and(|output| output.status.code() == Some(124))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "used as a function of map_err"
)]
fn written(error: std::io::Error) -> Error {
    Error::Failed(format!("the output: {error}"))
}

fn at(path: &Path, error: &std::io::Error) -> Error {
    Error::Failed(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;

    fn ran(count: u64) -> Outcome {
        Outcome::Ran(Box::new(Report {
            scenario: "kills".into(),
            acked: 1_000,
            verdicts: vec![Verdict {
                checker: "lost".into(),
                checked: 1_000,
                count,
                excused: 0,
                violations: vec!["message 7".into(); usize::from(count > 0)],
            }],
            ..Report::default()
        }))
    }

    fn summary(outcomes: Vec<Outcome>, defect: Option<&str>) -> Summary {
        let mut summary = Summary {
            defect: defect.map(str::to_owned),
            ..Summary::default()
        };
        for outcome in outcomes {
            summary.take(outcome);
        }
        summary
    }

    fn skipped() -> Outcome {
        Outcome::Skipped {
            scenario: "partitions".into(),
            missing: Need::Network.to_string(),
        }
    }

    #[test]
    fn the_exit_code_says_green_found_or_skipped() {
        assert_eq!(summary(vec![ran(0)], None).exit_code(), 0);
        assert_eq!(summary(vec![ran(0), ran(1)], None).exit_code(), 1);
        assert_eq!(summary(vec![ran(0), skipped()], None).exit_code(), 3);
        assert_eq!(summary(vec![ran(1), skipped()], None).exit_code(), 1);
        let failed = Outcome::Failed {
            scenario: "kills".into(),
            how: "exit status: 1".into(),
        };
        assert_eq!(summary(vec![failed], None).exit_code(), 1);
    }

    #[test]
    fn with_a_defect_something_has_to_be_found() {
        assert_eq!(summary(vec![ran(0)], Some("x")).exit_code(), 1);
        let found = summary(vec![ran(2)], Some("x"));
        assert_eq!(found.exit_code(), 0);
        assert!(caught("x", &found).contains("caught by lost in kills: message 7"));
    }
}
