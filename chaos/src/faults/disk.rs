//! Disks that are slow, fail, are full or lose a log.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::numbers;
use crate::Error;
use crate::cluster::State;
use crate::run::{READY_DEADLINE, Run};
use crate::scenario::Kind;

/// Time within which a node has to end whose fsync has failed: it writes all the time.
const FAILING_DEADLINE: Duration = Duration::from_secs(30);
/// Time that a node is cut off for before another loses its log: longer than an election, so that what waits
/// for it in sockets comes from leaders of the past.
const BEHIND: Duration = Duration::from_millis(2_500);
/// Bytes written at a time to fill a file system.
const FILLER_BYTES: usize = 1 << 20;
/// Where a node has the log of its groups, below its data folder.
const GROUPS_LOG: &str = "raft/log";
/// System calls that make what was written durable.
const SYNCS: &str = "fsync,fdatasync";

impl Run {
    /// Has each fsync of nodes take so much longer until what is returned ends.
    pub(super) fn slow_fsync(
        &self,
        places: &[usize],
        delay: Duration,
    ) -> Result<Vec<Child>, Error> {
        let inject = format!("inject={SYNCS}:delay_enter={}", delay.as_micros());
        self.trace(places, &inject)
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
    pub(super) async fn fail_fsync(&mut self, places: &[usize]) -> Result<String, Error> {
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
    pub(super) async fn lose_log(&mut self, at: usize) -> Result<(u32, String), Error> {
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
}

/// Ends a program that holds another process, which goes on.
pub(super) async fn let_go(mut tracer: Child) -> Result<(), Error> {
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
pub(super) fn fill(path: &Path) -> Result<(), Error> {
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
