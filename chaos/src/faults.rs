//! The faults themselves: how each begins, and how it is taken back.

mod disk;
mod partition;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use benches::demo::view::leader_of;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::time::Instant;

use self::disk::{fill, let_go};
use crate::Error;
use crate::cluster::State;
use crate::plan::{Met, Planned};
use crate::report::FaultRecord;
use crate::run::Run;
use crate::scenario::Kind;

/// Time that a node may take to end after its disk was full.
const ENDING: Duration = Duration::from_secs(2);
/// The file that fills it.
const FILLER: &str = "filler";

/// Is a fault that has begun.
pub(crate) struct Active {
    /// Whether no other drawn one begins before it is over.
    pub(crate) is_drawn: bool,
    kind: Kind,
    met: Vec<usize>,
    cut_off: Vec<usize>,
    begin_s: f64,
    note: String,
    kills: u32,
    undo: Undo,
}

/// What takes a fault back.
enum Undo {
    Nothing,
    /// Nodes are down and are to be started.
    Start(Vec<usize>),
    GoOn(Vec<usize>),
    Join(Vec<(usize, usize)>),
    Keep(u32),
    Hurry(Vec<usize>),
    /// Programs that hold other processes; they let them go when they end.
    LetGo(Vec<Child>),
    /// Files fill the file systems of nodes, which may have ended for it.
    Remove(Vec<PathBuf>, Vec<usize>),
    WakeKafka,
    /// A node gives up what it holds.
    Undrain(usize),
}

impl Run {
    /// Begins a fault; what is over at once has happened when this returns.
    pub(crate) async fn begin_fault(&mut self, planned: &Planned) -> Result<Active, Error> {
        let met = self.resolve(&planned.met);
        let mut active = Active {
            is_drawn: planned.is_drawn,
            kind: planned.kind,
            met: met.clone(),
            cut_off: Vec::new(),
            begin_s: self.seconds(),
            note: String::new(),
            kills: 0,
            undo: Undo::Nothing,
        };
        eprintln!(
            "  {:>6.1} s  {} {}",
            active.begin_s,
            planned.kind,
            numbers(&met)
        );
        match planned.kind {
            Kind::Kill => {
                active.kills = met.len() as u32;
                self.cluster.kill(&met).await?;
                active.undo = Undo::Start(met);
            }
            Kind::Stop => {
                for at in &met {
                    self.stop_node(*at).await?;
                }
                active.undo = Undo::Start(met);
            }
            Kind::Pause => {
                for at in &met {
                    self.watch.hold(*at, true);
                    self.cluster.pause(*at)?;
                }
                active.undo = Undo::GoOn(met);
            }
            Kind::Isolate | Kind::Deaf | Kind::Mute | Kind::Bridge => {
                let cut = self.cuts(planned.kind, &met);
                active.cut_off = self.without_meta(planned.kind, &met);
                self.network()?.cut(&cut)?;
                active.undo = Undo::Join(cut);
            }
            Kind::Loss => {
                self.network()?.lose(planned.percent)?;
                active.note = format!("{} %", planned.percent);
                active.undo = Undo::Keep(planned.percent);
            }
            Kind::Delay => {
                self.delay(&met, planned.delay);
                active.note = format!("{:?} each way", planned.delay);
                active.undo = Undo::Hurry(met);
            }
            Kind::SlowDisk => {
                active.undo = Undo::LetGo(self.slow_fsync(&met, planned.delay)?);
                active.note = format!("each fsync {:?} later", planned.delay);
            }
            Kind::FailingDisk => {
                active.note = self.fail_fsync(&met).await?;
                active.kills = 0;
                active.undo = Undo::Start(met);
            }
            Kind::FullDisk => {
                let folders = met
                    .iter()
                    .map(|at| self.cluster.member(*at).folder().to_owned());
                let folders: Vec<PathBuf> = folders.collect();
                let fillers = folders.iter().map(|folder| folder.join(FILLER)).collect();
                let filling = tokio::task::spawn_blocking(move || {
                    folders
                        .iter()
                        .try_for_each(|folder| fill(&folder.join(FILLER)))
                });
                self.during(filling).await??;
                active.undo = Undo::Remove(fillers, met);
            }
            Kind::LoseLog => {
                for at in &met {
                    let (kills, note) = self.lose_log(*at).await?;
                    active.kills += kills;
                    active.note = note;
                }
            }
            Kind::Storm => {
                if let Some(workload) = &self.workload {
                    workload.cut_all();
                }
            }
            Kind::KafkaOutage => {
                self.signal_kafka(Signal::STOP)?;
                active.undo = Undo::WakeKafka;
            }
            Kind::Transfer => active.note = self.transfer(&met).await?,
            Kind::Rolling => active.note = self.roll(planned.lasts).await?,
            Kind::Scale => active.note = self.scale(planned.to as usize).await?,
            Kind::Drain => {
                for at in &met {
                    active.note = self.drain(*at).await?;
                    active.undo = Undo::Undrain(*at);
                }
            }
        }
        Ok(active)
    }

