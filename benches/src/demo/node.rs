//! A node as a child process, and what is asked of it over HTTP.

use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use admin::client::{Client, ClientError};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::Error;
use super::folder::{Folder, Kafka};
use crate::ports;

/// Time from the start of the process to `GET /health/ready` = 200; a node that replays a long
/// log takes its time.
pub(super) const READY_DEADLINE: Duration = Duration::from_secs(60);

/// Time from SIGTERM to the end of the process; its own `stop_deadline` is 30 s.
const STOP_DEADLINE: Duration = Duration::from_secs(45);

/// Time between two questions of a wait.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Time for one HTTP request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Lines of the node's log that an error shows.
const LOG_LINES_SHOWN: usize = 15;

/// Keys that every node of a demo has.
const CONFIG: &str = "[telemetry]\nhead_age_max = \"5s\"\nblock_rows = 16\n";

/// Says what the nodes of a demo or of a bench have in common.
#[derive(Clone, Debug)]
pub(crate) struct Plan<'a> {
    /// The program whose `serve` is a node; `None`: the running one.
    pub(crate) program: Option<&'a Path>,
    /// Where their folders are.
    pub(crate) folder: &'a Folder,
    /// How many.
    pub(crate) nodes: u32,
    /// Their configuration.
    pub(crate) config: String,
    /// Through which their messages go; `None`: their embedded logs.
    pub(crate) kafka: Option<&'a Kafka>,
    /// MQTT and admin address of the first node; `None`: free ports of loopback, as the others have.
    pub(crate) mqtt: Option<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
}

/// Short times and small blocks, so that a short run passes seals and merges.
pub(super) fn demo_config(kafka: Option<&Kafka>) -> String {
    let stream = kafka.map_or_else(String::new, |kafka| {
        let topic = &kafka.topic;
        format!("[[telemetry.streams]]\ntopic = \"{topic}\"\n")
    });
    format!("{CONFIG}{stream}")
}

/// Says how a node is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Words before the program, such as those of a program that starts it; empty: none.
    pub before: Vec<String>,
    /// The program whose `serve` is the node.
    pub program: PathBuf,
    /// What its environment has beside this process's.
    pub environment: Vec<(String, String)>,
    /// Its number, from 1.
    pub number: u32,
    /// Its data folder.
    pub data: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Where its standard error goes, behind what is there.
    pub log: PathBuf,
    /// Through which its messages go; `None`: its embedded log.
    pub kafka: Option<String>,
    /// MQTT address.
    pub mqtt: SocketAddr,
    /// Admin address.
    pub admin: SocketAddr,
    /// Address for the other nodes; a lone node has none and takes any port.
    pub cluster: Option<SocketAddr>,
    /// The node that founds the cluster, if it is another one.
    pub join: Option<SocketAddr>,
}

impl Launch {
    /// Writes the nodes' configurations and chooses free ports of loopback where none are given.
    pub(crate) fn prepare(plan: &Plan<'_>) -> Result<Vec<Self>, Error> {
        let program = match plan.program {
            Some(program) => program.to_owned(),
            None => std::env::current_exe()
                .map_err(|error| Error::Failed(format!("the running program: {error}")))?,
        };
        let ports = ports::free(3 * plan.nodes as usize)
            .map_err(|error| Error::Failed(format!("a free port of 127.0.0.1: {error}")))?;
        let founder = ports[2];
        let numbered = (1..=plan.nodes).zip(ports.chunks_exact(3));
        let launches = numbered.map(|(number, ports)| {
            let config = plan.folder.node_config(number);
            std::fs::write(&config, &plan.config)
                .map_err(|error| Error::Failed(format!("{}: {error}", config.display())))?;
            let given = |address: Option<SocketAddr>| address.filter(|_| number == 1);
            Ok(Self {
                before: Vec::new(),
                program: program.clone(),
                environment: Vec::new(),
                number,
                data: plan.folder.node_data(number),
                config,
                log: plan.folder.node_log(number),
                kafka: plan.kafka.map(|kafka| kafka.bootstrap.clone()),
                mqtt: given(plan.mqtt).unwrap_or(ports[0]),
                admin: given(plan.admin).unwrap_or(ports[1]),
                cluster: (plan.nodes > 1).then_some(ports[2]),
                join: (number > 1).then_some(founder),
            })
        });
        launches.collect()
    }

    /// Returns the command that starts the node again on its folder.
    pub(super) fn command_line(&self) -> String {
        let mut line = "tidewire serve".to_owned();
        if let Some(bootstrap) = &self.kafka {
            line += &format!(" --config {} --kafka {bootstrap}", self.config.display());
        }
        line += &format!(" --data {}", self.data.display());
        if let Some(cluster) = self.cluster {
            let Self { mqtt, admin, .. } = self;
            line += &format!(" --mqtt {mqtt} --admin {admin} --cluster {cluster}");
        }
        line
    }

