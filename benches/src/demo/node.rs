//! A node as a child process, and what is asked of it over HTTP.

use std::fs::OpenOptions;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use admin::client::{Client, ClientError};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::Error;
use super::folder::{Folder, Kafka};

/// Time from the start of the process to `GET /health/ready` = 200; a node that replays a long
/// log takes its time.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// Time from SIGTERM to the end of the process; its own `stop_deadline` is 30 s.
const STOP_DEADLINE: Duration = Duration::from_secs(45);

/// Time between two questions of a wait.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Time for one HTTP request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Lines of the node's log that an error shows.
const LOG_LINES_SHOWN: usize = 15;

/// Short times and small blocks, so that a short run passes seals and merges.
const CONFIG: &str = "[telemetry]\nhead_age_max = \"5s\"\nblock_rows = 16\n";

/// Says how a node is started.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    program: PathBuf,
    folder: Folder,
    /// Through which its messages go; `None`: its embedded log.
    pub(super) kafka: Option<Kafka>,
    /// MQTT address.
    pub(super) mqtt: SocketAddr,
    /// Admin address.
    pub(super) admin: SocketAddr,
}

impl Launch {
    /// Writes the node's configuration and chooses free ports of loopback where none are given.
    pub(super) fn prepare(
        program: Option<&Path>,
        folder: &Folder,
        kafka: Option<&Kafka>,
        mqtt: Option<SocketAddr>,
        admin: Option<SocketAddr>,
    ) -> Result<Self, Error> {
        let program = match program {
            Some(program) => program.to_owned(),
            None => std::env::current_exe()
                .map_err(|error| Error::Failed(format!("the running program: {error}")))?,
        };
        let config = folder.node_config();
        let stream = kafka.map_or_else(String::new, |kafka| {
            let topic = &kafka.topic;
            format!("[[telemetry.streams]]\ntopic = \"{topic}\"\n")
        });
        std::fs::write(&config, format!("{CONFIG}{stream}"))
            .map_err(|error| Error::Failed(format!("{}: {error}", config.display())))?;
        // Both are held before either is released, so that they differ.
        let listeners = (free_listener()?, free_listener()?);
        let address = |listener: &TcpListener| {
            listener
                .local_addr()
                .map_err(|error| Error::Failed(format!("a free port: {error}")))
        };
        let (mqtt, admin) = (
            mqtt.map_or_else(|| address(&listeners.0), Ok)?,
            admin.map_or_else(|| address(&listeners.1), Ok)?,
        );
        Ok(Self {
            program,
            folder: folder.clone(),
            kafka: kafka.cloned(),
            mqtt,
            admin,
        })
    }

    /// Starts the process and waits until it is ready.
    pub(super) async fn start(&self) -> Result<Node, Error> {
        let log_path = self.folder.node_log();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(|error| Error::Failed(format!("{}: {error}", log_path.display())))?;
        let kafka = self.kafka.iter();
        let kafka = kafka.flat_map(|kafka| ["--kafka", &kafka.bootstrap]);
        let child = Command::new(&self.program)
            .arg("serve")
            .args(kafka)
            .arg("--config")
            .arg(self.folder.node_config())
            .arg("--data")
            .arg(self.folder.node_data())
            .args([
                "--mqtt",
                &self.mqtt.to_string(),
                "--admin",
                &self.admin.to_string(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Out of the terminal's group: Ctrl-C reaches the demo, which then stops its node.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Error::Failed(format!("{}: {error}", self.program.display())))?;
        let mut node = Node {
            child,
            admin: self.admin,
            log_path,
        };
        node.wait_until_ready().await?;
        Ok(node)
    }
}

fn free_listener() -> Result<TcpListener, Error> {
    TcpListener::bind(("127.0.0.1", 0))
        .map_err(|error| Error::Failed(format!("a free port of 127.0.0.1: {error}")))
}

/// Is a running node; dropped, it is killed.
#[derive(Debug)]
pub(super) struct Node {
    child: Child,
    admin: SocketAddr,
    log_path: PathBuf,
}

impl Node {
    async fn wait_until_ready(&mut self) -> Result<(), Error> {
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
                    "the node is not ready after {READY_DEADLINE:?}: {last}{}",
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
        Error::Failed(format!("the node ended: {status}{}", self.log_end()))
    }

    /// Kills the process with SIGKILL.
    pub(super) async fn kill(mut self) -> Result<(), Error> {
        self.child.kill().await.map_err(wait_failed)
    }

    /// Stops the process with SIGTERM and waits for its end.
    ///
    /// # Errors
    /// [`Error::Failed`] when it does not end in time (it is killed then) or not with 0.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        let Some(pid) = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
        else {
            return Err(self.ended_by_itself().await);
        };
        kill_process(pid, Signal::TERM)
            .map_err(|error| Error::Failed(format!("SIGTERM to the node: {error}")))?;
        match timeout(STOP_DEADLINE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.ended(status)),
            Ok(Err(error)) => Err(wait_failed(error)),
            Err(_) => {
                let text = format!(
                    "the node did not stop within {STOP_DEADLINE:?} of SIGTERM and was killed{}",
                    self.log_end()
                );
                self.child.kill().await.map_err(wait_failed)?;
                Err(Error::Failed(text))
            }
        }
    }

    /// Asks the node over its admin API.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, Error> {
        let client = Client::new(&self.admin.to_string());
        tokio::task::spawn_blocking(move || question(&client))
            .await
            .map_err(|error| Error::Failed(error.to_string()))?
            .map_err(|error| Error::Failed(format!("{error}{}", self.log_end())))
    }

    /// Returns the last lines of the node's log, for an error message.
    fn log_end(&self) -> String {
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
