//! A cluster that a test owns, kills and restarts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Jars;
use super::node::{self, Node, Started};
use super::process::signal;
use super::registered::registered;
use super::wait;
use super::watchdog::Watchdog;
use crate::ports::{self, Port};

/// Far beyond the seconds that a start takes, so that a busy machine fails no test.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(120);

/// What SIGTERM may take before SIGKILL follows.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(20);

/// One or three brokers on 127.0.0.1, numbered from 1, each of them a controller too.
///
/// Dropping it kills what runs; so does the end of this process, whatever ends it. The folder stays, with each broker's
/// log in it.
#[derive(Debug)]
pub struct Cluster {
    jars: Jars,
    members: Vec<Member>,
    /// Kept, so that no other test takes the port of a broker that is down.
    _ports: Vec<Port>,
}

#[derive(Debug)]
struct Member {
    node: Node,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    started: Started,
    /// Goes after the child was waited for, since fields are dropped after their owner's `drop`.
    _watchdog: Watchdog,
}

/// Kafka's command line tools that [`Cluster::tool`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `kafka-topics`
    Topics,
    /// `kafka-configs`
    Configs,
    /// `kafka-acls`
    Acls,
    /// `kafka-consumer-groups`
    ConsumerGroups,
    /// `kafka-get-offsets`
    GetOffsets,
    /// `kafka-delete-records`
    DeleteRecords,
}

impl Cluster {
    /// Starts `brokers` brokers, 1 or 3, with their data and logs below `dir`, and waits until each is registered and
    /// answers. Blocks for 3 to 15 seconds.
    ///
    /// `properties` override ours: no automatic topics, one partition, and for three brokers three replicas with two
    /// in sync, else one.
    ///
    /// # Errors
    /// What did not start, with the end of its log; nothing runs then.
    pub fn start(
        jars: &Jars,
        dir: &Path,
        brokers: u8,
        properties: &[(&str, &str)],
    ) -> Result<Self, String> {
        if ![1, 3].contains(&brokers) {
            return Err(format!("{brokers} brokers; 1 or 3 are possible"));
        }
        let dir = std::path::absolute(dir)
            .and_then(|dir| fs::create_dir_all(&dir).map(|()| dir))
            .map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
        let (nodes, ports) = nodes(&dir, brokers)?;
        node::prepare(jars, &nodes, properties)?;
        let mut cluster = Self {
            jars: jars.clone(),
            members: nodes
                .into_iter()
                .map(|node| Member {
                    node,
                    running: None,
                })
                .collect(),
            _ports: ports,
        };
        cluster.restart_all()?;
        Ok(cluster)
    }

