//! More messages than the store is allowed to take, through Kafka: the lag grows and goes again,
//! memory stays, nobody is disconnected.

mod report;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use admin::client::Client;
use admin::tsdb::Status;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::load::usage;
use crate::machine::{self, Machine};
use crate::pipeline::generator::{self, Live, Load, Sent};
use crate::pipeline::node::Node;
use crate::pipeline::{CONNECTIONS_MAX, DURATION_MAX, failed, pause, start_ms};

pub use crate::pipeline::Error;
pub use report::{RSS_GROWTH_BYTES_MAX, Report, Sample};

/// Messages that a device may have unacknowledged.
const WINDOW: u16 = 32;

/// Metrics of a message: few, so that memory and disk are not those of the points.
const METRICS: usize = 4;

/// The node, but for its topic and what the store is held to. The head is sealed every 5 s, long
/// before its limit, so that what memory does after 10 s is not the first head that fills.
const CONFIG: &str = "[telemetry]\nhead_bytes_limit = 16777216\nhead_age_max = \"5s\"\n";

const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// How long the node may take for the first message, which needs the topic.
const CONTACT_DEADLINE: Duration = Duration::from_secs(30);

/// How long the lag may stay beyond the time that the held store needs for it.
const DRAIN_SPARE: Duration = Duration::from_secs(60);

/// Times of the surge's rows begin so long after that of the first message.
const AFTER_CONTACT_MS: i64 = 48 * 3_600_000;

/// Are the options of `tidewire bench surge`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Kafka to go through.
    pub kafka: String,
    /// Devices, each with a connection; 1 to [`CONNECTIONS_MAX`].
    pub devices: u32,
    /// Messages a second of all devices together.
    pub rate_per_s: u32,
    /// How long they send, at most [`DURATION_MAX`].
    pub duration: Duration,
    /// Messages a second that the store is held to, fewer than are sent.
    pub hold_per_s: u32,
    /// Folder in which the node's data lies while it runs; `None`: the system's temporary one.
    pub folder: Option<PathBuf>,
    /// Folder for surge.md, surge.json and surge.png.
    pub out: Option<PathBuf>,
    /// Write one line of JSON instead of the table.
    pub json: bool,
    /// The program whose `serve` is the node; `None`: the running one.
    pub program: Option<PathBuf>,
}

impl Options {
    /// Checks what can be checked before anything is started.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option and its value.
    pub fn validate(&self) -> Result<(), Error> {
        let usage = |text: String| Err(Error::Usage(text));
        if !(1..=CONNECTIONS_MAX).contains(&self.devices) {
            let devices = self.devices;
            return usage(format!(
                "--devices {devices}: must be 1 to {CONNECTIONS_MAX}"
            ));
        }
        if self.duration < SAMPLE_INTERVAL || self.duration > DURATION_MAX {
            return usage(format!(
                "--for {:?}: must be {SAMPLE_INTERVAL:?} to {DURATION_MAX:?}",
                self.duration
            ));
        }
        if self.hold_per_s == 0 || self.hold_per_s >= self.rate_per_s {
            return usage(format!(
                "--hold {}: must be at least 1 and below --rate {}, or nothing piles up",
                self.hold_per_s, self.rate_per_s
            ));
        }
        Ok(())
    }

    /// Messages that pile up if everything is acknowledged as it is sent.
    fn lag_expected(&self) -> f64 {
        f64::from(self.rate_per_s - self.hold_per_s) * self.duration.as_secs_f64()
    }
}

/// Measures, judges, and writes the report to `out`. Blocks; progress goes to standard error. The
/// topic, named `tidewire.bench-…`, stays in Kafka.
///
/// # Errors
/// [`Error`]; its [`Error::exit_code`] is the command's. A limit that is violated is no error but
/// in the report.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<Report, Error> {
    options.validate()?;
    let machine = (Machine::read(), machine::load_average());
    let place = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let folder = place.map_err(failed)?;
    let number: u64 = SmallRng::from_os_rng().random();
    let config = format!(
        "{CONFIG}store_messages_per_s_max = {}\n[[telemetry.streams]]\ntopic = \"tidewire.bench-{number:016x}\"\n",
        options.hold_per_s
    );
    let kafka = Some(options.kafka.as_str());
    let node = Node::start(options.program.as_deref(), folder.path(), kafka, &config)?;
    let client = Client::new(&node.admin.to_string());
    let load = Load {
        connections: options.devices,
        window: WINDOW,
        duration: options.duration,
        start_ms: start_ms() + AFTER_CONTACT_MS,
        rate_per_s: Some(f64::from(options.rate_per_s)),
        metrics: METRICS,
        ..Load::new(node.mqtt)
    };
    first_message(&client, &load)?;
    let (sent, samples, status) = watch(options, load, &client, node.pid())?;
    node.stop()?;
    let report = Report::judge(options, machine, config, &sent, samples, &status);
    let text = if options.json {
        report.to_json() + "\n"
    } else {
        report.to_string()
    };
    out.write_all(text.as_bytes()).map_err(failed)?;
    if let Some(folder) = &options.out {
        report.write(folder)?;
    }
    Ok(report)
}

