//! The nodes as processes: where each is, what state it is in, and how it is met.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use benches::demo::node::{Launch, Node};
use benches::ports;
use rustix::process::Signal;

use crate::Error;
use crate::network;
use crate::proxy::Proxy;

/// Ports of a node in a namespace, where nobody else has any.
const MQTT_PORT: u16 = 1883;
const ADMIN_PORT: u16 = 8080;
const CLUSTER_PORT: u16 = 7000;
/// Where others dial a node whose ways are delayed.
const PROXY_PORT: u16 = 7001;

/// Says what all nodes have in common.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The program whose `serve` is a node.
    pub(crate) program: PathBuf,
    /// Where the nodes' folders lie.
    pub(crate) folder: PathBuf,
    /// Their configuration.
    pub(crate) config: toml::Table,
    /// What their environment has beside this process's.
    pub(crate) environment: Vec<(String, String)>,
    /// Whether each has an address of its own.
    pub(crate) is_in_namespace: bool,
    /// Whether each is dialed through a proxy.
    pub(crate) has_proxies: bool,
    /// The size of each node's file system; `None`: the folder's.
    pub(crate) disk_bytes: Option<u64>,
    /// Kafka.
    pub(crate) kafka: Option<String>,
}

/// Are the nodes, in the order of their numbers; dropped, they are killed.
#[derive(Debug)]
pub(crate) struct Cluster {
    setup: Setup,
    before: Vec<String>,
    members: Vec<Member>,
}

/// Is a node: where it is, and its process if it runs.
#[derive(Debug)]
pub(crate) struct Member {
    launch: Launch,
    folder: PathBuf,
    proxy: Option<Proxy>,
    node: Option<Node>,
    state: State,
}

/// How a node is, as far as this run made it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its process runs.
    Running,
    /// Its process stands still.
    Paused,
    /// Its process was ended and is to come again.
    Down,
    /// It was forgotten and does not come again.
    Forgotten,
}

impl Cluster {
    /// Prepares no node yet.
    #[must_use]
    pub(crate) fn new(setup: Setup) -> Self {
        Self {
            before: with_parent(),
            setup,
            members: Vec::new(),
        }
    }

    /// Prepares one node more, and starts nothing; its place.
    ///
    /// # Errors
    /// [`Error::Failed`] when folder, port or file system cannot be had.
    pub(crate) async fn add(&mut self) -> Result<usize, Error> {
        let at = self.members.len();
        let number = u32::try_from(at + 1).unwrap_or(u32::MAX);
        let folder = self.setup.folder.join(format!("node-{number}"));
        let failed = |error: std::io::Error| Error::Failed(format!("node {number}: {error}"));
        std::fs::create_dir_all(&folder).map_err(failed)?;
        if let Some(bytes) = self.setup.disk_bytes {
            mount(&folder, bytes)?;
        }
        let [mqtt, admin, cluster, dialed] = self.addresses(at).map_err(failed)?;
        let proxy = match self.setup.has_proxies {
            true => Some(Proxy::open(dialed, cluster).await.map_err(failed)?),
            false => None,
        };
        let config = self.setup.folder.join(format!("node-{number}.toml"));
        let text = self.config_of(proxy.as_ref().map(|proxy| proxy.address))?;
        std::fs::write(&config, text).map_err(failed)?;
        let launch = Launch {
            before: self.before.clone(),
            program: self.setup.program.clone(),
            environment: self.setup.environment.clone(),
            number,
            data: folder.join("data"),
            config,
            log: self.setup.folder.join(format!("node-{number}.log")),
            kafka: self.setup.kafka.clone(),
            mqtt,
            admin,
            cluster: Some(cluster),
            join: self.to_join().map(Member::dialed),
        };
        self.members.push(Member {
            launch,
            folder,
            proxy,
            node: None,
            state: State::Down,
        });
        Ok(at)
    }

    /// A member that answers one that joins: one that runs, if there is any.
    fn to_join(&self) -> Option<&Member> {
        let runs = |member: &&Member| member.state == State::Running;
        self.members.iter().find(runs).or(self.members.first())
    }

    /// MQTT, admin, cluster, and where others dial.
    fn addresses(&self, at: usize) -> std::io::Result<[SocketAddr; 4]> {
        if self.setup.is_in_namespace {
            let ip = network::address(at);
            let ports = [MQTT_PORT, ADMIN_PORT, CLUSTER_PORT, PROXY_PORT];
            return Ok(ports.map(|port| SocketAddr::new(ip, port)));
        }
        let free = ports::free(4)?;
        let taken = free.first_chunk().copied();
        taken.ok_or_else(|| std::io::Error::other("no free ports"))
    }

    fn config_of(&self, dialed: Option<SocketAddr>) -> Result<String, Error> {
        let mut config = self.setup.config.clone();
        if let Some(dialed) = dialed {
            let cluster = config
                .entry("cluster")
                .or_insert_with(|| toml::Table::new().into());
            let table = cluster.as_table_mut();
            let table =
                table.ok_or_else(|| Error::Usage("config.cluster: must be a table".into()))?;
            table.insert("advertise".into(), dialed.to_string().into());
        }
        toml::to_string(&config).map_err(|error| Error::Usage(format!("config: {error}")))
    }

    /// Returns all nodes, those that are down or forgotten too.
    #[must_use]
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns the node at this place.
    ///
    /// # Panics
    /// If there is none: places are those that [`Self::add`] gave.
    #[must_use]
    pub(crate) fn member(&self, at: usize) -> &Member {
        &self.members[at]
    }

