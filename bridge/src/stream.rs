//! Stream rules: which topics are telemetry, and whose.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Greatest number of stream rules of a node.
pub const STREAM_RULES_MAX: usize = 64;

/// Greatest length of a stream's name in bytes.
pub const STREAM_NAME_BYTES_MAX: usize = 64;

/// Greatest length of a device id in bytes. A longer one is not telemetry: `match_topic` finds
/// no stream for it.
pub const DEVICE_ID_BYTES_MAX: usize = 256;

/// Says that messages of a topic pattern are telemetry of the device named in the topic.
///
/// A rule is a part of the configuration file; unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamRule {
    /// Name of the stream, `a-z 0-9 - _ .`, unique on the node.
    #[serde(default = "default_name")]
    pub name: String,
    /// Topic filter with exactly one `+`, which stands for the device id, and no `#`.
    #[serde(default = "default_filter")]
    pub filter: String,
    /// What must have a message before its PUBACK leaves.
    #[serde(default)]
    pub mode: Mode,
}

impl Default for StreamRule {
    fn default() -> Self {
        Self {
            name: default_name(),
            filter: default_filter(),
            mode: Mode::default(),
        }
    }
}

fn default_name() -> String {
    "telemetry".to_owned()
}

fn default_filter() -> String {
    "fleet/+/telemetry".to_owned()
}

/// Says what settles a stream's obligation for a PUBLISH.
///
/// Without Kafka the modes `log` and `disk` are the same: fsynced in this node's embedded log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The log has it: with the embedded log, its fsync.
    #[default]
    Log,
    /// This node's disk has it (group fsync).
    Disk,
}

/// Is the number of a stream rule: its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u16);

/// Says why a set of stream rules is refused; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// More rules than [`STREAM_RULES_MAX`].
    #[error("{0} stream rules exceed the limit of {STREAM_RULES_MAX}")]
    TooMany(usize),
    /// The name is empty, too long, or has other characters than `a-z 0-9 - _ .`.
    #[error(
        "stream name {0:?} must be 1 to {STREAM_NAME_BYTES_MAX} characters of a-z, 0-9, -, _ and ."
    )]
    Name(String),
    /// Two rules have one name.
    #[error("stream name {0:?} is used twice")]
    NameTwice(String),
    /// The filter is not a filter with exactly one `+` and no `#`.
    #[error("stream {name:?}: filter {filter:?} {reason}")]
    Filter {
        /// The stream's name.
        name: String,
        /// Its filter.
        filter: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Is the checked set of a node's stream rules; cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Streams {
    rules: Arc<[Compiled]>,
}

#[derive(Debug)]
struct Compiled {
    rule: StreamRule,
    /// What stands before the device level, with its slash; may be empty.
    before: String,
    /// What stands behind the device level, with its slash; may be empty.
    after: String,
}

impl Streams {
    /// Checks the rules.
    ///
    /// # Errors
    /// Names the first rule that is not acceptable.
    pub fn new(rules: Vec<StreamRule>) -> Result<Self, RuleError> {
        if rules.len() > STREAM_RULES_MAX {
            return Err(RuleError::TooMany(rules.len()));
        }
        let mut compiled: Vec<Compiled> = Vec::with_capacity(rules.len());
        for rule in rules {
            check_name(&rule.name)?;
            if compiled.iter().any(|other| other.rule.name == rule.name) {
                return Err(RuleError::NameTwice(rule.name));
            }
            compiled.push(compile(rule)?);
        }
        Ok(Self {
            rules: compiled.into(),
        })
    }

