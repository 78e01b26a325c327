//! The end of a run: the last messages come, the nodes stop, and everything is compared with what was
//! promised.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use benches::demo::Kept;
use benches::machine::Machine;

use crate::Error;
use crate::checkers::{self, Cut, MemorySample, Observed, Window};
use crate::figures::{Ends, Withheld};
use crate::history::History;
use crate::report::{FaultRecord, HISTORY, PICTURE, Report, Verdict};
use crate::run::Run;
use crate::scenario::Kind;
use crate::waited;

/// Time after the last message until every row of telemetry is in a segment.
const SEALED_DEADLINE: Duration = Duration::from_secs(60);
/// Time without any acknowledgement, whatever is broken, that is a violation.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Messages that a stated policy drops, as nodes count them.
const DROPPED: [&str; 7] = [
    "tidewire_session_dropped_full_total",
    "tidewire_session_dropped_expired_total",
    "tidewire_broker_queue_dropped_full_total",
    "tidewire_broker_queue_dropped_expired_total",
    "tidewire_broker_queue_dropped_too_large_total",
    "tidewire_broker_mailbox_dropped_total",
    "tidewire_broker_thread_dropped_total",
];
impl Run {
    /// Lets the last messages come, stops the nodes, and checks.
    pub(crate) async fn finish(&mut self) -> Result<Report, Error> {
        self.is_calm = false;
        self.flow.is_over = true;
        let workload = self.workload.take().expect("it was started");
        let finishing = tokio::spawn(workload.finish(self.job.scenario.drain_deadline));
        let history = Arc::new(self.during(finishing).await??);
        self.until_sealed().await?;
        self.stop_all().await?;
        self.look_at_history(&history);
        let (observed, looked_at) = (self.observed(), Arc::clone(&history));
        let (ledger, folders) = (self.ledger(), self.data_folders());
        let checking = tokio::task::spawn_blocking(move || {
            let mut verdicts = checkers::check(&looked_at, &observed);
            // Folders, since answers do not show what is stored twice.
            let kept = Kept::Folders(&folders);
            verdicts.push(checkers::replicas(&folders));
            verdicts.extend(ledger.map(|ledger| checkers::telemetry(&ledger, &kept)));
            verdicts
        });
        let verdicts = self.during(checking).await?;
        if verdicts.iter().any(|verdict| !verdict.is_green()) {
            self.keep(&history)?;
        }
        let report = self.report(verdicts.into_iter().map(Verdict::from).collect());
        report.write(&self.job.out)?;
        let picture = self.job.out.join(PICTURE);
        let title = format!("{} --seed {}", report.scenario, report.seed);
        self.timeline
            .draw(&picture, &title, &self.faults)
            .map_err(|error| Error::Failed(format!("{}: {error}", picture.display())))?;
        Ok(report)
    }

    /// Writes the history down for whoever looks into what was found.
    fn keep(&self, history: &History) -> Result<(), Error> {
        let path = self.job.out.join(HISTORY);
        let failed = |error: io::Error| Error::Failed(format!("{}: {error}", path.display()));
        let file = std::fs::File::create(&path).map_err(failed)?;
        let mut file = io::BufWriter::new(file);
        history.write_json_lines(&mut file).map_err(failed)?;
        io::Write::flush(&mut file).map_err(failed)
    }

    /// Waits until the nodes have every row of telemetry in segments, where the check finds it.
    async fn until_sealed(&mut self) -> Result<(), Error> {
        if self.ledger().is_none() {
            return Ok(());
        }
        let places = self.cluster.places();
        let admins = places.iter().map(|at| self.cluster.member(*at).admin());
        let admins: Vec<SocketAddr> = admins.collect();
        let sealing = tokio::task::spawn_blocking(move || {
            benches::demo::wait_until_sealed(&admins, SEALED_DEADLINE)
        });
        if let Err(error) = self.during(sealing).await? {
            self.find(&error.to_string());
        }
        Ok(())
    }

    fn data_folders(&self) -> Vec<PathBuf> {
        let places = self.cluster.places();
        let folders = places.iter().map(|at| self.cluster.member(*at).data());
        folders.map(Path::to_owned).collect()
    }

    /// Takes the figures that only the clients know.
    fn look_at_history(&mut self, history: &History) {
        let (from_us, until_us) = match (self.faults.first(), self.faults.last()) {
            (Some(first), Some(last)) => (
                self.workload_us(first.begin_s),
                self.workload_us(last.end_s + last.whole_s.unwrap_or(0.0)),
            ),
            _ => (0, u64::MAX),
        };
        let withheld = Withheld::of(history, from_us, until_us);
        self.figure(
            "QoS 1 publishes from the first fault to the last",
            withheld.messages as f64,
        );
        self.figure("PUBACK after, p50, s", withheld.p50_s);
        self.figure("PUBACK after, p99, s", withheld.p99_s);
        self.figure("PUBACK after, longest, s", withheld.longest_s);
        let zero_us = self.workload_us(0.0);
        self.waited = waited::longest(history, from_us, until_us, zero_us);
        let ends = Ends::of(history, from_us, until_us, zero_us);
        self.figure(
            "connections ended with use another server",
            ends.sent_away as f64,
        );
        self.figure("the most of these in a second", ends.sent_away_per_s as f64);
        self.figure(
            "connections that nodes ended otherwise",
            ends.otherwise as f64,
        );
        let is_scale = |fault: &FaultRecord| fault.kind == Kind::Scale;
        if ends.otherwise > 0 && self.faults.iter().all(is_scale) && !self.faults.is_empty() {
            self.find(&format!(
                "{} connections ended while nodes joined and were drained, and were not sent to another node",
                ends.otherwise
            ));
        }
        self.ended = ends.told;
    }