    /// Returns the places of the nodes that are members of the cluster.
    #[must_use]
    pub(crate) fn places(&self) -> Vec<usize> {
        let all = self.members.iter().enumerate();
        all.filter(|(_, member)| member.state != State::Forgotten)
            .map(|(at, _)| at)
            .collect()
    }

    /// Returns the MQTT addresses of the members.
    #[must_use]
    pub(crate) fn mqtt(&self) -> Vec<SocketAddr> {
        let places = self.places();
        places
            .iter()
            .map(|at| self.members[*at].launch.mqtt)
            .collect()
    }

    /// Starts a node that is down, and waits for nothing.
    ///
    /// # Errors
    /// [`Error::Failed`] when the process cannot be started.
    pub(crate) fn spawn(&mut self, at: usize) -> Result<(), Error> {
        let member = &mut self.members[at];
        member.node = Some(member.launch.spawn().map_err(Error::from)?);
        member.state = State::Running;
        Ok(())
    }

    /// Kills nodes with SIGKILL, as nearly at once as signals can be sent.
    ///
    /// # Errors
    /// [`Error::Failed`] when the system refuses.
    pub(crate) async fn kill(&mut self, places: &[usize]) -> Result<(), Error> {
        for at in places {
            if let Some(node) = &self.members[*at].node {
                node.signal(Signal::KILL)?;
            }
        }
        for at in places {
            let member = &mut self.members[*at];
            if let Some(node) = member.node.take() {
                node.kill().await?;
            }
            member.state = State::Down;
        }
        Ok(())
    }

    /// Asks a node to stop with SIGTERM; [`Self::ended`] says when it has.
    ///
    /// # Errors
    /// [`Error::Failed`] when the system refuses.
    pub(crate) fn terminate(&self, at: usize) -> Result<(), Error> {
        match &self.members[at].node {
            Some(node) => Ok(node.terminate()?),
            None => Ok(()),
        }
    }

    /// Stops a node where it is.
    ///
    /// # Errors
    /// [`Error::Failed`] when the system refuses.
    pub(crate) fn pause(&mut self, at: usize) -> Result<(), Error> {
        self.signal(at, Signal::STOP, State::Paused)
    }

    /// Lets a node go on that was paused.
    ///
    /// # Errors
    /// [`Error::Failed`] when the system refuses.
    pub(crate) fn go_on(&mut self, at: usize) -> Result<(), Error> {
        if self.members[at].state == State::Paused {
            self.signal(at, Signal::CONT, State::Running)?;
        }
        Ok(())
    }

    fn signal(&mut self, at: usize, signal: Signal, state: State) -> Result<(), Error> {
        let member = &mut self.members[at];
        if let Some(node) = &member.node {
            node.signal(signal)?;
            member.state = state;
        }
        Ok(())
    }

    /// Returns how the process of a node ended, if it has; it is down then.
    ///
    /// # Errors
    /// [`Error::Failed`] when the system does not say.
    pub(crate) fn ended(&mut self, at: usize) -> Result<Option<ExitStatus>, Error> {
        let member = &mut self.members[at];
        let Some(node) = &mut member.node else {
            return Ok(None);
        };
        let status = node.has_ended()?;
        if status.is_some() {
            member.node = None;
            member.state = State::Down;
        }
        Ok(status)
    }

    /// Marks a node as one that does not come again.
    pub(crate) fn forget(&mut self, at: usize) {
        self.members[at].state = State::Forgotten;
    }
}

impl Member {
    /// Returns its number.
    #[must_use]
    pub(crate) fn number(&self) -> u32 {
        self.launch.number
    }

    /// Returns how it is.
    #[must_use]
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Returns the number of its process, while it runs.
    #[must_use]
    pub(crate) fn pid(&self) -> Option<u32> {
        self.node.as_ref()?.pid()
    }

    /// Returns its admin address.
    #[must_use]
    pub(crate) fn admin(&self) -> SocketAddr {
        self.launch.admin
    }

    /// Returns the proxy through which others dial it.
    #[must_use]
    pub(crate) fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// Returns its data folder.
    #[must_use]
    pub(crate) fn data(&self) -> &Path {
        &self.launch.data
    }

    /// Returns its folder, on a file system of its own if it has one.
    #[must_use]
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the end of what it wrote to its log.
    #[must_use]
    pub(crate) fn log_end(&self) -> String {
        let text = std::fs::read(&self.launch.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().rev().take(LOG_LINES).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n    ")
    }

    /// Where other nodes dial it.
    fn dialed(&self) -> SocketAddr {
        let own = self.launch.cluster;
        let proxy = self.proxy.as_ref().map(|proxy| proxy.address);
        proxy.or(own).expect("a node of a cluster has an address")
    }
}

/// Lines of a node's log that a finding shows.
const LOG_LINES: usize = 5;

/// The words before the program, where there is a program that ends it with this one.
fn with_parent() -> Vec<String> {
    match network::has_with_parent() {
        true => [&network::WITH_PARENT[..], &["KILL"]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        false => Vec::new(),
    }
}

/// Mounts a file system in memory.
fn mount(at: &Path, bytes: u64) -> Result<(), Error> {
    let failed = |what: String| Error::Failed(format!("mount {}: {what}", at.display()));
    let output = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"])
        .arg(at)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}
