//! Apache Kafka in KRaft mode from its own jars: for tests, which kill and restart it, and for the laptop.
//!
//! ```no_run
//! use tidewire_xtask::kafka::{self, Cluster};
//!
//! let Some(jars) = kafka::or_skip() else { return };
//! let dir = std::env::temp_dir().join("kafka-example");
//! let mut kafka = Cluster::start(&jars, &dir, 1, &[("broker.session.timeout.ms", "3000")]).unwrap();
//! println!("brokers at {}", kafka.bootstrap());
//! kafka.kill(1).unwrap();
//! kafka.restart(1).unwrap();
//! ```

mod cluster;
mod jars;
pub(crate) mod laptop;
mod node;
mod process;
mod registered;
mod wait;
mod watchdog;

use std::env;
use std::ffi::OsString;
use std::path::Path;

pub use cluster::{Cluster, Tool};
pub use jars::Jars;

use crate::skip::{self, skip};
use crate::target;

/// Says where Kafka's jars are; `cargo xtask test` sets it.
pub(crate) const JARS_VARIABLE: &str = "TIDEWIRE_TEST_KAFKA_JARS";

/// Says why there are none; `cargo xtask test` sets it.
pub(crate) const NO_KAFKA_VARIABLE: &str = "TIDEWIRE_TEST_NO_KAFKA";

/// A running Kafka's bootstrap address, set by the user.
const EXISTING_VARIABLE: &str = "TIDEWIRE_TEST_KAFKA";

/// The group under which tests without Kafka are counted.
const GROUP: &str = "kafka";

/// Returns Kafka's jars for a test: those that `cargo xtask test` names or, under plain `cargo test`, those that it
/// left in the target folder.
///
/// # Errors
/// The reason why this test cannot have a Kafka of its own, fit to be printed as that of a skip.
pub fn for_tests() -> Result<Jars, String> {
    jars(skip::quick(), |name| env::var_os(name), &target::folder())
}

/// [`for_tests`], or `None` after the running test was reported as skipped.
#[must_use]
pub fn or_skip() -> Option<Jars> {
    for_tests().map_err(|reason| skip(GROUP, &reason)).ok()
}

/// The bootstrap address of a Kafka that the user offers to tests (`TIDEWIRE_TEST_KAFKA`); they may neither stop it
/// nor count on its being empty.
#[must_use]
pub fn existing() -> Option<String> {
    env::var(EXISTING_VARIABLE)
        .ok()
        .filter(|bootstrap| !bootstrap.is_empty())
}

fn jars(
    quick: bool,
    variable: impl Fn(&str) -> Option<OsString>,
    target: &Path,
) -> Result<Jars, String> {
    if quick {
        return Err("--quick".to_owned());
    }
    if let Some(libs) = variable(JARS_VARIABLE) {
        return Jars::open(Path::new(&libs));
    }
    if let Some(reason) = variable(NO_KAFKA_VARIABLE) {
        return Err(reason.to_string_lossy().into_owned());
    }
    Jars::open(&Jars::below(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_without_kafka_learns_why() {
        let target = crate::scratch::folder("no-kafka");
        let reason = |quick: bool, set: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| OsString::from(value))
            };
            jars(quick, variable, &target).unwrap_err()
        };

        assert_eq!(reason(true, &[(NO_KAFKA_VARIABLE, "no java")]), "--quick");
        assert_eq!(reason(false, &[(NO_KAFKA_VARIABLE, "no java")]), "no java");
        let named = reason(false, &[(JARS_VARIABLE, "/none"), (NO_KAFKA_VARIABLE, "x")]);
        assert!(named.starts_with("no Kafka in /none;"), "{named}");
        let plain = reason(false, &[]);
        assert!(plain.contains("run `cargo xtask test` once"), "{plain}");
    }
}
