//! The brokers that are compared: how each is started, pinned, awaited and stopped.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::CompareError;

/// Time from the start of a process until it accepts connections; Java takes its time.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// Time from SIGTERM to SIGKILL.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two looks at a process.
const LOOK: Duration = Duration::from_millis(20);

/// Raised beyond what a client may occupy by default, since one subscriber takes what a thousand
/// publishers have in flight, as mosquitto's unlimited settings allow it; and clients connect as fast
/// as they come, however long that takes.
const TIDEWIRE_CONFIG: &str = "io_threads = 1\nno_telemetry = true\n\n[mqtt]\n\
    receive_maximum = 65535\nqueue_messages_limit = 1000000\nqueue_bytes_limit = 1073741824\n\
    connect_timeout = \"60s\"\n\n[mqtt.admission]\nconnects_per_s = 0\nhandshakes_limit = 1000000\n";

/// Without limits on what is in flight or queued, without a file.
const MOSQUITTO_CONFIG: &str = "listener {port} 127.0.0.1\nallow_anonymous true\n\
    max_inflight_messages 0\nmax_queued_messages 0\nmax_queued_bytes 0\npersistence false\n\
    log_type error\n";

/// A broker that can be started on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Name in the tables.
    pub name: String,
    /// Version, or how it was given.
    pub version: String,
    /// Settings that the report states.
    pub settings: String,
    start: Start,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Start {
    /// With this configuration.
    Tidewire(PathBuf, String),
    Sink(PathBuf),
    /// With this configuration.
    Mosquitto(PathBuf, String),
    /// A line for the shell with `{port}` in it.
    Shell(String),
}

impl Peer {
    /// Is Tidewire as a plain broker.
    #[must_use]
    pub fn tidewire(program: &Path) -> Self {
        Self::tidewire_with(program, TIDEWIRE_CONFIG)
    }

    /// Is Tidewire with this configuration.
    pub(crate) fn tidewire_with(program: &Path, config: &str) -> Self {
        Self {
            name: "tidewire".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            settings: one_line(config),
            start: Start::Tidewire(program.into(), config.into()),
        }
    }

    /// Is the bare server of `bench sink`: the floor.
    #[must_use]
    pub fn sink(program: &Path) -> Self {
        Self {
            name: "sink".into(),
            version: "the floor: answers and passes on, keeps nothing".into(),
            settings: String::new(),
            start: Start::Sink(program.into()),
        }
    }

    /// Is mosquitto as found on `PATH` or in `/usr/sbin`; `None` where it is not installed.
    #[must_use]
    pub fn mosquitto() -> Option<Self> {
        Self::mosquitto_with(MOSQUITTO_CONFIG)
    }

