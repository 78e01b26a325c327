//! How long Kafka itself has no leader for a topic, as its metadata shows.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};

use xtask::skip::python;

/// Asks for metadata again and again, in a process of its own.
pub(crate) struct Leaders {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Leaders {
    /// None where Python has no Kafka client: then nothing is measured.
    pub(crate) fn watch(bootstrap: &str, topic: &str) -> Option<Self> {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/it/process/kafka/leaders.py"
        );
        let mut child = python("kafka", "confluent_kafka")?
            .args([script, bootstrap, topic])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python runs");
        let lines = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let mut leaders = Self { child, lines };
        assert_eq!(leaders.line(), "ready");
        Some(leaders)
    }

    /// Tells it that broker 1 is about to be killed; what comes back waits until all partitions have another leader,
    /// and says after how many seconds.
    pub(crate) fn killed_now(mut self) -> impl FnOnce() -> f64 {
        let mut input = self.child.stdin.take().expect("it is a pipe");
        input.write_all(b"killed\n").expect("it reads");
        move || {
            let seconds = self.line().parse().expect("seconds");
            self.child.wait().expect("it ends by itself");
            seconds
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("it writes lines");
        line.trim().to_owned()
    }
}
