//! `tidewire chaos`.

use std::path::PathBuf;
use std::time::Duration;

use chaos::{Options, Place};
use clap::Args;

use crate::arguments::duration;
use crate::{exit, fail};

/// The word that lists the scenarios instead of running any.
const LIST: &str = "list";
/// The word before the names of defects, each of which a checker has to find.
const SABOTAGE: &str = "sabotage";

#[derive(Debug, Args)]
pub(crate) struct Chaos {
    /// Scenarios by name, or files of your own; `list` says what there is; `sabotage [DEFECT…]` tries the
    /// checkers themselves on a build with the feature `faults` [default: all scenarios].
    scenarios: Vec<String>,
    /// Seed of the faults and of the clients [default: the scenario's, or drawn, and printed].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How long faults are drawn [default: as the scenario says].
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// End with one line of JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// Folder for the reports [default: a new temporary one].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder, on the disk to be used, for the data of the nodes [default: the system's temporary
    /// one].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Kafka for the scenarios that need one: HOST:PORT, or several separated by commas.
    #[arg(long, value_name = "BOOTSTRAP")]
    kafka: Option<String>,
    /// Process of a broker of that Kafka on this machine, which an outage stops and lets go on.
    #[arg(long, value_name = "PID")]
    kafka_pid: Vec<u32>,
    /// Defect that the nodes, of a build with the feature `faults`, are told to have: something must
    /// be found then.
    #[arg(long, value_name = "NAME")]
    defect: Option<String>,
    /// The program whose `serve` is a node [default: this one].
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
    /// Run the one scenario in this process, which is in such a place.
    #[arg(long, value_name = "PLACE", hide = true)]
    here: Option<Place>,
}

/// Runs scenarios, or lists them; the exit code.
pub(crate) fn run(arguments: &Chaos) -> u8 {
    let out = &mut std::io::stdout();
    if arguments.scenarios == [LIST] {
        return match chaos::list(out) {
            Ok(()) => 0,
            Err(error) => fail(error.exit_code(), &error),
        };
    }
    let is_sabotage = arguments
        .scenarios
        .first()
        .is_some_and(|word| word == SABOTAGE);
    let options = Options {
        scenarios: arguments.scenarios[usize::from(is_sabotage)..].to_vec(),
        seed: arguments.seed,
        duration: arguments.duration,
        json: arguments.json,
        out: arguments.out.clone(),
        data: arguments.data.clone(),
        kafka: arguments.kafka.clone(),
        kafka_pids: arguments.kafka_pid.clone(),
        defect: arguments.defect.clone(),
        strain: None,
        program: arguments.program.clone(),
        here: arguments.here,
    };
    if is_sabotage {
        return match chaos::sabotage(&options, out) {
            Ok(rows) if rows.iter().all(chaos::Row::is_as_wanted) => 0,
            Ok(_) => exit::FAILED,
            Err(error) => fail(error.exit_code(), &error),
        };
    }
    match chaos::run(&options, out) {
        Ok(summary) => summary.exit_code(),
        Err(error) => fail(error.exit_code(), &error),
    }
}