    /// Is mosquitto with this configuration, `{port}` in it being its port.
    pub(crate) fn mosquitto_with(config: &str) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
            .map(|folder: PathBuf| folder.join("mosquitto"))
            .find(|program| program.is_file())?;
        // Its help begins with its version and ends with a code other than 0.
        let help = Command::new(&program).arg("-h").output().ok()?.stdout;
        let help = String::from_utf8_lossy(&help);
        let version = help
            .lines()
            .next()?
            .trim_start_matches("mosquitto version ");
        Some(Self {
            name: "mosquitto".into(),
            version: version.into(),
            settings: one_line(config),
            start: Start::Mosquitto(program, config.into()),
        })
    }

    /// Reads `name=command with {port}`.
    ///
    /// # Errors
    /// [`CompareError::Setting`] when a part or `{port}` is missing.
    pub fn parse(text: &str) -> Result<Self, CompareError> {
        match text.split_once('=') {
            Some((name, command)) if !name.is_empty() && command.contains("{port}") => Ok(Self {
                name: name.into(),
                version: "as installed".into(),
                settings: command.into(),
                start: Start::Shell(command.into()),
            }),
            _ => Err(CompareError::Setting(format!(
                "--peer {text}: must be NAME=COMMAND, with {{port}} in the command"
            ))),
        }
    }

    /// Starts the broker with an empty folder on a free port, and waits until it accepts.
    pub(crate) fn start(&self, cores: &Cores) -> Result<Running, CompareError> {
        let failed = |error: &dyn std::fmt::Display| {
            CompareError::Peer(self.name.clone(), error.to_string())
        };
        let folder = tempfile::tempdir().map_err(|error| failed(&error))?;
        let ports = free_ports().map_err(|error| failed(&error))?;
        self.start_in(cores, folder, ports)
    }

    /// Starts the broker again where one was killed: in its folder, on its ports.
    pub(crate) fn start_again(
        &self,
        cores: &Cores,
        killed: Killed,
    ) -> Result<Running, CompareError> {
        self.start_in(cores, killed.folder, killed.ports)
    }

    fn start_in(
        &self,
        cores: &Cores,
        folder: tempfile::TempDir,
        (port, admin): (u16, u16),
    ) -> Result<Running, CompareError> {
        let failed = |error: &dyn std::fmt::Display| {
            CompareError::Peer(self.name.clone(), error.to_string())
        };
        let log = folder.path().join("log");
        let mut command = self
            .command(folder.path(), port, admin)
            .map_err(|error| failed(&error))?;
        let output = File::create(&log).map_err(|error| failed(&error))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(|error| failed(&error))?)
            .stderr(output)
            .current_dir(folder.path())
            // A group of its own: a command of the shell is stopped with what it started.
            .process_group(0);
        let child = cores
            .on_broker(|| command.spawn())
            .and_then(|spawned| spawned)
            .map_err(|error| failed(&error))?;
        let mut running = Running {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            admin: SocketAddr::from(([127, 0, 0, 1], admin)),
            folder: Some(folder),
        };
        match running.wait_until_ready() {
            Ok(()) => Ok(running),
            Err(error) => {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let last: Vec<&str> = text.lines().rev().take(5).collect();
                Err(failed(&format!(
                    "{error}; its log ends: {}",
                    last.join(" / ")
                )))
            }
        }
    }

    fn command(&self, folder: &Path, port: u16, admin: u16) -> std::io::Result<Command> {
        let config = folder.join("config");
        let address = format!("127.0.0.1:{port}");
        Ok(match &self.start {
            Start::Tidewire(program, text) => {
                std::fs::write(&config, text)?;
                let mut command = Command::new(program);
                command.arg("serve").arg("--config").arg(config);
                command.arg("--data").arg(folder.join("data"));
                command.args(["--mqtt", &address]);
                command.args(["--admin", &format!("127.0.0.1:{admin}")]);
                command.args(["--cluster", "127.0.0.1:0"]);
                command.env("TIDEWIRE_LOG", "warn");
                command
            }
            Start::Sink(program) => {
                let mut command = Command::new(program);
                command.args(["bench", "sink", "--addr", &address]);
                command
            }
            Start::Mosquitto(program, text) => {
                std::fs::write(&config, text.replace("{port}", &port.to_string()))?;
                let mut command = Command::new(program);
                command.arg("-c").arg(config);
                command
            }
            Start::Shell(line) => {
                let mut command = Command::new("sh");
                command.args(["-c", &line.replace("{port}", &port.to_string())]);
                command
            }
        })
    }
}

fn one_line(config: &str) -> String {
    let lines: Vec<&str> = config.lines().filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

fn free_ports() -> std::io::Result<(u16, u16)> {
    // Both are held before either is released, so that they differ.
    let bind = || TcpListener::bind(("127.0.0.1", 0));
    let (one, two) = (bind()?, bind()?);
    Ok((one.local_addr()?.port(), two.local_addr()?.port()))
}

/// A broker that accepts connections. Dropped, it is killed.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Where Tidewire's admin API is.
    pub(crate) admin: SocketAddr,
    /// Removed once the process is gone; none once it was handed on.
    folder: Option<tempfile::TempDir>,
}

