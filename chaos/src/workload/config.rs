//! How many clients of which kind a workload has.

use serde::{Deserialize, Serialize};

/// Is the table `[workload]` of a scenario. Rates are per publisher; [`Config::rate`] multiplies all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Multiplies how often each publisher publishes.
    pub rate: f64,
    /// Bytes of a payload; less than 24 is 24.
    pub payload_bytes: usize,
    /// Messages of QoS 1 and 2 that a publisher has under way at most.
    pub window: usize,
    /// A connection on which an acknowledgement is missing for so many seconds is given up.
    pub give_up_s: u64,
    /// Pairs of a publisher with QoS 1, 20 a second, and a subscriber with a session; every other
    /// subscriber is away now and then.
    pub pairs_qos1: u32,
    /// The same with QoS 2 and 10 a second.
    pub pairs_qos2: u32,
    /// Publishers, 10 a second in turn with QoS 1 and 2, to `fanout_subscribers` sessions each.
    pub fanouts: u32,
    /// See `fanouts`.
    pub fanout_subscribers: u32,
    /// Publishers to four topics each, 10 a second, to sessions with wildcards.
    pub wildcards: u32,
    /// Sessions with four subscriptions asked for at once, some of which are started anew now and then.
    pub multis: u32,
    /// Subscribers whose sessions end with their connections, for four publishers of 10 a second.
    pub cleans: u32,
    /// Writers of four retained topics each, 4 a second; every other has one, moves from node to node,
    /// and publishes some at each.
    pub writers: u32,
    /// Readers of these; every other has a session.
    pub readers: u32,
    /// Clients with wills, each of which comes and goes.
    pub wills: u32,
    /// Client ids that two clients use.
    pub takeovers: u32,
    /// Clients that give a node up within a second and go to another one.
    pub impatients: u32,
    /// Sessions that are started anew now and then, of subscribers and of publishers with QoS 2.
    pub resets: u32,
    /// Shared groups of four members, fed with 20 a second each.
    pub groups: u32,
    /// Clients that subscribe below their own `cmd/<id>/`.
    pub owned: u32,
    /// Clients that subscribe and unsubscribe again and again, all to one topic.
    pub churns: u32,
    /// The same, each to a topic of its own.
    pub lones: u32,
    /// Clients that come back about when their session of two seconds expires.
    pub expiring: u32,
    /// Publishers with QoS 0, 10 a second.
    pub noises: u32,
    /// Sessions whose clients read nothing for some seconds now and then.
    pub slows: u32,
    /// Simulated devices whose telemetry is compared with the store, a message of twenty points a second
    /// each; none without a ledger.
    pub devices: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rate: 1.0,
            payload_bytes: 64,
            window: 16,
            give_up_s: 10,
            pairs_qos1: 30,
            pairs_qos2: 16,
            fanouts: 2,
            fanout_subscribers: 6,
            wildcards: 2,
            multis: 4,
            cleans: 6,
            writers: 3,
            readers: 4,
            wills: 6,
            takeovers: 4,
            impatients: 6,
            resets: 4,
            groups: 3,
            owned: 12,
            churns: 4,
            lones: 3,
            expiring: 6,
            noises: 4,
            slows: 3,
            devices: 20,
        }
    }
}

impl Config {
    /// Returns a workload without any client, to which a test adds what it wants.
    #[must_use]
    pub fn none() -> Self {
        Self {
            pairs_qos1: 0,
            pairs_qos2: 0,
            fanouts: 0,
            fanout_subscribers: 0,
            wildcards: 0,
            multis: 0,
            cleans: 0,
            writers: 0,
            readers: 0,
            wills: 0,
            takeovers: 0,
            impatients: 0,
            resets: 0,
            groups: 0,
            owned: 0,
            churns: 0,
            lones: 0,
            expiring: 0,
            noises: 0,
            slows: 0,
            devices: 0,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_differs_and_an_unknown_key_is_an_error() {
        let config: Config = toml::from_str("pairs_qos1 = 3\nrate = 0.5\n").unwrap();
        let expected = Config {
            pairs_qos1: 3,
            rate: 0.5,
            ..Config::default()
        };
        assert_eq!(config, expected);
        assert!(toml::from_str::<Config>("pears = 3\n").is_err());
    }
}