    /// Starts the process and waits for nothing.
    ///
    /// # Errors
    /// [`Error::Failed`] when its log cannot be opened or the process not be started.
    pub fn spawn(&self) -> Result<Node, Error> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|error| Error::Failed(format!("{}: {error}", self.log.display())))?;
        let mut command = match self.before.split_first() {
            None => Command::new(&self.program),
            Some((first, words)) => {
                let mut command = Command::new(first);
                command.args(words).arg(&self.program);
                command
            }
        };
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command.arg("serve").arg("--config").arg(&self.config);
        command.arg("--data").arg(&self.data);
        command.args(["--mqtt", &self.mqtt.to_string()]);
        command.args(["--admin", &self.admin.to_string()]);
        match self.cluster {
            None => command.args(["--cluster", "127.0.0.1:0"]),
            Some(cluster) => command
                .args(["--cluster", &cluster.to_string()])
                // Those that join at once would get their numbers in any order.
                .args(["--node", &self.number.to_string()]),
        };
        if let Some(founder) = self.join {
            command.args(["--join", &founder.to_string()]);
        }
        if let Some(bootstrap) = &self.kafka {
            command.args(["--kafka", bootstrap]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Out of the terminal's group: Ctrl-C reaches the demo, which then stops its nodes.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Error::Failed(format!("{}: {error}", self.program.display())))?;
        Ok(Node {
            child,
            number: self.number,
            admin: self.admin,
            log_path: self.log.clone(),
        })
    }
}

/// Is a running node; dropped, it is killed.
#[derive(Debug)]
pub struct Node {
    child: Child,
    pub(super) number: u32,
    admin: SocketAddr,
    log_path: PathBuf,
}

impl Node {
    /// Returns the number of the process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the node says that it is ready.
    pub(super) async fn wait_until_ready(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().map_err(wait_failed)? {
                return Err(self.ended(status));
            }
            let last = match readiness(self.admin).await {
                Ok(200) => return Ok(()),
                Ok(status) => format!("HTTP status {status}"),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(Error::Failed(format!(
                    "node {} is not ready after {READY_DEADLINE:?}: {last}{}",
                    self.number,
                    self.log_end()
                )));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits for an end that nobody asked for, and returns it as an error. Cancel-safe.
    pub(super) async fn ended_by_itself(&mut self) -> Error {
        match self.child.wait().await {
            Ok(status) => self.ended(status),
            Err(error) => wait_failed(error),
        }
    }

    fn ended(&self, status: ExitStatus) -> Error {
        let number = self.number;
        Error::Failed(format!("node {number} ended: {status}{}", self.log_end()))
    }

    /// Returns how the process ended, if it has; waits for nothing.
    ///
    /// # Errors
    /// [`Error::Failed`] when the system does not say.
    pub fn has_ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait().map_err(wait_failed)
    }

    /// Kills the process with SIGKILL.
    ///
    /// # Errors
    /// [`Error::Failed`] when the system refuses.
    pub async fn kill(mut self) -> Result<(), Error> {
        self.child.kill().await.map_err(wait_failed)
    }

    /// Asks the process to stop with SIGTERM.
    ///
    /// # Errors
    /// [`Error::Failed`] when the system refuses.
    pub fn terminate(&self) -> Result<(), Error> {
        self.signal(Signal::TERM)
    }

    /// Sends a signal to the process; does nothing when it has ended.
    ///
    /// # Errors
    /// [`Error::Failed`] when the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let pid = self.child.id().map(u32::cast_signed);
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            // It has ended, which [`Node::await_stop`] tells.
            return Ok(());
        };
        kill_process(pid, signal)
            .map_err(|error| Error::Failed(format!("{signal:?} to node {}: {error}", self.number)))
    }

    /// Waits for the end of a process that was asked to stop.
    ///
    /// # Errors
    /// [`Error::Failed`] when it does not end in time (it is killed then) or not with 0.
    pub async fn await_stop(mut self) -> Result<(), Error> {
        match timeout(STOP_DEADLINE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.ended(status)),
            Ok(Err(error)) => Err(wait_failed(error)),
            Err(_) => {
                let text = format!(
                    "node {} did not stop within {STOP_DEADLINE:?} of SIGTERM and was killed{}",
                    self.number,
                    self.log_end()
                );
                self.child.kill().await.map_err(wait_failed)?;
                Err(Error::Failed(text))
            }
        }
    }

    /// Returns a client of the node's admin API.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(&self.admin.to_string())
    }

    /// Asks the node over its admin API.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, Error> {
        let client = self.client();
        tokio::task::spawn_blocking(move || question(&client))
            .await
            .map_err(|error| Error::Failed(error.to_string()))?
            .map_err(|error| Error::Failed(format!("{error}{}", self.log_end())))
    }

    /// Returns the last lines of the node's log, for an error message.
    #[must_use]
    pub fn log_end(&self) -> String {
        let text = match std::fs::read(&self.log_path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => return format!("\n({}: {error})", self.log_path.display()),
        };
        let lines: Vec<&str> = text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!("\nthe end of its log:\n  {}", shown.join("\n  "))
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "used as a function of map_err"
)]
fn wait_failed(error: io::Error) -> Error {
    Error::Failed(format!("waiting for the node's process: {error}"))
}

/// Returns whether the node at this admin address says that it is ready.
pub(super) async fn is_ready(admin: SocketAddr) -> bool {
    matches!(readiness(admin).await, Ok(200))
}

/// Returns the status of `GET /health/ready`, or why there is no answer.
async fn readiness(admin: SocketAddr) -> Result<u16, String> {
    let url = format!("http://{admin}/health/ready");
    let asking = tokio::task::spawn_blocking(move || {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(REQUEST_TIMEOUT))
            .http_status_as_error(false)
            .build()
            .into();
        let response = agent.get(&url).call().map_err(|error| error.to_string())?;
        Ok(response.status().as_u16())
    });
    asking.await.map_err(|error| error.to_string())?
}
