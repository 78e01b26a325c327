//! A rule's filter and key, made ready to be matched with topics.

use mqtt::{Filter, Text};

use super::{DEVICE_ID_BYTES_MAX, RuleError, StreamRule};

/// Is what a topic is matched with, and where the device id is.
#[derive(Debug)]
pub(super) enum Pattern {
    /// The usual shape: one `+`, which is the device id, and no `#`.
    Device {
        /// What stands before the device level, with its slash; may be empty.
        before: Box<str>,
        /// What stands behind the device level, with its slash; may be empty.
        after: Box<str>,
    },
    /// Any other.
    Levels {
        levels: Box<[Level]>,
        /// A `#` follows the levels.
        open: bool,
        key: Key,
    },
}

#[derive(Debug)]
pub(super) enum Level {
    /// This very level.
    Is(Box<str>),
    /// `+`
    Any,
}

/// Says what the device id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// The level that the n-th `+` stands for, counted from 0.
    Level(usize),
    Topic,
    ClientId,
}

impl Pattern {
    /// Checks a rule's filter and key.
    pub(super) fn parse(rule: &StreamRule) -> Result<(Filter, Self), RuleError> {
        let filter = parse_filter(rule)?;
        let open = filter.split('/').next_back() == Some("#");
        let count = filter.split('/').count() - usize::from(open);
        let levels: Box<[Level]> = filter.split('/').take(count).map(Level::of).collect();
        let pluses = levels.iter().filter(|level| level.is_any()).count();
        let key = parse_key(rule, pluses)?;
        let pattern = match filter.split_once('+') {
            Some((before, after)) if pluses == 1 && !open && key == Key::Level(0) => Self::Device {
                before: before.into(),
                after: after.into(),
            },
            _ => Self::Levels { levels, open, key },
        };
        Ok((filter, pattern))
    }

    /// The device id, if the topic is one of the filter's and the id is one that a device can
    /// have.
    pub(super) fn device<'t>(&self, topic: &'t str, client_id: &'t str) -> Option<&'t str> {
        let device = match self {
            Self::Device { before, after } => device_level(before, after, topic)?,
            Self::Levels { levels, open, key } => {
                let wanted = match key {
                    Key::Level(nth) => Some(*nth),
                    Key::Topic | Key::ClientId => None,
                };
                let level = matching(levels, *open, wanted, topic)?;
                match key {
                    Key::Level(_) => level,
                    Key::Topic => topic,
                    Key::ClientId => client_id,
                }
            }
        };
        (1..=DEVICE_ID_BYTES_MAX)
            .contains(&device.len())
            .then_some(device)
    }
}

impl Level {
    fn of(level: &str) -> Self {
        match level {
            "+" => Self::Any,
            other => Self::Is(other.into()),
        }
    }

    fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }
}

/// Two comparisons, no walk.
fn device_level<'t>(before: &str, after: &str, topic: &'t str) -> Option<&'t str> {
    let device = topic.strip_prefix(before)?.strip_suffix(after)?;
    let is_hidden = before.is_empty() && device.starts_with('$');
    (!is_hidden && !device.contains('/')).then_some(device)
}

/// Walks the levels; `Some` if they match, with the level of the wanted `+` (empty without one).
fn matching<'t>(
    levels: &[Level],
    open: bool,
    mut wanted: Option<usize>,
    topic: &'t str,
) -> Option<&'t str> {
    //# [MQTT-4.7.2-1] ... MUST NOT match Topic Filters starting with a wildcard character
    if topic.starts_with('$') && levels.first().is_none_or(Level::is_any) {
        return None;
    }
    let mut found = "";
    let mut rest = topic.split('/');
    for level in levels {
        let is = rest.next()?;
        match level {
            Level::Is(literal) if **literal == *is => {}
            Level::Is(_) => return None,
            Level::Any => {
                if wanted == Some(0) {
                    found = is;
                }
                wanted = wanted.and_then(|nth| nth.checked_sub(1));
            }
        }
    }
    (open || rest.next().is_none()).then_some(found)
}

fn parse_filter(rule: &StreamRule) -> Result<Filter, RuleError> {
    let refuse = |reason: String| RuleError::Filter {
        name: rule.name.clone(),
        filter: rule.filter.clone(),
        reason,
    };
    if rule.filter.starts_with('$') {
        return Err(refuse(
            "must not begin with $: such topics are the broker's, and a stream is no subscription"
                .to_owned(),
        ));
    }
    let text = Text::try_from(rule.filter.as_str()).map_err(|error| refuse(error.to_string()))?;
    Filter::parse(text).map_err(|error| refuse(error.to_string()))
}

fn parse_key(rule: &StreamRule, pluses: usize) -> Result<Key, RuleError> {
    let refuse = |reason: String| {
        Err(RuleError::Key {
            name: rule.name.clone(),
            key: rule.key.clone(),
            reason,
        })
    };
    match rule.key.as_str() {
        "{topic}" if rule.store => {
            return refuse(
                "is no device id: a stream with store = true needs {client_id} or a + of its \
                 filter, such as {1}"
                    .to_owned(),
            );
        }
        "{topic}" => return Ok(Key::Topic),
        "{client_id}" => return Ok(Key::ClientId),
        _ => {}
    }
    let number = rule
        .key
        .strip_prefix('{')
        .and_then(|key| key.strip_suffix('}'))
        .filter(|key| key.bytes().all(|byte| byte.is_ascii_digit()) && !key.starts_with('0'))
        .and_then(|key| key.parse::<usize>().ok());
    match number {
        None => refuse(
            "must be one placeholder and nothing else: {client_id}, {topic}, or {1}, {2} … for \
             the first, second … + of the filter"
                .to_owned(),
        ),
        Some(number) if number > pluses => refuse(format!(
            "names nothing: filter = {:?} has {pluses} +",
            rule.filter
        )),
        Some(number) => Ok(Key::Level(number - 1)),
    }
}
