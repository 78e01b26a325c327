//! What a node says of itself while it is measured, and what the kernel says of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::SessionsError;

/// Longest answer of `/metrics` that is read.
const BODY_BYTES_MAX: u64 = 4 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// The metrics of a node at one moment.
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    pub(crate) fn read(admin: SocketAddr) -> Result<Self, SessionsError> {
        let text = get(admin, "/metrics").map_err(|error| {
            let place = format!("http://{admin}/metrics");
            SessionsError::Probe(place, error)
        })?;
        Ok(Self::parse(&text))
    }

    pub(super) fn read_if(is_ours: bool, admin: SocketAddr) -> Result<Option<Self>, SessionsError> {
        is_ours.then(|| Self::read(admin)).transpose()
    }

    fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Self(samples.filter_map(sample).collect())
    }

    /// The samples of a metric with one label, by the label's value.
    pub(crate) fn by_label(&self, name: &str) -> Vec<(String, f64)> {
        let value = |(sample, value): (&String, &f64)| {
            let labels = sample.strip_prefix(name)?.strip_prefix('{')?;
            Some((labels.split('"').nth(1)?.to_owned(), *value))
        };
        self.0.iter().filter_map(value).collect()
    }

    /// 0 where there is no such metric.
    pub(super) fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }
}

fn get(admin: SocketAddr, path: &str) -> Result<String, String> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .build();
    let agent: ureq::Agent = config.into();
    let answer = agent.get(format!("http://{admin}{path}")).call();
    let mut answer = answer.map_err(|error| error.to_string())?;
    let body = answer.body_mut().with_config().limit(BODY_BYTES_MAX);
    body.read_to_string().map_err(|error| error.to_string())
}

/// Waits until the node says that it is ready.
pub(super) fn until_ready(admin: SocketAddr, patience: Duration) -> Result<(), SessionsError> {
    let deadline = Instant::now() + patience;
    loop {
        match get(admin, "/health/ready") {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(SessionsError::Probe("a start".to_owned(), error));
            }
            Err(_) => std::thread::park_timeout(LOOK),
        }
    }
}

/// Lets time pass; other wake-ups do not shorten it.
pub(crate) fn pause(time: Duration) {
    let deadline = Instant::now() + time;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// The most bytes that the process was ever resident with.
pub(super) fn peak_rss_bytes(pid: u32) -> std::io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let bytes = kib.map(|kib| kib << 10);
    bytes.ok_or_else(|| std::io::Error::other("its status has no VmHWM"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_among_help_and_types() {
        let text = "# HELP a Words 7.\n# TYPE a counter\na 12\nb{x=\"y\"} 3\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.get("a"), 12.0);
        assert_eq!(metrics.get("c"), 0.0);
        assert_eq!(metrics.by_label("b"), [("y".to_owned(), 3.0)]);
    }
}
