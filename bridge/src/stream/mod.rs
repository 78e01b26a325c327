//! Stream rules: which topics are telemetry, and whose.

mod error;
mod outlet;
mod pattern;
mod rule;
#[cfg(test)]
mod stream_test;

use std::sync::Arc;

pub use error::RuleError;
use mqtt::Filter;
pub use outlet::{DEAD_LETTER_SUFFIX, Outlet, TOPIC_BYTES_MAX};
use pattern::Pattern;
pub use rule::{Class, Mode, PersistentSubscribers, StreamRule};

/// Greatest number of stream rules of a node.
pub const STREAM_RULES_MAX: usize = 64;

/// Greatest length of a stream's name in bytes.
pub const STREAM_NAME_BYTES_MAX: usize = 64;

/// Greatest length of a device id in bytes. A longer one is not telemetry: `match_topic` finds
/// no stream for it.
pub const DEVICE_ID_BYTES_MAX: usize = 256;

/// Is the number of a stream rule: its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u16);

/// Is the checked set of a node's stream rules; cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Streams {
    rules: Arc<[Compiled]>,
    outlets: Arc<[Outlet]>,
}

#[derive(Debug)]
struct Compiled {
    rule: StreamRule,
    filter: Filter,
    pattern: Pattern,
    outlet: usize,
}

impl Streams {
    /// Checks the rules, each alone and all together; `kafka` says whether there is Kafka.
    ///
    /// # Errors
    /// Names the first rule that is not acceptable, the value and the reason.
    pub fn new(rules: Vec<StreamRule>, kafka: bool) -> Result<Self, RuleError> {
        if rules.len() > STREAM_RULES_MAX {
            return Err(RuleError::TooMany(rules.len()));
        }
        let mut patterns = Vec::with_capacity(rules.len());
        for (place, rule) in rules.iter().enumerate() {
            check_name(&rule.name)?;
            if rules[..place].iter().any(|other| other.name == rule.name) {
                return Err(RuleError::NameTwice(rule.name.clone()));
            }
            patterns.push(Pattern::parse(rule)?);
        }
        let (outlets, places) = outlet::outlets(&rules, kafka)?;
        let compiled = rules.into_iter().zip(patterns).zip(places);
        let compiled = compiled.map(|((rule, (filter, pattern)), outlet)| Compiled {
            rule,
            filter,
            pattern,
            outlet,
        });
        Ok(Self {
            rules: compiled.collect(),
            outlets: outlets.into(),
        })
    }

    /// Is the set without a rule: the node is a plain broker (`--no-telemetry`).
    pub fn none() -> Self {
        Self {
            rules: Arc::new([]),
            outlets: Arc::new([]),
        }
    }

    /// Is true when no topic is telemetry.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Is the rule of a stream, if it is one of this set.
    pub fn rule(&self, stream: StreamId) -> Option<&StreamRule> {
        self.rules
            .get(usize::from(stream.0))
            .map(|compiled| &compiled.rule)
    }

    /// Is every rule with its filter, in the order of their numbers.
    pub fn rules(&self) -> impl Iterator<Item = (&StreamRule, &Filter)> {
        self.rules
            .iter()
            .map(|compiled| (&compiled.rule, &compiled.filter))
    }

    /// Is where streams go, in the order of the first stream of each: with Kafka its topics,
    /// without it one, the embedded log. None when there is no rule.
    pub fn outlets(&self) -> &[Outlet] {
        &self.outlets
    }

    /// Is the place in [`Streams::outlets`] of where a stream goes.
    ///
    /// # Panics
    /// If the stream is none of this set.
    pub fn outlet_of(&self, stream: StreamId) -> usize {
        self.rules[usize::from(stream.0)].outlet
    }

    /// Finds the first rule whose filter matches the topic name, and the device id that its key
    /// names, in the topic or from the publisher's client id.
    ///
    /// Allocates nothing; two comparisons a rule with the usual filter (one `+`, which is the
    /// device, and no `#`), a walk of the levels for others. Topics that begin with `$` match no
    /// rule whose filter begins with a wildcard [MQTT-4.7.2-1]. A rule whose device id would be
    /// empty or longer than [`DEVICE_ID_BYTES_MAX`] does not match.
    pub fn match_topic<'t>(
        &self,
        topic: &'t str,
        client_id: &'t str,
    ) -> Option<(StreamId, &'t str)> {
        self.rules.iter().enumerate().find_map(|(place, compiled)| {
            let device = compiled.pattern.device(topic, client_id)?;
            Some((StreamId(place as u16), device))
        })
    }
}

fn check_name(name: &str) -> Result<(), RuleError> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > STREAM_NAME_BYTES_MAX || !name.bytes().all(allowed) {
        return Err(RuleError::Name(name.to_owned()));
    }
    Ok(())
}
