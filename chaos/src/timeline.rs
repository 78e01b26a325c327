//! What went through while it happened, twice a second, and its picture.

use std::path::Path;
use std::time::Duration;

use benches::chart::{Band, Lane, Panel, Series, Timeline as Picture};
use serde::Serialize;

use crate::report::FaultRecord;
use crate::workload::Counts;

/// Time between two samples.
pub(crate) const INTERVAL: Duration = Duration::from_millis(500);
/// Samples of a run at most: a day of them.
const SAMPLES_MAX: usize = 200_000;
/// Over how many samples a rate is taken.
const RATE_SAMPLES: usize = 2;
/// Bytes of a MiB.
const MIB: f64 = 1_048_576.0;

/// Is what had gone through at some time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// Seconds since the run began.
    pub(crate) seconds: f64,
    /// What the workload had done.
    pub(crate) acked: u64,
    /// Messages received.
    pub(crate) received: u64,
    /// Connects.
    pub(crate) connects: u64,
    /// Which nodes' processes ran, and did not stand still.
    pub(crate) up: Vec<bool>,
    /// Resident memory of each, in bytes; 0 of one that is away.
    pub(crate) rss_bytes: Vec<u64>,
}

/// Are the samples of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline {
    samples: Vec<Sample>,
    /// When the faults began, in seconds since the run did.
    faults_from: f64,
}

impl Timeline {
    /// Takes a sample, while there is room.
    pub(crate) fn take(
        &mut self,
        seconds: f64,
        counts: &Counts,
        up: Vec<bool>,
        rss_bytes: Vec<u64>,
    ) {
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(Sample {
                seconds,
                acked: counts.acked,
                received: counts.received,
                connects: counts.connects,
                up,
                rss_bytes,
            });
        }
    }

    /// Says when the faults began, in seconds since the run did.
    pub(crate) fn begin_faults(&mut self, seconds: f64) {
        self.faults_from = seconds;
    }

    /// Returns the samples.
    #[must_use]
    pub(crate) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Draws rates, memory, which nodes ran, and the faults.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn draw(
        &self,
        path: &Path,
        title: &str,
        faults: &[FaultRecord],
    ) -> std::io::Result<()> {
        let start = self.samples.first().map_or(0.0, |one| one.seconds);
        let shift = |seconds: f64| seconds - start;
        let rate = |name: &str, of: &dyn Fn(&Sample) -> u64| {
            let pairs = self
                .samples
                .iter()
                .zip(self.samples.iter().skip(RATE_SAMPLES));
            let points = pairs.map(|(then, now)| {
                let per_s = of(now).saturating_sub(of(then)) as f64 / (now.seconds - then.seconds);
                (shift(now.seconds), per_s)
            });
            Series {
                name: name.to_owned(),
                points: points.collect(),
            }
        };
        let nodes = self
            .samples
            .iter()
            .map(|one| one.up.len())
            .max()
            .unwrap_or(0);
        let memory = (0..nodes).map(|at| Series {
            name: format!("{}", at + 1),
            points: self
                .samples
                .iter()
                .map(|one| {
                    let bytes = one.rss_bytes.get(at).copied().unwrap_or(0);
                    (shift(one.seconds), bytes as f64 / MIB)
                })
                .collect(),
        });
        let panels = [
            Panel {
                title: "messages/s".into(),
                series: vec![
                    rate("acknowledged", &|one| one.acked),
                    rate("received", &|one| one.received),
                ],
            },
            Panel {
                title: "connects/s".into(),
                series: vec![rate("all clients", &|one| one.connects)],
            },
            Panel {
                title: "MiB resident, node".into(),
                series: memory.collect(),
            },
        ];
        let lanes = (0..nodes).map(|at| Lane {
            name: format!("node {}", at + 1),
            spans: self
                .up(at)
                .into_iter()
                .map(|(from, to)| (shift(from), shift(to)))
                .collect(),
        });
        let bands = faults.iter().map(|fault| Band {
            from: shift(self.faults_from + fault.begin_s),
            to: shift(self.faults_from + fault.end_s),
        });
        Picture {
            title: title.to_owned(),
            panels: panels.to_vec(),
            bands: bands.collect(),
            lanes: lanes.collect(),
        }
        .write(path)
    }

    /// When the node at this place ran.
    fn up(&self, at: usize) -> Vec<(f64, f64)> {
        let mut spans: Vec<(f64, f64)> = Vec::new();
        let mut was_up = false;
        for sample in &self.samples {
            let is_up = sample.up.get(at).copied().unwrap_or(false);
            match (is_up, was_up, spans.last_mut()) {
                (true, true, Some(span)) => span.1 = sample.seconds,
                (true, ..) => spans.push((sample.seconds, sample.seconds)),
                (false, ..) => {}
            }
            was_up = is_up;
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_up_from_its_start_to_its_end_and_again() {
        let mut timeline = Timeline::default();
        for (second, is_up) in [false, true, true, false, true].into_iter().enumerate() {
            let seconds = second as f64;
            timeline.take(seconds, &Counts::default(), vec![is_up], vec![0]);
        }
        assert_eq!(timeline.up(0), [(1.0, 2.0), (4.0, 4.0)]);
    }
}
