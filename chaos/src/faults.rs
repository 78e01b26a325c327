//! The faults themselves: how each begins, and how it is taken back.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use benches::demo::view::leader_of;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::Error;
use crate::cluster::State;
use crate::network::ways;
use crate::plan::{Met, Planned};
use crate::report::FaultRecord;
use crate::run::{READY_DEADLINE, Run};
use crate::scenario::Kind;

/// Time within which a node has to end whose fsync has failed: it writes all the time.
const FAILING_DEADLINE: Duration = Duration::from_secs(30);
/// Time that a node may take to end after its disk was full.
const ENDING: Duration = Duration::from_secs(2);
/// Time that a node is cut off for before another loses its log: longer than an election, so that what waits
/// for it in sockets comes from leaders of the past.
const BEHIND: Duration = Duration::from_millis(2_500);
/// Bytes written at a time to fill a file system.
const FILLER_BYTES: usize = 1 << 20;
/// The file that fills it.
const FILLER: &str = "filler";
/// Where a node has the log of its groups, below its data folder.
const GROUPS_LOG: &str = "raft/log";
/// System calls that make what was written durable.
const SYNCS: &str = "fsync,fdatasync";

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
                let inject = format!("inject={SYNCS}:delay_enter={}", planned.delay.as_micros());
                active.undo = Undo::LetGo(self.trace(&met, &inject)?);
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

    fn network(&mut self) -> Result<&mut crate::network::Network, Error> {
        let network = self.network.as_mut();
        network.ok_or_else(|| Error::Failed("no network of its own".to_owned()))
    }

    /// Which ways a partition cuts.
    fn cuts(&self, kind: Kind, met: &[usize]) -> Vec<(usize, usize)> {
        let all = self.cluster.places();
        let others: Vec<usize> = all.into_iter().filter(|at| !met.contains(at)).collect();
        let both = |one: &[usize], other: &[usize]| [ways(one, other), ways(other, one)].concat();
        match kind {
            Kind::Deaf => ways(&others, met),
            Kind::Mute => ways(met, &others),
            Kind::Bridge => {
                let (one, other) = others.split_at(others.len() / 2);
                both(one, other)
            }
            _ => both(met, &others),
        }
    }

    /// Whom a partition leaves no way to most of meta's voters, or none back, as the nodes say now.
    fn without_meta(&self, kind: Kind, met: &[usize]) -> Vec<usize> {
        let status = self.watch.status();
        let groups = status.iter().flat_map(|status| &status.groups);
        let meta = groups.clone().find(|group| group.group == "meta");
        let meta = meta.filter(|meta| meta.moving_to.is_none());
        let all = self.cluster.places();
        let votes = |at: &usize| {
            let number = self.cluster.member(*at).number();
            meta.is_some_and(|meta| meta.voters.contains(&number))
        };
        // Meta has three voters: whoever they are, one node alone is no quorum.
        let voters = meta.map(|meta| meta.voters.len());
        if voters.is_none() && met.len() > 1 {
            return Vec::new();
        }
        without_quorum(kind, met, &all, voters.unwrap_or(all.len()), votes)
    }

    fn delay(&self, places: &[usize], delay: Duration) {
        for at in places {
            if let Some(proxy) = self.cluster.member(*at).proxy() {
                proxy.delay(delay);
            }
        }
    }

    /// Has the system calls of nodes meddled with until what is returned ends.
    fn trace(&self, places: &[usize], inject: &str) -> Result<Vec<Child>, Error> {
        let pids = places
            .iter()
            .filter_map(|at| self.cluster.member(*at).pid());
        let tracers = pids.map(|pid| {
            Command::new("strace")
                .args(["-f", "-qq", "-o", "/dev/null", "-e"])
                .arg(format!("trace={SYNCS}"))
                .args(["-e", inject, "-p", &pid.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .map_err(|error| Error::Failed(format!("strace: {error}")))
        });
        tracers.collect()
    }

    /// Has the next fsync of each node fail, which has to end its process; how that went.
    async fn fail_fsync(&mut self, places: &[usize]) -> Result<String, Error> {
        let begun = Instant::now();
        self.ending.extend(places);
        let tracers = self.trace(places, &format!("inject={SYNCS}:error=EIO"))?;
        let mut note = Vec::new();
        for at in places {
            let number = self.cluster.member(*at).number();
            let mut ended = None;
            while ended.is_none() && begun.elapsed() < FAILING_DEADLINE {
                self.tick().await?;
                ended = self.cluster.ended(*at)?;
            }
            let after_s = begun.elapsed().as_secs_f64();
            match ended {
                Some(status) if status.success() => self.find(&format!(
                    "node {number} ended with 0 although its fsync has failed"
                )),
                Some(status) => note.push(format!(
                    "node {number} ended after {after_s:.1} s: {status}"
                )),
                None => {
                    self.find(&format!(
                        "node {number} goes on {FAILING_DEADLINE:?} after its fsync has failed"
                    ));
                    self.cluster.kill(&[*at]).await?;
                }
            }
        }
        self.ending.retain(|at| !places.contains(at));
        for tracer in tracers {
            let_go(tracer).await?;
        }
        Ok(note.join(", "))
    }

    /// Takes a node's log of the groups away when that is worst: one other node is behind, since it was cut
    /// off, and all others are down. With the one that is behind it would be a majority that lacks what was
    /// acknowledged meanwhile. A node that knows what it has lost refuses to start; once the others are back
    /// it is replaced. How many were killed, and how that went.
    async fn lose_log(&mut self, at: usize) -> Result<(u32, String), Error> {
        let number = self.cluster.member(at).number();
        let others = self.cluster.places().into_iter();
        let others = others
            .filter(|other| *other != at && self.cluster.member(*other).state() == State::Running);
        let mut others: Vec<usize> = others.collect();
        let behind: Vec<usize> = others.pop().into_iter().collect();
        let cut = self.cuts(Kind::Isolate, &behind);
        self.network()?.cut(&cut)?;
        self.wait(Instant::now() + BEHIND).await?;
        let killed = [vec![at], others.clone()].concat();
        self.ending.extend(&killed);
        self.cluster.kill(&killed).await?;
        self.network()?.join(&cut)?;
        let log = self.cluster.member(at).data().join(GROUPS_LOG);
        std::fs::remove_dir_all(&log)
            .map_err(|error| Error::Failed(format!("{}: {error}", log.display())))?;
        let status = self.start_without_log(at).await?;
        if status.is_none() {
            // What it tells clients now is against what the others know.
            self.wait(Instant::now() + BEHIND).await?;
        }
        let since = Instant::now();
        for other in &others {
            self.spawn(*other)?;
        }
        self.until_ready(&others, since).await?;
        self.ending.retain(|one| !killed.contains(one));
        let how = match status {
            None => "goes on without its log".to_owned(),
            Some(status) => {
                let new = self.replace(at).await?;
                format!("refused to go on without its log ({status}), node {new} came in its place")
            }
        };
        let note = format!(
            "node {number} {how}; node {} was cut off before, {} killed",
            numbers(&behind),
            numbers(&others)
        );
        Ok((killed.len() as u32, note))
    }

    /// Starts a node that has lost its log, and waits until it has ended or is ready; how it ended.
    async fn start_without_log(&mut self, at: usize) -> Result<Option<ExitStatus>, Error> {
        let since = Instant::now();
        self.spawn(at)?;
        let mut ended = None;
        while ended.is_none() && !self.watch.is_ready(at, since) && since.elapsed() < READY_DEADLINE
        {
            self.tick().await?;
            ended = self.cluster.ended(at)?;
        }
        Ok(ended)
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

/// Ends a program that holds another process, which goes on.
async fn let_go(mut tracer: Child) -> Result<(), Error> {
    let failed = |error: String| Error::Failed(format!("strace: {error}"));
    if let Some(pid) = tracer.id().map(u32::cast_signed).and_then(Pid::from_raw) {
        // Killed, it would leave a system call of the other one where it is.
        kill_process(pid, Signal::TERM).map_err(|error| failed(error.to_string()))?;
    }
    match tokio::time::timeout(READY_DEADLINE, tracer.wait()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("it does not end".to_owned())),
    }
}

/// Writes a file until nothing more fits.
fn fill(path: &Path) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::Failed(format!("{}: {error}", path.display()));
    let mut file = File::create(path).map_err(failed)?;
    let mut piece = vec![0; FILLER_BYTES];
    loop {
        match file.write(&piece) {
            // What is left is less than a piece.
            Ok(written) if written < piece.len() => piece.truncate(4_096),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                if piece.len() == 1 {
                    return Ok(());
                }
                piece.truncate(piece.len() / 2);
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Of all nodes those whom a partition leaves no way to most of the voters, or none back. Of nodes that are deaf or mute
/// together and make up most of them nobody can say: what they hear of one another goes on. A bridge has a way to all.
fn without_quorum(
    kind: Kind,
    met: &[usize],
    all: &[usize],
    voters: usize,
    votes: impl Fn(&usize) -> bool,
) -> Vec<usize> {
    let of_met = met.iter().filter(|at| votes(at)).count();
    let are_most = 2 * of_met > voters;
    match kind {
        Kind::Isolate | Kind::Deaf | Kind::Mute if !are_most => met.to_vec(),
        Kind::Isolate => {
            let others = all.iter().filter(|at| !met.contains(at));
            others.copied().collect()
        }
        _ => Vec::new(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_cut_off_is_not_with_most_of_the_voters() {
        let all = [0, 1, 2, 3, 4];
        let of = |kind, met: &[usize]| without_quorum(kind, met, &all, 3, |at| *at < 3);
        assert_eq!(of(Kind::Isolate, &[1]), [1]);
        assert_eq!(of(Kind::Isolate, &[2, 4]), [2, 4]);
        assert_eq!(of(Kind::Isolate, &[0, 1]), [2, 3, 4], "the others are");
        assert_eq!(of(Kind::Mute, &[2]), [2]);
        let nobody: [usize; 0] = [];
        assert_eq!(of(Kind::Deaf, &[0, 1]), nobody);
        assert_eq!(of(Kind::Bridge, &[1]), nobody);
    }
}
