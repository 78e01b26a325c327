//! A node as a child process, pinned to one core.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use admin::client::Client;
use rustix::process::{Pid, Signal, kill_process};

use super::{Error, pause};

const READY_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(45);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Is a running node; dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    pub(crate) mqtt: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Node {
    /// Starts a node with this configuration on the calling thread's cores, its data below `folder`,
    /// and waits until it is ready.
    pub(crate) fn start(
        program: Option<&Path>,
        folder: &Path,
        kafka: Option<&str>,
        configuration: &str,
    ) -> Result<Self, Error> {
        let program = match program {
            Some(program) => program.to_owned(),
            None => std::env::current_exe().map_err(|e| failed("the running program", e))?,
        };
        let config = folder.join("node.toml");
        std::fs::write(&config, configuration).map_err(|e| failed(config.display(), e))?;
        let (mqtt, admin) = free_addresses().map_err(|e| failed("a free port", e))?;
        let log_path = folder.join("node.log");
        let log = std::fs::File::create(&log_path).map_err(|e| failed(log_path.display(), e))?;
        let child = Command::new(&program)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .arg("--data")
            .arg(folder.join("data"))
            .args(kafka.iter().flat_map(|kafka| ["--kafka", kafka]))
            .args(["--mqtt", &mqtt.to_string(), "--admin", &admin.to_string()])
            .args(["--cluster", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| failed(program.display(), e))?;
        let mut node = Self { child, mqtt, admin };
        node.wait_until_ready(&log_path)?;
        Ok(node)
    }

    fn wait_until_ready(&mut self, log_path: &PathBuf) -> Result<(), Error> {
        let client = Client::new(&self.admin.to_string());
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            let log = || std::fs::read_to_string(log_path).unwrap_or_default();
            if let Some(status) = self.child.try_wait().map_err(|e| failed("the node", e))? {
                return Err(Error::Failed(format!(
                    "the node ended: {status}\n{}",
                    log()
                )));
            }
            match client.node() {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(Error::Failed(format!(
                        "the node is not ready: {error}\n{}",
                        log()
                    )));
                }
                Err(_) => pause(POLL_INTERVAL),
            }
        }
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops the node in order.
    pub(crate) fn stop(mut self) -> Result<(), Error> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).map_err(|e| failed("SIGTERM to the node", e))?;
        let deadline = Instant::now() + STOP_DEADLINE;
        while Instant::now() < deadline {
            match self.child.try_wait().map_err(|e| failed("the node", e))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(Error::Failed(format!("the node ended: {status}"))),
                None => pause(POLL_INTERVAL),
            }
        }
        Err(Error::Failed(format!(
            "the node did not stop within {STOP_DEADLINE:?}"
        )))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nothing is to be done about a child that has ended already.
        if self.child.kill().is_ok() && self.child.wait().is_err() {
            tracing::debug!("the node's end was not seen");
        }
    }
}

fn failed(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Error {
    Error::Failed(format!("{what}: {error}"))
}

/// Two that differ: both are held before either is released.
fn free_addresses() -> std::io::Result<(SocketAddr, SocketAddr)> {
    let held = (
        TcpListener::bind(("127.0.0.1", 0))?,
        TcpListener::bind(("127.0.0.1", 0))?,
    );
    Ok((held.0.local_addr()?, held.1.local_addr()?))
}
