//! What a running demo shows on standard error: a bar on a terminal, else a line now and then.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::fleet::Stats;
use crate::profile::METRICS;

/// Time between two looks at the fleet.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows the progress of a fleet.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    duration: Duration,
    start: Instant,
    last_line: Instant,
    last_tick: Instant,
    last_acknowledged: u64,
    rate: f64,
}

impl Progress {
    pub(super) fn new(duration: Duration) -> Self {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:24} {elapsed} {msg}")
                .expect("the template is well-formed");
            ProgressBar::new(duration.as_millis() as u64).with_style(style)
        });
        Self {
            bar,
            duration,
            start: now,
            last_line: now,
            last_tick: now,
            last_acknowledged: 0,
            rate: 0.0,
        }
    }

    /// Writes a line that stays.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Shows where the fleet is now, and in a line of its own what is to be said of several nodes.
    pub(super) fn tick(&mut self, stats: &Stats, cluster: Option<String>) {
        let now = Instant::now();
        let acknowledged = stats.acknowledged();
        let seconds = (now - self.last_tick).as_secs_f64();
        if seconds > 0.0 {
            let points = (acknowledged - self.last_acknowledged) * METRICS as u64;
            // Smoothed, or a fleet whose devices measure at one moment would flicker.
            self.rate += 0.3 * (points as f64 / seconds - self.rate);
        }
        (self.last_tick, self.last_acknowledged) = (now, acknowledged);
        let elapsed = now - self.start;
        match &self.bar {
            Some(bar) => {
                bar.set_position(elapsed.min(self.duration).as_millis() as u64);
                let cluster = cluster.map_or_else(String::new, |line| format!("\n{line}"));
                bar.set_message(self.line(stats) + &cluster);
            }
            None if now - self.last_line >= LINE_INTERVAL => {
                self.last_line = now;
                eprintln!("{:4.0} s  {}", elapsed.as_secs_f64(), self.line(stats));
                if let Some(line) = cluster {
                    eprintln!("        {line}");
                }
            }
            None => {}
        }
    }

    /// Ends the bar.
    pub(super) fn finish(&self, stats: &Stats) {
        match &self.bar {
            Some(bar) => bar.finish_with_message(self.line(stats)),
            None => eprintln!("done    {}", self.line(stats)),
        }
    }

    fn line(&self, stats: &Stats) -> String {
        let p99 = stats.latencies().quantile(0.99).map_or_else(
            || "-".to_owned(),
            |p99| format!("{:.1} ms", p99.as_secs_f64() * 1e3),
        );
        format!(
            "{} connected, {:.0} points/s, {} points acked, {} messages in flight, {} reconnects, p99 {p99}",
            stats.connected(),
            self.rate,
            stats.acknowledged() * METRICS as u64,
            stats.in_flight(),
            stats.reconnects(),
        )
    }
}
