//! On what a figure was measured.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Is the machine and the program of a run, as its report names them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Kernel and its version.
    pub kernel: String,
    /// Version of Tidewire.
    pub tidewire: &'static str,
    /// Profile of the build: `release`, or `debug`, whose speeds mean nothing.
    pub profile: &'static str,
    /// When, RFC 3339 in UTC.
    pub date: String,
}

impl Machine {
    /// Reads what the kernel says; what it does not say is `unknown` or 0.
    #[must_use]
    pub fn read() -> Self {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&text("/proc/meminfo"), "MemTotal");
        let memory_kib = memory.and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = now.map_or(0, |now| now.as_millis() as i64);
        let kernel = text("/proc/sys/kernel/osrelease");
        Self {
            cpu: field(&text("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_bytes: memory_kib.unwrap_or(0) << 10,
            kernel: format!("Linux {}", kernel.trim()),
            tidewire: env!("CARGO_PKG_VERSION"),
            profile: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            date: admin::time::format_time(now_ms),
        }
    }
}

/// Returns the machine's load averages over 1, 5 and 15 minutes: what else it has to do; empty when
/// the kernel does not say.
#[must_use]
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().take(3).collect();
    words.join(" ")
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            cores,
            kernel,
            tidewire,
            profile,
            date,
            ..
        } = self;
        let memory_gib = self.memory_bytes as f64 / f64::from(1 << 30);
        write!(
            f,
            "{cpu}, {cores} cores, {memory_gib:.1} GiB, {kernel}; tidewire {tidewire} ({profile}); {date}"
        )
    }
}
