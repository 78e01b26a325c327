//! One broker, which is a controller too: its folder, its properties and its process.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Jars;
use crate::ports::random;

/// What a broker logs once its registration is accepted, it is no longer fenced, and its listeners are open.
const STARTED: &str = "Kafka Server started";

/// Lines of a log that an error message quotes.
const TAIL: usize = 8;

/// Where a broker is and listens; its number is Kafka's `node.id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) number: u8,
    pub(super) port: u16,
    pub(super) controller_port: u16,
    dir: PathBuf,
}

/// A started process, and where its part of the log begins.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) log_from: u64,
}

impl Node {
    /// The node `number` of the cluster whose folder is `cluster`.
    pub(super) fn new(cluster: &Path, number: u8, port: u16, controller_port: u16) -> Self {
        Self {
            number,
            port,
            controller_port,
            dir: cluster.join(format!("broker-{number}")),
        }
    }

    pub(super) fn address(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// The file named on the command line, by which the process is known.
    pub(super) fn properties_file(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    /// Makes the folder with the properties in it.
    fn write(&self, all: &[Node], more: &[(&str, &str)]) -> Result<(), String> {
        let file = self.properties_file();
        fs::create_dir_all(&self.dir)
            .and_then(|()| fs::write(&file, self.properties(all, more)))
            .map_err(|error| format!("cannot write {}: {error}", file.display()))
    }

    /// A server's properties: small, quick to start, and overridden by `more`.
    fn properties(&self, all: &[Node], more: &[(&str, &str)]) -> String {
        let host = Ipv4Addr::LOCALHOST;
        let voters: Vec<String> = all
            .iter()
            .map(|node| format!("{}@{host}:{}", node.number, node.controller_port))
            .collect();
        let (replicas, in_sync) = if all.len() < 3 {
            ("1", "1")
        } else {
            ("3", "2")
        };
        let own = [
            ("node.id", self.number.to_string()),
            ("controller.quorum.voters", voters.join(",")),
            (
                "listeners",
                format!(
                    "PLAINTEXT://{host}:{},CONTROLLER://{host}:{}",
                    self.port, self.controller_port
                ),
            ),
            (
                "advertised.listeners",
                format!("PLAINTEXT://{host}:{}", self.port),
            ),
            ("log.dirs", self.dir.join("data").display().to_string()),
        ];
        let common = [
            ("process.roles", "broker,controller"),
            ("controller.listener.names", "CONTROLLER"),
            (
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            ),
            // A test that names a wrong topic must fail.
            ("auto.create.topics.enable", "false"),
            ("num.partitions", "1"),
            ("default.replication.factor", replicas),
            ("min.insync.replicas", in_sync),
            ("offsets.topic.replication.factor", replicas),
            ("transaction.state.log.replication.factor", replicas),
            ("transaction.state.log.min.isr", in_sync),
            ("share.coordinator.state.topic.replication.factor", replicas),
            ("share.coordinator.state.topic.min.isr", in_sync),
            // The default of 50 partitions makes the first consumer wait.
            ("offsets.topic.num.partitions", "3"),
            ("transaction.state.log.num.partitions", "3"),
            ("share.coordinator.state.topic.num.partitions", "3"),
            ("group.initial.rebalance.delay.ms", "0"),
            ("num.network.threads", "2"),
            ("num.io.threads", "4"),
            ("background.threads", "2"),
            ("log.cleaner.threads", "1"),
            // The default is a quarter of the heap.
            ("log.cleaner.dedupe.buffer.size", "8388608"),
        ];
        let mut properties: BTreeMap<&str, &str> = common.into_iter().collect();
        properties.extend(own.iter().map(|(key, value)| (*key, value.as_str())));
        properties.extend(more.iter().copied());
        properties
            .iter()
            .map(|(key, value)| format!("{key}={}\n", value.replace('\\', "\\\\")))
            .collect()
    }

    fn format(&self, jars: &Jars, cluster_id: &str) -> Command {
        let mut format = jars.short_java();
        format
            .args(["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c"])
            .arg(self.properties_file());
        format
    }

    /// Starts the server; it is not ready yet.
    pub(super) fn spawn(&self, jars: &Jars) -> Result<Started, String> {
        let log = self.log();
        let cannot = |error| format!("cannot open {}: {error}", log.display());
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(cannot)?;
        let log_from = file.seek(SeekFrom::End(0)).map_err(cannot)?;
        let errors = file.try_clone().map_err(cannot)?;
        let child = jars
            .java()
            .args([
                "-Xmx512m",
                "-Djava.awt.headless=true",
                "-Dorg.slf4j.simpleLogger.showDateTime=true",
                "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
                "kafka.Kafka",
            ])
            .arg(self.properties_file())
            .stdout(file)
            .stderr(errors)
            // Signals of the terminal are for the tests; whoever started the server ends it.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start java: {error}"))?;
        Ok(Started { child, log_from })
    }

    /// Whether the process whose log begins at `log_from` says that it has started.
    pub(super) fn has_started(&self, log_from: u64) -> Result<bool, String> {
        Ok(self.log_text(log_from)?.contains(STARTED))
    }

    /// The end of the log, for an error message.
    pub(super) fn log_tail(&self, log_from: u64) -> String {
        let text = self.log_text(log_from).unwrap_or_else(|error| error);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        format!("the end of {}:\n{tail}", self.log().display())
    }

    fn log_text(&self, from: u64) -> Result<String, String> {
        let path = self.log();
        let read = || {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().map_err(|error: std::io::Error| format!("cannot read {}: {error}", path.display()))
    }
}

impl Started {
    /// Asks the kernel; an ended process is reaped.
    pub(super) fn is_running(&mut self) -> Result<bool, String> {
        let ended = self.child.try_wait();
        ended
            .map(|status| status.is_none())
            .map_err(|error| format!("cannot wait for process {}: {error}", self.child.id()))
    }
}

/// Writes the properties of all nodes and formats their storage as that of one new cluster.
pub(super) fn prepare(jars: &Jars, nodes: &[Node], more: &[(&str, &str)]) -> Result<(), String> {
    for node in nodes {
        node.write(nodes, more)?;
    }
    let id = cluster_id(random(), random());
    // At once, since most of each second is the start of a Java.
    let formats: Vec<(&Node, std::io::Result<Child>)> = nodes
        .iter()
        .map(|node| {
            let mut format = node.format(jars, &id);
            (
                node,
                format.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn(),
            )
        })
        .collect();
    let mut result = Ok(());
    for (node, format) in formats {
        let output = format.and_then(Child::wait_with_output);
        let formatted = match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!(
                "cannot format the storage of broker {}: {}",
                node.number,
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(error) => Err(format!("cannot run java: {error}")),
        };
        // Each is waited for, even after a failure; the first failure is told.
        result = result.and(formatted);
    }
    result
}

/// 16 bytes in Kafka's spelling of a UUID: base 64 for URLs, without padding and without a leading `-`.
fn cluster_id(high: u64, low: u64) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // Without the highest bit the first digit is one of the first 32.
    let number = (u128::from(high & (u64::MAX >> 1)) << 64) | u128::from(low);
    let mut digits: String = (0..21)
        .map(|place| (number >> (122 - 6 * place)) & 63)
        .map(|digit| DIGITS[digit as usize] as char)
        .collect();
    // The last two bits, filled up to six.
    digits.push(DIGITS[((number & 3) << 4) as usize] as char);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<Node> {
        (1..=3)
            .map(|number| {
                let port = 20_000 + 10 * u16::from(number);
                Node::new(Path::new("/k"), number, port, port + 1)
            })
            .collect()
    }

    fn line<'a>(properties: &'a str, key: &str) -> Vec<&'a str> {
        properties
            .lines()
            .filter_map(|line| line.split_once('='))
            .filter(|(found, _)| *found == key)
            .map(|(_, value)| value)
            .collect()
    }