/// What a broker that was killed leaves.
pub(crate) struct Killed {
    folder: tempfile::TempDir,
    ports: (u16, u16),
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(mut self) -> std::io::Result<Killed> {
        self.signal(Signal::KILL);
        self.child.wait()?;
        let folder = self.folder.take().expect("only a kill takes it");
        Ok(Killed {
            folder,
            ports: (self.address.port(), self.admin.port()),
        })
    }

    /// Stops it with SIGTERM; the bytes that it caused to be written to a disk until its end.
    pub(crate) fn stop(self) -> std::io::Result<u64> {
        let mut written = crate::cpu::written_bytes(self.pid())?;
        self.signal(Signal::TERM);
        let deadline = Instant::now() + 3 * STOP_DEADLINE;
        // Until it is waited for, the kernel still says what it did.
        while !self.has_exited() && Instant::now() < deadline {
            std::thread::park_timeout(LOOK);
        }
        written = crate::cpu::written_bytes(self.pid()).unwrap_or(written);
        Ok(written)
    }

    /// Whether it exited, without waiting for it.
    fn has_exited(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        let stat = stat.unwrap_or_default();
        let state = stat.rsplit_once(") ").map(|(_, fields)| &fields[..1]);
        state.is_none_or(|state| state == "Z")
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            match self.child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => return Err(format!("it ended: {status}")),
                Err(error) => return Err(error.to_string()),
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "it does not accept connections after {READY_DEADLINE:?}"
                ));
            }
            std::thread::park_timeout(LOOK);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed())
            && let Err(error) = kill_process_group(group, signal)
        {
            tracing::debug!(%error, "a broker is gone already");
        }
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.has_ended() {
            tracing::debug!(pid = self.pid(), "a broker has ended");
            return;
        }
        self.signal(Signal::TERM);
        let deadline = Instant::now() + STOP_DEADLINE;
        while Instant::now() < deadline {
            if self.has_ended() {
                return;
            }
            std::thread::park_timeout(LOOK);
        }
        self.signal(Signal::KILL);
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "a broker's end cannot be awaited");
        }
    }
}

/// One core for the broker, the others for the load generator. Dropped, the thread may run
/// everywhere again.
pub(crate) struct Cores {
    all: CpuSet,
    broker: Option<usize>,
}

impl Cores {
    /// Leaves this thread, and what it starts, on the generator's cores. With a single core
    /// nothing is pinned.
    pub(crate) fn pin() -> std::io::Result<Self> {
        let all = sched_getaffinity(None)?;
        if all.count() < 2 {
            return Ok(Self { all, broker: None });
        }
        let broker = (0..CpuSet::MAX_CPU).find(|core| all.is_set(*core));
        let cores = Self { all, broker };
        sched_setaffinity(None, &cores.generator())?;
        Ok(cores)
    }

    fn generator(&self) -> CpuSet {
        let mut set = self.all;
        if let Some(broker) = self.broker {
            set.unset(broker);
        }
        set
    }

    /// Runs something on the broker's core; a process started there stays there.
    fn on_broker<T>(&self, start: impl FnOnce() -> T) -> std::io::Result<T> {
        let Some(core) = self.broker else {
            return Ok(start());
        };
        let mut set = CpuSet::new();
        set.set(core);
        sched_setaffinity(None, &set)?;
        let started = start();
        sched_setaffinity(None, &self.generator())?;
        Ok(started)
    }

    pub(crate) fn describe(&self) -> String {
        match self.broker {
            Some(core) => format!(
                "the broker on core {core} alone, the generator on the other {}",
                self.all.count() - 1
            ),
            None => "one core for both: nothing pinned".into(),
        }
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        if let Err(error) = sched_setaffinity(None, &self.all) {
            tracing::warn!(%error, "the cores of this thread cannot be set back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_needs_a_name_and_a_place_for_the_port() {
        let peer = Peer::parse("nanomq=nanomq start --url tcp://127.0.0.1:{port}").unwrap();
        assert_eq!(peer.name, "nanomq");
        for text in ["nanomq", "=x {port}", "nanomq=x"] {
            assert!(
                matches!(Peer::parse(text), Err(CompareError::Setting(_))),
                "{text}"
            );
        }
    }
}