    /// Is the set without a rule: the node is a plain broker (`--no-telemetry`).
    pub fn none() -> Self {
        Self {
            rules: Arc::new([]),
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

    /// Finds the first rule whose filter matches the topic name, and the device id in it.
    ///
    /// Allocates nothing and walks no levels: two comparisons a rule. Topics that begin with
    /// `$` match no rule whose filter begins with `+` [MQTT-4.7.2-1]. An empty device level and
    /// one longer than [`DEVICE_ID_BYTES_MAX`] match no rule.
    pub fn match_topic<'t>(&self, topic: &'t str) -> Option<(StreamId, &'t str)> {
        self.rules.iter().enumerate().find_map(|(place, compiled)| {
            let device = topic
                .strip_prefix(compiled.before.as_str())?
                .strip_suffix(compiled.after.as_str())?;
            let fits = (1..=DEVICE_ID_BYTES_MAX).contains(&device.len());
            let is_device = fits
                && !device.contains('/')
                && !(compiled.before.is_empty() && device.starts_with('$'));
            is_device.then_some((StreamId(place as u16), device))
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

fn compile(rule: StreamRule) -> Result<Compiled, RuleError> {
    let refuse = |reason| {
        Err(RuleError::Filter {
            name: rule.name.clone(),
            filter: rule.filter.clone(),
            reason,
        })
    };
    if rule.filter.is_empty() || rule.filter.contains('\0') {
        return refuse("is not a topic filter");
    }
    if rule.filter.contains('#') {
        return refuse("must not contain #");
    }
    if rule.filter.starts_with('$') {
        return refuse("must not begin with $");
    }
    let mut parts = rule.filter.split('+');
    let (Some(before), Some(after), None) = (parts.next(), parts.next(), parts.next()) else {
        return refuse("must contain exactly one +, the device id");
    };
    //# [MQTT-4.7.1-2] Where it is used, it MUST occupy an entire level of the filter.
    let alone = (before.is_empty() || before.ends_with('/'))
        && (after.is_empty() || after.starts_with('/'));
    if !alone {
        return refuse("must have + alone in its level");
    }
    Ok(Compiled {
        before: before.to_owned(),
        after: after.to_owned(),
        rule,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(filter: &str) -> StreamRule {
        StreamRule {
            filter: filter.to_owned(),
            ..StreamRule::default()
        }
    }

    fn streams(filter: &str) -> Streams {
        Streams::new(vec![rule(filter)]).expect("the filter is good")
    }

    #[test]
    fn the_default_rule_finds_the_device_in_its_topic() {
        let streams = Streams::new(vec![StreamRule::default()]).expect("the default is good");

        assert_eq!(
            streams.match_topic("fleet/car42/telemetry"),
            Some((StreamId(0), "car42"))
        );
    }

    #[test]
    fn topics_with_another_shape_are_no_telemetry() {
        let streams = streams("fleet/+/telemetry");
        let long = format!("fleet/{}/telemetry", "x".repeat(DEVICE_ID_BYTES_MAX + 1));

        for topic in [
            "fleet/a/b/telemetry",
            "fleet//telemetry",
            "fleet/telemetry",
            "fleet/car42/telemetry/x",
            "x/fleet/car42/telemetry",
            "fleet/car42",
            &long,
        ] {
            assert_eq!(streams.match_topic(topic), None, "{topic}");
        }
    }

    #[test]
    fn a_leading_plus_matches_no_dollar_topic() {
        let streams = streams("+/t");

        assert_eq!(streams.match_topic("$SYS/t"), None);
        assert_eq!(streams.match_topic("car/t"), Some((StreamId(0), "car")));
    }

    #[test]
    fn the_first_of_two_matching_rules_wins() {
        let other = StreamRule {
            name: "b".to_owned(),
            ..rule("fleet/+/telemetry")
        };
        let streams = Streams::new(vec![rule("+/x/telemetry"), other]).expect("both are good");

        assert_eq!(
            streams.match_topic("fleet/x/telemetry"),
            Some((StreamId(0), "fleet"))
        );
        assert_eq!(
            streams.match_topic("fleet/y/telemetry"),
            Some((StreamId(1), "y"))
        );
    }

    #[test]
    fn rules_that_name_no_single_device_level_are_refused() {
        for filter in [
            "fleet/telemetry",
            "fleet/+/+/t",
            "fleet/#",
            "fleet/+/#",
            "",
            "fleet/x+/t",
            "$share/g/+",
        ] {
            let refused = Streams::new(vec![rule(filter)]);

            assert!(
                matches!(refused, Err(RuleError::Filter { .. })),
                "{filter}: {refused:?}"
            );
        }
    }

    #[test]
    fn names_are_short_lower_case_and_unique() {
        let named = |name: &str| StreamRule {
            name: name.to_owned(),
            ..StreamRule::default()
        };

        assert_eq!(
            Streams::new(vec![named("A")]).expect_err("upper case"),
            RuleError::Name("A".to_owned())
        );
        assert_eq!(
            Streams::new(vec![named("a"), named("a")]).expect_err("twice"),
            RuleError::NameTwice("a".to_owned())
        );
    }
}