    #[test]
    fn each_of_three_nodes_knows_all_and_keeps_three_replicas() {
        let nodes = three();

        let properties = nodes[1].properties(&nodes, &[]);

        for (key, value) in [
            ("node.id", "2"),
            (
                "controller.quorum.voters",
                "1@127.0.0.1:20011,2@127.0.0.1:20021,3@127.0.0.1:20031",
            ),
            (
                "listeners",
                "PLAINTEXT://127.0.0.1:20020,CONTROLLER://127.0.0.1:20021",
            ),
            ("log.dirs", "/k/broker-2/data"),
            ("offsets.topic.replication.factor", "3"),
            ("transaction.state.log.min.isr", "2"),
        ] {
            assert_eq!(line(&properties, key), [value], "{key}");
        }
    }

    #[test]
    fn a_lone_node_keeps_one_replica_and_given_properties_win() {
        let nodes = &three()[..1];

        let properties = nodes[0].properties(
            nodes,
            &[
                ("num.partitions", "6"),
                ("broker.session.timeout.ms", "3000"),
                ("num.partitions", "7"),
            ],
        );

        assert_eq!(line(&properties, "offsets.topic.replication.factor"), ["1"]);
        assert_eq!(line(&properties, "num.partitions"), ["7"]);
        assert_eq!(line(&properties, "broker.session.timeout.ms"), ["3000"]);
    }

    #[test]
    fn a_cluster_id_is_base64_of_16_bytes_and_begins_with_a_letter() {
        // base64.urlsafe_b64encode(bytes(range(16))) and that of 7f ff … ff, in Python.
        assert_eq!(
            cluster_id(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f),
            "AAECAwQFBgcICQoLDA0ODw"
        );
        assert_eq!(cluster_id(u64::MAX, u64::MAX), "f____________________w");
    }
}
