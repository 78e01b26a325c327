//! What goes on while a run waits: turns, in which everything is looked at that has to hold all the time.

use std::time::Duration;

use admin::client::{Client, ClientError};
use tokio::time::Instant;

use super::{Run, TICK};
use crate::Error;
use crate::cluster::State;
use crate::timeline;

/// Time for anything once a defect has been found: what it broke does not come.
const DEFECT_DEADLINE: Duration = Duration::from_secs(20);
/// Starts of a node that ended unexpectedly, over all nodes.
const RESTARTS_MAX: usize = 10;
/// Findings of liveness that are kept in words.
const FINDINGS_MAX: usize = 50;

impl Run {
    /// Keeps something that was not as it had to be.
    pub(crate) fn find(&mut self, what: &str) {
        let what = format!("at {:.1} s: {what}", self.seconds());
        eprintln!("  VIOLATION {what}");
        self.found += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(what);
        }
    }

    /// Whether a defect has shown while the run went on.
    pub(super) fn is_caught(&self) -> bool {
        self.job.defect.is_some() && self.found > 0
    }

    /// How long to wait for what is to come within `time`.
    pub(crate) fn patience(&self, time: Duration) -> Duration {
        match self.is_caught() {
            true => time.min(DEFECT_DEADLINE),
            false => time,
        }
    }

    /// Seconds since the beginning of the faults.
    pub(crate) fn seconds(&self) -> f64 {
        self.faults_from.elapsed().as_secs_f64()
    }

    /// From now on acknowledgements are due.
    pub(super) fn calm(&mut self) {
        self.is_calm = true;
        self.flow.since = Instant::now();
        self.flow.is_told = false;
    }

    /// Lets the run go on until then.
    pub(crate) async fn wait(&mut self, until: Instant) -> Result<(), Error> {
        while Instant::now() < until {
            self.tick().await?;
        }
        Ok(())
    }

    /// Lets the run go on until `look` says yes, or the time is over; whether it said yes.
    pub(crate) async fn until(
        &mut self,
        time: Duration,
        mut look: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool, Error> {
        let begun = Instant::now();
        while !look(self) {
            if begun.elapsed() >= self.patience(time) {
                return Ok(false);
            }
            self.tick().await?;
        }
        Ok(true)
    }

    /// Asks a node over its admin API while the run goes on.
    pub(crate) async fn ask<T: Send + 'static>(
        &mut self,
        at: usize,
        question: impl FnOnce(&Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<Result<T, ClientError>, Error> {
        let client = Client::new(&self.cluster.member(at).admin().to_string());
        let asking = tokio::task::spawn_blocking(move || question(&client));
        self.during(asking).await
    }

    /// One turn: everything that has to be looked at all the time. Cancel-safe.
    pub(crate) async fn tick(&mut self) -> Result<(), Error> {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = self.interrupts.recv() => return Err(Error::Interrupted),
        }
        self.look_at_processes()?;
        self.look_at_flow();
        Ok(())
    }

    /// A process that ended although nobody had it end is told and started again.
    fn look_at_processes(&mut self) -> Result<(), Error> {
        for at in self.cluster.places() {
            if self.ending.contains(&at) {
                continue;
            }
            let Some(status) = self.cluster.ended(at)? else {
                continue;
            };
            let member = self.cluster.member(at);
            let text = format!(
                "node {} ended: {status}\n    {}",
                member.number(),
                member.log_end()
            );
            self.find(&text);
            if self.restarts >= RESTARTS_MAX {
                // What a defect has broken for good is left as it is: the checkers say what that meant.
                if self.job.defect.is_some() {
                    continue;
                }
                return Err(Error::Failed(format!(
                    "nodes ended {RESTARTS_MAX} times by themselves: {}",
                    self.findings.join("\n")
                )));
            }
            self.restarts += 1;
            self.spawn(at)?;
        }
        Ok(())
    }

    fn look_at_flow(&mut self) {
        let Some(workload) = &self.workload else {
            return;
        };
        let counts = workload.counts();
        let now = Instant::now();
        let stall = match self.flow.is_over {
            true => Duration::ZERO,
            false => now - self.flow.since,
        };
        if counts.acked > self.flow.acked {
            self.flow.acked = counts.acked;
            self.flow.since = now;
            self.flow.is_told = false;
        }
        self.flow.stall = self.flow.stall.max(stall);
        self.flow.stall_of_fault = self.flow.stall_of_fault.max(stall);
        if now - self.sampled >= timeline::INTERVAL {
            self.sampled = now;
            let seconds = (now - self.begun).as_secs_f64();
            let members = self.cluster.members();
            let up = members
                .iter()
                .map(|one| one.state() == State::Running && one.pid().is_some());
            let rss = members
                .iter()
                .map(|one| one.pid().and_then(rss_bytes).unwrap_or(0));
            self.timeline
                .take(seconds, &counts, up.collect(), rss.collect());
        }
        let most = self.job.scenario.stall_max;
        if !self.is_calm {
            return;
        }
        self.looks += 1;
        if stall > most && !self.flow.is_told {
            self.flow.is_told = true;
            let standing = self.watch.standing(&self.cluster);
            self.find(&format!(
                "nothing is broken and no message is acknowledged for {most:?}: {standing}"
            ));
        }
    }
}

/// Resident memory of a process; `None` of one that has ended.
fn rss_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory() {
        assert!(rss_bytes(std::process::id()).is_some_and(|bytes| bytes > 100_000));
    }
}
