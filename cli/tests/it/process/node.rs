//! A node as a child process.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use xtask::ports::{self, Port};

use super::http;
use super::wait::until;
use crate::house::tree::files_below;

/// The program under test.
pub(crate) fn tidewire() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewire"));
    command
        .stdin(Stdio::null())
        .env_remove("TIDEWIRE_ADMIN")
        .env_remove("TIDEWIRE_TOKEN");
    command
}

/// Where a node listens, and the folder that outlives it.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    data: PathBuf,
    pub(crate) mqtt: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// For other nodes; a lone node takes any free port.
    pub(crate) cluster: SocketAddr,
    /// The number that a new node wants.
    number: Option<u32>,
    /// Members that a new node asks to join.
    join: Vec<SocketAddr>,
    /// No other test gets these, also while the node is down.
    _ports: Vec<Port>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let data = folder.path().join("data");
        let ports = ports::reserve(2).expect("ports for a node");
        let address = |at: usize| SocketAddr::from((Ipv4Addr::LOCALHOST, ports[at].number));
        Self {
            folder,
            data,
            mqtt: address(0),
            admin: address(1),
            cluster: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            number: None,
            join: Vec::new(),
            _ports: ports,
        }
    }

    /// A place where other nodes find the node, which joins those of `join` or founds a cluster.
    pub(crate) fn of_cluster(join: &[SocketAddr]) -> Self {
        let mut place = Self::new();
        let port = ports::reserve(1).expect("a port for other nodes");
        place.cluster.set_port(port[0].number);
        place.join = join.to_vec();
        place._ports.extend(port);
        place
    }

    /// The place of the node with this number.
    pub(crate) fn numbered(mut self, number: u32) -> Self {
        self.number = Some(number);
        self
    }

    /// The place with another address for other nodes.
    pub(crate) fn at(mut self, cluster: SocketAddr) -> Self {
        self.cluster = cluster;
        self
    }

    /// A place whose data folder another node has left.
    pub(crate) fn with_data(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            ..Self::new()
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// Keeps a configuration file beside the data folder; every later start uses it.
    pub(crate) fn with_config(self, toml: &str) -> Self {
        fs::write(self.config(), toml).expect("the temporary folder can be written");
        self
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("tidewire.toml")
    }

    fn stderr(&self) -> PathBuf {
        self.folder.path().join("stderr")
    }

    /// The command line that serves here.
    pub(crate) fn serve(&self) -> Command {
        let mut serve = tidewire();
        serve.arg("serve").arg("--data").arg(self.data());
        serve.args([
            "--mqtt",
            &self.mqtt.to_string(),
            "--admin",
            &self.admin.to_string(),
            "--cluster",
            &self.cluster.to_string(),
        ]);
        if let Some(number) = self.number {
            serve.args(["--node", &number.to_string()]);
        }
        for member in &self.join {
            serve.args(["--join", &member.to_string()]);
        }
        if self.config().exists() {
            serve.arg("--config").arg(self.config());
        }
        serve
    }

    /// Starts a node and waits until it says that it is ready.
    pub(crate) fn start(&self) -> Node<'_> {
        let mut node = self.spawn();
        node.await_ready();
        node
    }

    /// Starts a node and waits for nothing.
    pub(crate) fn spawn(&self) -> Node<'_> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.stderr())
            .expect("the log can be opened");
        let child = self
            .serve()
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program can be started");
        Node { child, place: self }
    }
}

/// A running node, killed when dropped.
pub(crate) struct Node<'a> {
    child: Child,
    place: &'a Place,
}

impl Node<'_> {
    /// Waits until the node says that it is ready.
    pub(crate) fn await_ready(&mut self) {
        let admin = self.place.admin;
        until("the node to be ready", || {
            self.assert_running();
            matches!(http::get(admin, "/health/ready"), Ok((200, _))).then_some(())
        });
    }

    /// The body of `path` at the admin address.
    pub(crate) fn get(&self, path: &str) -> String {
        match http::get(self.place.admin, path) {
            Ok((200, body)) => body,
            other => panic!("{path}: {other:?}\n{}", self.log()),
        }
    }

    /// The sum of a metric's samples whose line begins with `name`; what was never counted is 0.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.get("/metrics")
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with([' ', '{']))
            })
            .map(|line| {
                line.rsplit(' ')
                    .next()
                    .and_then(|value| value.parse::<f64>().ok())
                    .expect("samples end so")
            })
            .sum()
    }

    /// The files of the telemetry log.
    pub(crate) fn log_segments(&self) -> BTreeSet<PathBuf> {
        files_below(&self.place.data)
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .collect()
    }

    /// What the node wrote to standard error, over all starts in this place.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.place.stderr()).unwrap_or_default()
    }

    /// Ends the process as a power cut would, except that the kernel keeps what it was given.
    pub(crate) fn kill_9(mut self) {
        self.child.kill().expect("the node runs");
        self.child.wait().expect("a killed child can be waited for");
    }

    /// Asks the process to stop and leaves the waiting to [`Node::ended`].
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// Stops the process where it is until [`Node::go_on`].
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    pub(crate) fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        // The shell's own word, since a bare machine may have no `kill` program.
        let script = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh")
            .args(["-c", &script])
            .status()
            .expect("every machine has a shell");
        assert!(status.success(), "{script}: {status}");
    }

    /// Waits until the process has ended.
    pub(crate) fn ended(mut self) -> ExitStatus {
        until("the node to end", || {
            self.child.try_wait().expect("a child can be asked")
        })
    }

    /// Fails with the node's log if it has ended.
    pub(crate) fn assert_running(&mut self) {
        let ended = self.child.try_wait().expect("a child can be asked");
        assert!(
            ended.is_none(),
            "the node ended with {ended:?}:\n{}",
            self.log()
        );
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the node has ended with: {:?}", self.child.try_wait());
            for path in ["/v1/cluster", "/v1/bridge", "/v1/tsdb"] {
                eprintln!("--- {path}: {:?}", http::get(self.place.admin, path));
            }
        }
        // A node that has ended already is what a test that stops it leaves behind.
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().expect("the node runs");
            self.child.wait().expect("a killed child can be waited for");
        }
        if std::thread::panicking() {
            eprintln!("--- the node's log:\n{}", self.log());
        }
    }
}

/// Runs to the end and returns exit code, standard output and standard error.
pub(crate) fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("the program can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Whether anything lies in `folder`.
pub(crate) fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}
