//! One real Kafka for the tests of this crate, from its own jars.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::settings::Settings;

/// Names the folder with Kafka's jars, as the test command does.
const JARS: &str = "TIDEWIRE_TEST_KAFKA_JARS";
/// Looks of a second each at a Kafka that starts.
const LOOKS: u32 = 120;
/// Runs its arguments after the first, which is a folder. A line on its input kills them; its
/// input's end, which is also this process's, kills them and removes the folder.
const KEEPER: &str = r#"dir=$1; shift; "$@" </dev/null & child=$!; word=gone; read word
kill -9 $child; wait $child; [ "$word" = kill ] || rm -rf "$dir""#;

static KAFKA: Mutex<Option<Kafka>> = Mutex::new(None);

/// Is a Kafka of one broker that tests may kill and start.
pub(super) struct Kafka {
    jars: String,
    folder: PathBuf,
    port: u16,
    keeper: Option<Child>,
}

/// Holds the Kafka of all tests for one of them.
pub(super) struct Turn(MutexGuard<'static, Option<Kafka>>);

/// Waits for the running Kafka; none after the test was reported as skipped.
pub(super) fn or_skip() -> Option<Turn> {
    let Ok(jars) = std::env::var(JARS) else {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test").to_owned();
        let reason = format!("no Kafka; name the folder of its jars in {JARS}");
        eprintln!("SKIPPED {test}: {reason}");
        if let Some(path) = std::env::var_os("TIDEWIRE_SKIP_FILE") {
            let file = fs::OpenOptions::new().create(true).append(true).open(path);
            let mut file = file.expect("the skip file can be opened");
            file.write_all(format!("kafka\t{reason}\t{test}\n").as_bytes())
                .expect("the skip file can be written");
        }
        return None;
    };
    let mut held = KAFKA.lock().unwrap_or_else(PoisonError::into_inner);
    let kafka = held.get_or_insert_with(|| Kafka::format(jars));
    if kafka.keeper.is_none() {
        kafka.start();
    }
    Some(Turn(held))
}

impl Turn {
    fn kafka(&mut self) -> &mut Kafka {
        self.0.as_mut().expect("a turn holds one")
    }

    /// Is settings that reach it.
    pub(super) fn settings(&mut self) -> Settings {
        self.kafka().settings()
    }

    /// Kills it with -9 and waits for its end.
    pub(super) fn kill(&mut self) {
        let mut keeper = self.kafka().keeper.take().expect("it runs");
        let input = keeper.stdin.as_mut().expect("its input is a pipe");
        input.write_all(b"kill\n").expect("the keeper reads");
        keeper.wait().expect("the keeper ends");
    }

    /// Starts it again with what it holds, and waits until it answers.
    pub(super) fn start(&mut self) {
        self.kafka().start();
    }
}

impl Kafka {
    fn format(jars: String) -> Self {
        let folder = tempfile::tempdir().expect("a folder").keep();
        let (port, controller) = two_ports();
        let data = folder.join("data");
        let properties = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             log.dirs={}\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=1\n\
             group.initial.rebalance.delay.ms=0\n\
             auto.create.topics.enable=true\n\
             num.partitions=1\n",
            data.display()
        );
        fs::write(folder.join("server.properties"), properties).expect("the folder is ours");
        let kafka = Self {
            jars,
            folder,
            port,
            keeper: None,
        };
        let uuid = kafka
            .java("kafka.tools.StorageTool")
            .arg("random-uuid")
            .output();
        let uuid = uuid.expect("java runs");
        let uuid = String::from_utf8(uuid.stdout).expect("it is text");
        let formatted = kafka
            .java("kafka.tools.StorageTool")
            .args(["format", "-t", uuid.trim(), "-c"])
            .arg(kafka.properties())
            .output()
            .expect("java runs");
        assert!(formatted.status.success(), "{formatted:?}");
        kafka
    }

    fn java(&self, class: &str) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xmx512m", "-cp", &format!("{}/*", self.jars), class]);
        java
    }

    fn properties(&self) -> PathBuf {
        self.folder.join("server.properties")
    }

    fn settings(&self) -> Settings {
        Settings {
            bootstrap: Some(format!("127.0.0.1:{}", self.port)),
            ..Settings::default()
        }
    }

    fn start(&mut self) {
        let log = log_file(&self.folder);
        let java = self.java("kafka.Kafka");
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&self.folder)
            .arg(java.get_program())
            .args(java.get_args())
            .arg(self.properties())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn();
        self.keeper = Some(keeper.expect("sh runs"));
        let client: BaseConsumer = self.settings().client().create().expect("good settings");
        let answers = (0..LOOKS).any(|_| {
            let known = client.fetch_metadata(None, Duration::from_secs(1));
            known.is_ok_and(|known| !known.brokers().is_empty())
        });
        assert!(
            answers,
            "Kafka does not start; its log is in {:?}",
            self.folder
        );
    }
}

fn log_file(folder: &Path) -> fs::File {
    let path = folder.join("server.log");
    let file = fs::OpenOptions::new().create(true).append(true).open(path);
    file.expect("the folder is ours")
}

fn two_ports() -> (u16, u16) {
    let free = || TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let port = |one: &TcpListener| one.local_addr().expect("it is bound").port();
    let (one, other) = (free(), free());
    (port(&one), port(&other))
}