/// Sends one message and waits until the store has read it: the topic is there then, and read.
fn first_message(client: &Client, load: &Load) -> Result<(), Error> {
    let one = Load {
        connections: 1,
        duration: SAMPLE_INTERVAL,
        start_ms: load.start_ms - AFTER_CONTACT_MS,
        rate_per_s: Some(0.5),
        ..*load
    };
    generator::run(one, &Arc::default(), || Ok(()))?.require_connected()?;
    let deadline = Instant::now() + CONTACT_DEADLINE;
    while client.tsdb().map_err(failed)?.pipeline.processed_messages == 0 {
        if Instant::now() >= deadline {
            return Err(failed(format!(
                "the store has not read the first message within {CONTACT_DEADLINE:?}: is Kafka there?"
            )));
        }
        pause(SAMPLE_INTERVAL / 10);
    }
    Ok(())
}

/// Sends on a thread of its own and looks once a second until everything is read.
fn watch(
    options: &Options,
    load: Load,
    client: &Client,
    pid: u32,
) -> Result<(Sent, Vec<Sample>, Status), Error> {
    let live = Arc::new(Live::default());
    let before = client.tsdb().map_err(failed)?.pipeline.processed_messages;
    let (begin, begun) = std::sync::mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        let sent_live = Arc::clone(&live);
        let sending = scope
            .spawn(move || generator::run(load, &sent_live, || begin.send(()).map_err(failed)));
        let mut samples = Vec::new();
        let mut status = client.tsdb().map_err(failed)?;
        // Nothing comes if it fails before; the join says why.
        if begun.recv().is_ok() {
            let started = Instant::now();
            let drain = options.lag_expected() / f64::from(options.hold_per_s);
            let drain = Duration::from_secs_f64(drain);
            eprintln!(
                "{} devices send {} messages/s for {:?}; the store takes {}/s, then the rest in about {drain:.0?}",
                options.devices, options.rate_per_s, options.duration, options.hold_per_s
            );
            let deadline = started + options.duration + drain + DRAIN_SPARE;
            loop {
                let at = started + SAMPLE_INTERVAL * (samples.len() as u32 + 1);
                pause(at.saturating_duration_since(Instant::now()));
                status = client.tsdb().map_err(failed)?;
                let sample = sample(&status, before, &live, pid, started)?;
                if samples.len().is_multiple_of(10) {
                    eprintln!("{sample}");
                }
                let is_over = sending.is_finished() && sample.lag == 0;
                samples.push(sample);
                if is_over || Instant::now() >= deadline {
                    break;
                }
            }
        }
        let sent = sending
            .join()
            .unwrap_or_else(|_| Err(failed("the sending thread panicked")))?;
        Ok((sent, samples, status))
    })
}

fn sample(
    status: &Status,
    stored_before: u64,
    live: &Live,
    pid: u32,
    started: Instant,
) -> Result<Sample, Error> {
    Ok(Sample {
        seconds: started.elapsed().as_secs_f64(),
        acked: live.acked.load(Ordering::Relaxed),
        stored: status.pipeline.processed_messages - stored_before,
        lag: status.pipeline.lag.values().sum(),
        rss_bytes: usage(pid).map_err(failed)?.rss_bytes,
        disconnected: live.disconnected.load(Ordering::Relaxed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_out_of_range_is_named() {
        let options = Options {
            kafka: "127.0.0.1:9092".into(),
            devices: 2_000,
            rate_per_s: 15_000,
            duration: Duration::from_secs(60),
            hold_per_s: 5_000,
            folder: None,
            out: None,
            json: false,
            program: None,
        };
        options.validate().expect("good");
        assert_eq!(options.lag_expected(), 600_000.0);
        let of = |change: fn(&mut Options)| {
            let mut options = options.clone();
            change(&mut options);
            options.validate().expect_err("refused").to_string()
        };
        assert!(of(|o| o.devices = 0).contains("--devices 0"));
        assert!(of(|o| o.duration = Duration::ZERO).contains("--for"));
        assert!(of(|o| o.hold_per_s = 15_000).contains("--hold 15000"));
    }
}