    /// Takes a fault back, and waits until nodes that it had ended are ready again.
    pub(crate) async fn end(
        &mut self,
        active: Active,
        is_last: bool,
    ) -> Result<FaultRecord, Error> {
        let Active {
            is_drawn: _,
            kind,
            met,
            cut_off,
            begin_s,
            mut note,
            kills,
            undo,
        } = active;
        let begun = Instant::now();
        let mut note_too = |text: String| {
            note = match note.is_empty() {
                true => text,
                false => format!("{note}; {text}"),
            }
        };
        match undo {
            Undo::Nothing => {}
            Undo::Start(places) => {
                for at in &places {
                    if self.cluster.member(*at).state() == State::Down {
                        self.spawn(*at)?;
                    }
                }
                // A node that is cut off still cannot be ready; once nothing is broken, all have to be.
                if is_last {
                    self.until_ready(&places, begun).await?;
                    note_too(format!(
                        "ready after {:.1} s",
                        begun.elapsed().as_secs_f64()
                    ));
                }
            }
            Undo::GoOn(places) => {
                for at in places {
                    self.resume(at)?;
                }
            }
            Undo::Join(cut) => {
                let network = self.network()?;
                let before = network.dropped()?;
                network.join(&cut)?;
                if before == 0 {
                    self.find(&format!(
                        "{kind} {}: no packet was dropped: the rules do not say between whom packets go",
                        numbers(&met)
                    ));
                }
            }
            Undo::Keep(percent) => self.network()?.keep(percent)?,
            Undo::Hurry(places) => self.delay(&places, Duration::ZERO),
            Undo::LetGo(tracers) => {
                for tracer in tracers {
                    let_go(tracer).await?;
                }
            }
            Undo::Remove(files, places) => {
                for file in files {
                    std::fs::remove_file(&file)
                        .map_err(|error| Error::Failed(format!("{}: {error}", file.display())))?;
                }
                // One that met the end of its disk just now takes a moment to end.
                self.wait(Instant::now() + ENDING).await?;
                let (ended, said) = self.start_ended(&places).await?;
                if !ended.is_empty() {
                    note_too(said);
                }
            }
            Undo::WakeKafka => self.signal_kafka(Signal::CONT)?,
            Undo::Undrain(at) => self.undrain(at).await?,
        }
        Ok(FaultRecord {
            kind,
            met: numbers(&met),
            cut_off,
            begin_s,
            end_s: self.seconds(),
            whole_s: None,
            kills,
            stall_s: 0.0,
            note,
        })
    }

    /// Starts those nodes again that have ended, as they might; who, and what is to be said of it.
    async fn start_ended(&mut self, places: &[usize]) -> Result<(Vec<usize>, String), Error> {
        let begun = Instant::now();
        let mut ended = Vec::new();
        let mut said = Vec::new();
        for at in places {
            if let Some(status) = self.cluster.ended(*at)? {
                said.push(format!("node {} had ended: {status}", at + 1));
                ended.push(*at);
                self.spawn(*at)?;
            }
        }
        self.ending.retain(|at| !places.contains(at));
        if !ended.is_empty() {
            self.until_ready(&ended, begun).await?;
            said.push(format!(
                "ready after {:.1} s",
                begun.elapsed().as_secs_f64()
            ));
        }
        Ok((ended, said.join(", ")))
    }

    /// Who is met, of those that run.
    fn resolve(&self, met: &Met) -> Vec<usize> {
        // Counted over the members: some may have been replaced.
        let places = self.cluster.places();
        let wanted = match met {
            Met::Nobody => Vec::new(),
            Met::Nodes(wanted) => wanted
                .iter()
                .filter_map(|one| places.get(*one).copied())
                .collect(),
            Met::Leader => {
                let status = self.watch.status();
                let leader = status.and_then(|status| leader_of(&status, "meta"));
                // Without a leader any node will do.
                vec![leader.map_or(places[0], |number| number as usize - 1)]
            }
        };
        let members = self.cluster.members();
        let runs = |at: &usize| {
            members
                .get(*at)
                .is_some_and(|one| one.state() == State::Running)
        };
        wanted.into_iter().filter(runs).collect()
    }

    /// Lets a paused node go on.
    pub(crate) fn resume(&mut self, at: usize) -> Result<(), Error> {
        self.cluster.go_on(at)?;
        self.watch.hold(at, false);
        Ok(())
    }

    /// Has a node stop by SIGTERM and waits for its end, which has to be a good one.
    pub(crate) async fn stop_node(&mut self, at: usize) -> Result<(), Error> {
        self.ending.push(at);
        self.cluster.terminate(at)?;
        self.until_stopped(at).await
    }

    fn signal_kafka(&self, signal: Signal) -> Result<(), Error> {
        for number in &self.job.kafka_pids {
            let failed = |error: String| Error::Failed(format!("--kafka-pid {number}: {error}"));
            let pid = Pid::from_raw(number.cast_signed());
            let pid = pid.ok_or_else(|| failed("no process".into()))?;
            kill_process(pid, signal).map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }
}

fn numbers(places: &[usize]) -> String {
    let numbers: Vec<String> = places.iter().map(|at| (at + 1).to_string()).collect();
    numbers.join("+")
}

impl fmt::Display for FaultRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            met,
            begin_s,
            end_s,
            stall_s,
            note,
            ..
        } = self;
        let lasted = end_s - begin_s;
        write!(f, "            {kind} {met}: {lasted:.1} s, ")?;
        match self.whole_s {
            Some(whole_s) => write!(f, "whole {whole_s:.1} s later, ")?,
            None => write!(f, "not whole, ")?,
        }
        write!(
            f,
            "longest without an acknowledgement {stall_s:.1} s; {note}"
        )
    }
}
