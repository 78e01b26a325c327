//! One real Kafka for the tests of this crate. One test at a time has it, since some kill it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use xtask::kafka::{Cluster, Tool};

use super::settings::Settings;

static KAFKA: Mutex<Option<Kafka>> = Mutex::new(None);

struct Kafka {
    cluster: Cluster,
    is_killed: bool,
}

/// Holds the Kafka of all tests for one of them.
pub(super) struct Turn(MutexGuard<'static, Option<Kafka>>);

/// Waits for the running Kafka; none after the test was reported as skipped. It ends with the test
/// process.
pub(super) fn or_skip() -> Option<Turn> {
    let jars = xtask::kafka::or_skip()?;
    let mut held = KAFKA.lock().unwrap_or_else(PoisonError::into_inner);
    let kafka = held.get_or_insert_with(|| {
        // Beside the jars and not a temporary folder: statics are never dropped.
        let folder = jars.libs().with_file_name("test-bridge");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).expect("the folder of an earlier run can go");
        }
        let properties = [
            // As in the field, where asking about a topic may create it.
            ("auto.create.topics.enable", "true"),
            // ACLs exist, and whatever has none is open to everybody.
            (
                "authorizer.class.name",
                "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            ),
            ("allow.everyone.if.no.acl.found", "true"),
            // Half a minute after each start Kafka would delete what is old by its time, as records of
            // tests are.
            ("log.retention.ms", "-1"),
        ];
        let cluster = Cluster::start(&jars, &folder, 1, &properties);
        Kafka {
            cluster: cluster.expect("Kafka starts"),
            is_killed: false,
        }
    });
    // The test before may have failed between a kill and a start.
    kafka.start();
    Some(Turn(held))
}

/// Starts a Kafka of its own that has no coordinator for any group: the topic of their offsets wants more
/// brokers than there are. None after the test was reported as skipped.
pub(super) fn without_coordinators_or_skip() -> Option<Alone> {
    let jars = xtask::kafka::or_skip()?;
    let folder = tempfile::tempdir().expect("a folder");
    let wanted = [("offsets.topic.replication.factor", "3")];
    let cluster = Cluster::start(&jars, folder.path(), 1, &wanted).expect("Kafka starts");
    let settings = Settings {
        bootstrap: Some(cluster.bootstrap()),
        ..Settings::default()
    };
    Some(Alone {
        settings,
        _cluster: cluster,
        _folder: folder,
    })
}

/// Holds a Kafka of one test, which ends with it.
pub(super) struct Alone {
    pub(super) settings: Settings,
    _cluster: Cluster,
    _folder: tempfile::TempDir,
}

impl Kafka {
    fn start(&mut self) {
        if std::mem::take(&mut self.is_killed) {
            self.cluster.restart(1).expect("Kafka starts again");
        }
    }
}

impl Turn {
    fn kafka(&mut self) -> &mut Kafka {
        self.0.as_mut().expect("a turn holds one")
    }

    /// Is settings that reach it.
    pub(super) fn settings(&self) -> Settings {
        let kafka = self.0.as_ref().expect("a turn holds one");
        Settings {
            bootstrap: Some(kafka.cluster.bootstrap()),
            ..Settings::default()
        }
    }

    /// Kills it with -9 and waits for its end.
    pub(super) fn kill(&mut self) {
        let kafka = self.kafka();
        kafka.is_killed = true;
        kafka.cluster.kill(1).expect("it runs");
    }

    /// Starts it again with what it holds, and waits until it answers.
    pub(super) fn start(&mut self) {
        self.kafka().start();
    }

    /// Runs one of Kafka's tools.
    pub(super) fn tool(&self, tool: Tool, arguments: &[&str]) {
        let kafka = self.0.as_ref().expect("a turn holds one");
        let output = kafka.cluster.tool(tool, arguments);
        output.expect("the tool is content");
    }
}
