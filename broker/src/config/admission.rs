//! Who may connect, and how fast.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::admission::{Rates, Shares};

/// Bounds of clients that connect; those that are connected meet none of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admission {
    /// Sockets accepted per second, with a burst of one second; 0: no limit.
    pub connects_per_s: u32,
    /// Sockets accepted per second from one source, an address of IPv4 or a /64 of IPv6, with a burst
    /// of one second; 0: no limit. Behind a load balancer all clients have its address.
    pub connects_per_s_per_source: u32,
    /// Hold sources of loopback to that, too.
    pub limit_loopback_sources: bool,
    /// Sockets whose CONNECT is not answered. One that has not sent it gives way to the next.
    pub handshakes_limit: usize,
    /// CONNECTs that the logs of the sessions' shards are asked for at a time, each shard its part;
    /// further ones wait for at most three quarters of `mqtt.connect_timeout`.
    pub opens_limit: u32,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            connects_per_s: 20_000,
            connects_per_s_per_source: 50,
            limit_loopback_sources: false,
            handshakes_limit: 8_192,
            opens_limit: 512,
        }
    }
}

impl Admission {
    /// Checks what no type can say.
    ///
    /// # Errors
    /// [`ConfigError::Value`] naming key, value and range.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        for (key, limit) in [
            ("handshakes_limit", self.handshakes_limit),
            ("opens_limit", self.opens_limit as usize),
        ] {
            if limit == 0 {
                let text = format!("mqtt.admission.{key} = 0: must be at least 1");
                return Err(ConfigError::Value(text));
            }
        }
        Ok(())
    }

    /// How fast the gate lets sockets in.
    pub(crate) fn rates(&self) -> Rates {
        Rates {
            node_per_s: NonZeroU32::new(self.connects_per_s),
            source_per_s: NonZeroU32::new(self.connects_per_s_per_source),
            counts_loopback: self.limit_loopback_sources,
        }
    }

    /// What each of the io threads may have of those that connect, at least one of each.
    pub(crate) fn shares(&self, threads: usize, shards: u16, connect_timeout: Duration) -> Shares {
        let parts = usize::from(shards) * threads;
        Shares {
            handshakes: self.handshakes_limit.div_ceil(threads),
            opens_of_shard: (self.opens_limit as usize).div_ceil(parts) as u32,
            open_wait_ms: connect_timeout.as_millis() as u64 * 3 / 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_and_shard_has_a_part() {
        let shares = |threads, shards| {
            let timeout = Duration::from_secs(4);
            Admission::default().shares(threads, shards, timeout)
        };
        let usual = Shares {
            handshakes: 4_096,
            opens_of_shard: 8,
            open_wait_ms: 3_000,
        };
        assert_eq!(shares(2, 32), usual);
        assert_eq!(shares(64, 128).opens_of_shard, 1);
    }

    #[test]
    fn a_limit_of_nothing_is_refused_by_its_name() {
        let none = Admission {
            opens_limit: 0,
            ..Admission::default()
        };
        let error = none.validate().expect_err("nobody could connect");
        assert_eq!(
            error.to_string(),
            "mqtt.admission.opens_limit = 0: must be at least 1"
        );
    }
}