    /// The addresses of all brokers, as clients take them for `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        bootstrap(self.members.iter().map(|member| &member.node))
    }

    /// The address of broker `n`, running or not.
    ///
    /// # Panics
    /// Without a broker of that number, as everywhere here.
    #[must_use]
    pub fn address(&self, n: u8) -> String {
        self.member(n).node.address()
    }

    /// The process id of broker `n`, `None` when it does not run.
    #[must_use]
    pub fn pid(&self, n: u8) -> Option<u32> {
        let running = self.member(n).running.as_ref();
        running.map(|running| running.started.child.id())
    }

    /// The file to which all processes of broker `n` append their log.
    #[must_use]
    pub fn log(&self, n: u8) -> PathBuf {
        self.member(n).node.log()
    }

    /// Kills broker `n` with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, n: u8) -> Result<(), String> {
        let running = self.member_mut(n).running.take();
        let running = running.ok_or_else(|| format!("broker {n} does not run"))?;
        running.kill()
    }

    /// Halts broker `n` with SIGSTOP: its connections stay open and nothing answers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, n: u8) -> Result<(), String> {
        self.signal(n, "STOP")
    }

    /// Lets a halted broker `n` go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self, n: u8) -> Result<(), String> {
        self.signal(n, "CONT")
    }

    /// Starts broker `n` again on its port and its data, and waits until it is ready.
    ///
    /// After a [`kill`](Self::kill) the controller holds the old process's registration until
    /// `broker.session.timeout.ms`, 9 seconds unless set, has passed; only then is the new one let in.
    ///
    /// It cannot become ready without a majority of the three: after losing two use [`restart_all`](Self::restart_all).
    ///
    /// # Errors
    /// When it runs, or does not become ready within two minutes; then it is left as it is.
    pub fn restart(&mut self, n: u8) -> Result<(), String> {
        self.spawn(n)?;
        self.ready()
    }

    /// Starts broker `n` again on its port and its data, and does not wait: a test watches what clients see meanwhile.
    ///
    /// [`restart_all`](Self::restart_all) waits for it.
    ///
    /// # Errors
    /// When it runs, or cannot be started; that it ends soon after is told by whoever waits.
    pub fn begin_restart(&mut self, n: u8) -> Result<(), String> {
        self.spawn(n)
    }

    /// Starts every broker that does not run, and waits until all are ready.
    ///
    /// # Errors
    /// As [`restart`](Self::restart).
    pub fn restart_all(&mut self) -> Result<(), String> {
        let down: Vec<u8> = self
            .members
            .iter()
            .filter(|member| member.running.is_none())
            .map(|member| member.node.number)
            .collect();
        for n in down {
            self.spawn(n)?;
        }
        self.ready()
    }

    /// Stops what runs with SIGTERM, and after 20 seconds with SIGKILL; [`restart_all`](Self::restart_all) brings it
    /// back.
    ///
    /// # Errors
    /// When a process can be neither signalled nor waited for.
    pub fn stop(&mut self) -> Result<(), String> {
        let mut stopping: Vec<Running> = self
            .members
            .iter_mut()
            .filter_map(|member| member.running.take())
            .collect();
        // All at once: the last of three would wait for a majority of controllers.
        for running in &mut stopping {
            if running.started.is_running()? {
                signal(running.started.child.id(), "TERM")?;
            }
        }
        let all_ended = wait::until(STOP_WITHIN, || {
            for running in &mut stopping {
                if running.started.is_running()? {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        });
        all_ended?;
        stopping.into_iter().try_for_each(Running::kill)
    }

    /// Runs one of Kafka's own tools against the running cluster and returns its standard output. Blocks for seconds.
    ///
    /// # Errors
    /// What it said, when it failed.
    pub fn tool(&self, tool: Tool, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.jars.short_java();
        command
            .arg(tool.class())
            .args(["--bootstrap-server", &self.bootstrap()])
            .args(arguments);
        output(&mut command).map_err(|reason| format!("{tool:?} {arguments:?}: {reason}"))
    }

    fn spawn(&mut self, n: u8) -> Result<(), String> {
        let jars = self.jars.clone();
        let member = self.member_mut(n);
        if member.running.is_some() {
            return Err(format!("broker {n} runs already; kill it first"));
        }
        let mut started = member.node.spawn(&jars)?;
        match Watchdog::over(started.child.id()) {
            Ok(watchdog) => {
                member.running = Some(Running {
                    started,
                    _watchdog: watchdog,
                });
                Ok(())
            }
            Err(reason) => {
                let child = &mut started.child;
                let ended = child.kill().and_then(|()| child.wait());
                ended.map_err(|error| format!("{reason}; broker {n} stays: {error}"))?;
                Err(reason)
            }
        }
    }

    /// Waits until each running broker has started and knows all the running ones.
    fn ready(&mut self) -> Result<(), String> {
        let running: Vec<i32> = self
            .members
            .iter()
            .filter(|member| member.running.is_some())
            .map(|member| i32::from(member.node.number))
            .collect();
        for member in &mut self.members {
            member.ready(&running)?;
        }
        Ok(())
    }

    fn signal(&self, n: u8, name: &str) -> Result<(), String> {
        let pid = self.pid(n);
        signal(pid.ok_or_else(|| format!("broker {n} does not run"))?, name)
    }

    fn member(&self, n: u8) -> &Member {
        let member = self.members.iter().find(|member| member.node.number == n);
        member.unwrap_or_else(|| panic!("there is no broker {n}"))
    }

    fn member_mut(&mut self, n: u8) -> &mut Member {
        let member = self
            .members
            .iter_mut()
            .find(|member| member.node.number == n);
        member.unwrap_or_else(|| panic!("there is no broker {n}"))
    }
}

impl Member {
    fn ready(&mut self, peers: &[i32]) -> Result<(), String> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        let node = &self.node;
        let number = node.number;
        let ready = wait::until(READY_WITHIN, || {
            if !running.started.is_running()? {
                let tail = node.log_tail(running.started.log_from);
                return Err(format!("broker {number} ended before it was ready; {tail}"));
            }
            Ok(is_ready(node, running.started.log_from, peers)?.then_some(()))
        })?;
        ready.ok_or_else(|| {
            let tail = node.log_tail(running.started.log_from);
            format!("broker {number} was not ready after {READY_WITHIN:?}; {tail}")
        })
    }
}

impl Running {
    fn kill(mut self) -> Result<(), String> {
        self.end()
    }

    fn end(&mut self) -> Result<(), String> {
        let child = &mut self.started.child;
        let ended = child.kill().and_then(|()| child.wait());
        ended
            .map(|_| ())
            .map_err(|error| format!("cannot end process {}: {error}", child.id()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Kills nobody a second time: the standard library remembers a process that it has waited for.
        if let Err(reason) = self.end() {
            eprintln!("{reason}");
        }
    }
}

impl Tool {
    fn class(self) -> &'static str {
        match self {
            Self::Topics => "org.apache.kafka.tools.TopicCommand",
            Self::Configs => "kafka.admin.ConfigCommand",
            Self::Acls => "org.apache.kafka.tools.AclCommand",
            Self::ConsumerGroups => "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
            Self::GetOffsets => "org.apache.kafka.tools.GetOffsetShell",
            Self::DeleteRecords => "org.apache.kafka.tools.DeleteRecordsCommand",
        }
    }
}

/// Whether the process of `node` whose log begins at `log_from` has started and knows `peers`.
///
/// The log says that the broker itself is registered; that the others are too, in its own view, it says on the wire. A
/// peer that was just killed may still be among those it knows.
pub(super) fn is_ready(node: &Node, log_from: u64, peers: &[i32]) -> Result<bool, String> {
    Ok(node.has_started(log_from)?
        && registered(node.port).is_ok_and(|known| peers.iter().all(|peer| known.contains(peer))))
}

/// The addresses of `nodes`, as clients take them.
pub(super) fn bootstrap<'a>(nodes: impl Iterator<Item = &'a Node>) -> String {
    let addresses: Vec<String> = nodes.map(Node::address).collect();
    addresses.join(",")
}

/// `brokers` nodes below `dir` on free ports.
pub(super) fn nodes(dir: &Path, brokers: u8) -> Result<(Vec<Node>, Vec<Port>), String> {
    let ports = ports::reserve(2 * usize::from(brokers))?;
    let nodes = ports
        .chunks_exact(2)
        .zip(1..=brokers)
        .map(|(pair, number)| Node::new(dir, number, pair[0].number, pair[1].number))
        .collect();
    Ok((nodes, ports))
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("cannot run java: {error}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(stdout.into_owned());
    }
    // Some tools tell their errors on standard output.
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{stderr}{stdout}").trim().to_owned())
}