    /// A second of the faults as a microsecond of the clients.
    fn workload_us(&self, seconds: f64) -> u64 {
        let offset = self.faults_from - self.workload_from;
        ((offset.as_secs_f64() + seconds).max(0.0) * 1e6) as u64
    }

    /// What is known beside what the clients saw.
    fn observed(&self) -> Observed {
        let faults = self.faults.iter().map(|fault| Window {
            from_us: self.workload_us(fault.begin_s),
            until_us: self.workload_us(fault.end_s + fault.whole_s.unwrap_or(0.0)),
            is_pause: fault.kind == Kind::Pause,
        });
        let places = 0..self.cluster.members().len();
        let sum = |name: &str| -> f64 {
            let all = places.clone();
            all.map(|at| self.watch.seen(at).counters.sum(name)).sum()
        };
        let dropped = DROPPED.map(|name| (name.to_owned(), sum(name) as u64));
        let began_s = (self.workload_from - self.begun).as_secs_f64();
        let samples = self.timeline.samples().iter();
        let memory = samples.flat_map(|sample| {
            let at_us = ((sample.seconds - began_s).max(0.0) * 1e6) as u64;
            let nodes = (1..).zip(&sample.rss_bytes);
            nodes.map(move |(node, bytes)| MemorySample {
                at_us,
                node,
                bytes: *bytes,
            })
        });
        let budget = self.job_config_bytes();
        Observed {
            faults: faults.collect(),
            cuts: self.cut_off(),
            dropped: dropped
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .collect(),
            memory: memory.collect(),
            memory_budget_bytes: budget,
            failures: self.findings.clone(),
            silence_max: Some(SILENCE_MAX),
        }
    }

    /// Who was cut off from a quorum, and when.
    fn cut_off(&self) -> Vec<Cut> {
        let mut cuts = Vec::new();
        for fault in &self.faults {
            cuts.extend(fault.cut_off.iter().map(|place| Cut {
                node: *place as u16,
                from_us: self.workload_us(fault.begin_s),
                until_us: self.workload_us(fault.end_s),
            }));
        }
        cuts
    }

    /// What a node plans its memory with.
    fn job_config_bytes(&self) -> Option<u64> {
        let config: toml::Table = toml::from_str(&self.config).ok()?;
        let bytes = config.get("memory_bytes_limit")?.as_integer()?;
        u64::try_from(bytes).ok()
    }

    fn report(&self, mut verdicts: Vec<Verdict>) -> Report {
        let mut of_run = verdicts.iter_mut().filter(|one| one.checker == "liveness");
        if let Some(liveness) = of_run.next() {
            liveness.checked += self.looks;
            // Those beyond what is kept in words.
            liveness.count += self.found - self.findings.len() as u64;
        }
        let places = 0..self.cluster.members().len();
        let samples = self.timeline.samples();
        let peak = |at: usize| samples.iter().filter_map(|one| one.rss_bytes.get(at)).max();
        let mut counters = BTreeMap::new();
        for at in places.clone() {
            for (sample, value) in self.watch.seen(at).counters.all() {
                *counters.entry(sample).or_default() += value;
            }
        }
        let last = samples.last();
        Report {
            scenario: self.job.scenario.name.clone(),
            about: self.job.scenario.about.clone(),
            seed: self.job.seed,
            duration_s: self.job.duration.as_secs_f64(),
            seconds: self.begun.elapsed().as_secs_f64(),
            nodes: self.job.scenario.nodes,
            machine: Machine::read().to_string(),
            config: self.config.clone(),
            is_in_namespace: self.job.is_in_namespace,
            defect: self.job.defect.clone(),
            acked: last.map_or(0, |one| one.acked).max(self.flow.acked),
            received: last.map_or(0, |one| one.received),
            connects: last.map_or(0, |one| one.connects),
            faults: self.faults.clone(),
            packets_dropped: self
                .network
                .as_ref()
                .map_or(0, |one| one.dropped().unwrap_or(0)),
            stall_s: self.flow.stall.as_secs_f64(),
            rss_bytes: places.map(|at| peak(at).copied().unwrap_or(0)).collect(),
            figures: self.figures.clone(),
            waited: self.waited.clone(),
            ended: self.ended.clone(),
            counters,
            verdicts,
        }
    }
}
