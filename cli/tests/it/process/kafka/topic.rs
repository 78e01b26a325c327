//! What lies in a topic, read by Kafka's own consumer.

use std::collections::BTreeMap;
use std::process::Stdio;

use serde_json::Value;
use xtask::kafka::Jars;

/// The consumer ends when nothing comes for some seconds; on a busy machine that may be before the end. Then it reads
/// again, so often in all.
const READS_MAX: usize = 5;

/// By key, the metric `n` of each message in the order of its partition.
type Messages = BTreeMap<String, Vec<i64>>;

/// Reads a whole topic, which gets no more messages and should have at least `expected`.
pub(crate) fn read(jars: &Jars, bootstrap: &str, topic: &str, expected: usize) -> Messages {
    let mut messages = Messages::new();
    for _ in 0..READS_MAX {
        messages = read_once(jars, bootstrap, topic);
        if messages.values().map(Vec::len).sum::<usize>() >= expected {
            break;
        }
    }
    messages
}

fn read_once(jars: &Jars, bootstrap: &str, topic: &str) -> Messages {
    let output = jars
        .short_java()
        .arg("org.apache.kafka.tools.consumer.ConsoleConsumer")
        .args(["--bootstrap-server", bootstrap, "--topic", topic])
        .args(["--from-beginning", "--timeout-ms", "8000"])
        .args(["--property", "print.key=true"])
        .stderr(Stdio::null())
        .output()
        .expect("java runs");
    let text = String::from_utf8(output.stdout).expect("keys and payloads are text");
    let mut messages = Messages::new();
    for line in text.lines() {
        let (key, payload) = line.split_once('\t').expect("a key and a payload");
        let payload: Value = serde_json::from_str(payload).expect("the payload is JSON");
        let number = payload["metrics"]["n"].as_i64().expect("a number");
        messages.entry(key.to_owned()).or_default().push(number);
    }
    messages
}
