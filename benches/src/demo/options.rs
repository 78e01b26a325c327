//! What the demo was asked to do.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Error;

/// Most devices of one demo: each needs a socket of this process and one of the node.
pub const DEVICES_MAX: u32 = 20_000;

/// Most nodes of one demo: it is one machine that they share.
pub const NODES_MAX: u32 = 5;

/// Shortest interval between two messages of a device: time stamps are whole milliseconds and
/// unique within a device.
pub const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Are the options of `tidewire demo`, under the names of its flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Number of nodes, 1 to [`NODES_MAX`]; several are one cluster.
    pub nodes: u32,
    /// Number of simulated devices, 1 to [`DEVICES_MAX`].
    pub devices: u32,
    /// Time between two messages of a device, at least [`INTERVAL_MIN`].
    pub interval: Duration,
    /// How long the fleet publishes (`--for`).
    pub duration: Duration,
    /// Folder of the demo, which must be absent or empty; `None`: a temporary one.
    pub data: Option<PathBuf>,
    /// Seed of the fleet's data and random choices; `None`: drawn and printed.
    pub seed: Option<u64>,
    /// MQTT address of the first node; `None`: a free port on loopback, as the others have.
    pub mqtt: Option<SocketAddr>,
    /// Admin address of the first node; `None`: a free port on loopback, as the others have.
    pub admin: Option<SocketAddr>,
    /// Kafka to go through, in a topic of the run's own, which stays there; `None`: the embedded
    /// log.
    pub kafka: Option<String>,
    /// Kill the node, of several the one that leads meta, with SIGKILL in the middle and start it
    /// again after 5 s.
    pub kill: bool,
    /// Serve on after the check, until Ctrl-C.
    pub keep: bool,
    /// Write one JSON object to the output instead of the table.
    pub json: bool,
    /// The program whose `serve` is a node; `None`: the running one.
    pub program: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 1,
            devices: 200,
            interval: Duration::from_secs(1),
            duration: Duration::from_secs(30),
            data: None,
            seed: None,
            mqtt: None,
            admin: None,
            kafka: None,
            kill: false,
            keep: false,
            json: false,
            program: None,
        }
    }
}

impl Options {
    /// Checks what can be checked before anything is started.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option, its value and what to do.
    pub fn validate(&self) -> Result<(), Error> {
        let usage = |text: String| Err(Error::Usage(text));
        if self.nodes == 0 || self.nodes > NODES_MAX {
            return usage(format!("--nodes {}: must be 1 to {NODES_MAX}", self.nodes));
        }
        if self.kafka.is_some() {
            let settings = bridge::kafka::Settings {
                bootstrap: self.kafka.clone(),
                ..bridge::kafka::Settings::default()
            };
            settings
                .check()
                .map_err(|error| Error::Usage(format!("--kafka: {error}")))?;
        }
        if self.devices == 0 || self.devices > DEVICES_MAX {
            return usage(format!(
                "--devices {}: must be 1 to {DEVICES_MAX}",
                self.devices
            ));
        }
        if self.interval < INTERVAL_MIN {
            return usage(format!(
                "--interval {:?}: must be at least {INTERVAL_MIN:?}",
                self.interval
            ));
        }
        if self.duration < self.interval {
            return usage(format!(
                "--for {:?}: must not be shorter than --interval {:?}",
                self.duration, self.interval
            ));
        }
        Ok(())
    }
}
