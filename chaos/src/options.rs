//! What `tidewire chaos` was asked to do.

use std::path::PathBuf;
use std::time::Duration;

use crate::Error;

/// Shortest and longest time over which faults are drawn.
pub const DURATION_MIN: Duration = Duration::from_secs(1);
/// See [`DURATION_MIN`].
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Are the options of `tidewire chaos`, under the names of its flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Names of shipped scenarios, or paths of scenario files; empty: all shipped ones.
    pub scenarios: Vec<String>,
    /// Seed of the faults and of the workload; `None`: the scenario's own, else drawn, and printed.
    pub seed: Option<u64>,
    /// How long faults are drawn (`--for`); `None`: the scenario's own.
    pub duration: Option<Duration>,
    /// End with one line of JSON instead of the table.
    pub json: bool,
    /// Folder for the reports, one folder in it for each scenario; `None`: a new temporary one.
    pub out: Option<PathBuf>,
    /// Folder in which the nodes' folders lie; `None`: a temporary one, removed unless something was
    /// found.
    pub data: Option<PathBuf>,
    /// Kafka for the scenarios that need one.
    pub kafka: Option<String>,
    /// Processes of its brokers on this machine, which an outage stops and lets go on.
    pub kafka_pids: Vec<u32>,
    /// Defect that the nodes are told to have; the verdict is reversed then: something must be found.
    pub defect: Option<String>,
    /// Strains of the nodes, as `TIDEWIRE_STRAIN` says them; `None`: those of the environment.
    pub strain: Option<String>,
    /// The program whose `serve` is a node; `None`: the running one.
    pub program: Option<PathBuf>,
    /// The one scenario is run in this process, which is in such a place: how each is run by the
    /// process that runs all of them.
    pub here: Option<Place>,
}

/// Where a scenario's process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a network and with mounts of its own.
    Namespace,
    /// On the machine's loopback.
    Loopback,
}

impl Place {
    /// Returns its word on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Loopback => "loopback",
        }
    }
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let places = [Self::Namespace, Self::Loopback];
        let mut places = places.into_iter();
        places
            .find(|place| place.word() == text)
            .ok_or_else(|| format!("\"{text}\": must be namespace or loopback"))
    }
}

impl Options {
    /// Checks what can be checked before anything is started.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option and its value.
    pub fn validate(&self) -> Result<(), Error> {
        if let Some(duration) = self.duration
            && !(DURATION_MIN..=DURATION_MAX).contains(&duration)
        {
            return Err(Error::Usage(format!(
                "--for {duration:?}: must be {DURATION_MIN:?} to {DURATION_MAX:?}"
            )));
        }
        if self.kafka.is_none() && !self.kafka_pids.is_empty() {
            return Err(Error::Usage(
                "--kafka-pid: of no use without --kafka".to_owned(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_out_of_range_is_named() {
        Options::default().validate().expect("good");
        let short = Options {
            duration: Some(Duration::from_millis(10)),
            ..Options::default()
        };
        let error = short.validate().expect_err("too short").to_string();
        assert!(error.contains("--for 10ms"), "{error}");
        let alone = Options {
            kafka_pids: vec![7],
            ..Options::default()
        };
        assert!(alone.validate().is_err());
    }
}
