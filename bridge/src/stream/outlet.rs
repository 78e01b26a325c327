//! Where streams go: the topics of Kafka, or the embedded log.

use super::{Mode, RuleError, StreamRule};

/// Longest name of a topic in Kafka, in bytes.
const KAFKA_TOPIC_BYTES_MAX: usize = 249;

/// What the topic of a stream's dead letters ends with, behind the stream's own topic.
pub const DEAD_LETTER_SUFFIX: &str = ".dlq";

/// Greatest length of a stream's Kafka topic in bytes: that of its dead letters must fit too.
pub const TOPIC_BYTES_MAX: usize = KAFKA_TOPIC_BYTES_MAX - DEAD_LETTER_SUFFIX.len();

/// Is one topic that streams go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlet {
    /// The topic in Kafka; without Kafka, that of the first stream, and only a name.
    pub topic: String,
    /// The mode of its streams; without Kafka always [`Mode::Log`], whatever the streams say.
    pub mode: Mode,
    /// Whether this node's store reads it; true of one outlet at most.
    pub store: bool,
}

/// Finds the outlets in the order of their first use, and the place of each rule's own.
pub(super) fn outlets(
    rules: &[StreamRule],
    kafka: bool,
) -> Result<(Vec<Outlet>, Vec<usize>), RuleError> {
    if !kafka {
        rules.iter().try_for_each(check_without_kafka)?;
        let embedded = rules.first().map(|first| Outlet {
            topic: first.kafka_topic(),
            mode: Mode::Log,
            store: true,
        });
        return Ok((Vec::from_iter(embedded), vec![0; rules.len()]));
    }
    let mut outlets: Vec<(Outlet, &StreamRule)> = Vec::new();
    let mut places = Vec::with_capacity(rules.len());
    for rule in rules {
        let topic = rule.kafka_topic();
        check_topic(&rule.name, &topic)?;
        let known = outlets.iter().position(|(other, _)| other.topic == topic);
        if let Some(place) = known {
            check_same(outlets[place].1, rule, topic)?;
            places.push(place);
            continue;
        }
        let outlet = Outlet {
            topic,
            mode: rule.mode,
            store: rule.store,
        };
        for (other, first) in &outlets {
            check_apart((other, first), (&outlet, rule))?;
        }
        places.push(outlets.len());
        outlets.push((outlet, rule));
    }
    Ok((outlets.into_iter().map(|(one, _)| one).collect(), places))
}

fn check_without_kafka(rule: &StreamRule) -> Result<(), RuleError> {
    let setting = if let Some(topic) = &rule.topic {
        format!("topic = {topic:?}")
    } else if rule.mode == Mode::Kafka {
        "mode = \"kafka\"".to_owned()
    } else if !rule.store {
        "store = false".to_owned()
    } else {
        return Ok(());
    };
    Err(RuleError::NeedsKafka {
        name: rule.name.clone(),
        setting,
    })
}

fn check_topic(name: &str, topic: &str) -> Result<(), RuleError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_legal = (1..=TOPIC_BYTES_MAX).contains(&topic.len())
        && topic.bytes().all(allowed)
        && topic != "."
        && topic != "..";
    if is_legal {
        return Ok(());
    }
    Err(RuleError::Topic {
        name: name.to_owned(),
        topic: topic.to_owned(),
    })
}

/// Checks two rules of one topic.
fn check_same(one: &StreamRule, other: &StreamRule, topic: String) -> Result<(), RuleError> {
    let names = (one.name.clone(), other.name.clone());
    if one.mode != other.mode {
        return Err(RuleError::ModesDiffer {
            one: names.0,
            other: names.1,
            topic,
            modes: (one.mode, other.mode),
        });
    }
    if one.store != other.store {
        return Err(RuleError::StoresDiffer {
            one: names.0,
            other: names.1,
            topic,
        });
    }
    Ok(())
}

/// Checks two topics and the first rule of each.
fn check_apart(
    (one, one_rule): (&Outlet, &StreamRule),
    (other, other_rule): (&Outlet, &StreamRule),
) -> Result<(), RuleError> {
    let pairs = [
        ((one, one_rule), (other, other_rule)),
        ((other, other_rule), (one, one_rule)),
    ];
    for ((outlet, rule), (lettered, lettered_rule)) in pairs {
        if collide(&outlet.topic, &dead_letters(&lettered.topic)) {
            return Err(RuleError::DeadLetterTopic {
                name: rule.name.clone(),
                topic: outlet.topic.clone(),
                other: lettered_rule.name.clone(),
            });
        }
    }
    let names = || (one_rule.name.clone(), other_rule.name.clone());
    let topics = || (one.topic.clone(), other.topic.clone());
    if collide(&one.topic, &other.topic) {
        let (one, other) = names();
        return Err(RuleError::TopicsCollide {
            one,
            other,
            topics: topics(),
        });
    }
    if one.store && other.store {
        let (one, other) = names();
        return Err(RuleError::StoreTopics {
            one,
            other,
            topics: topics(),
        });
    }
    Ok(())
}

fn dead_letters(topic: &str) -> String {
    format!("{topic}{DEAD_LETTER_SUFFIX}")
}

/// Kafka's metrics have `_` for `.` in the names of topics; it creates no topic beside another
/// of the same such name.
fn collide(one: &str, other: &str) -> bool {
    one.replace('.', "_") == other.replace('.', "_")
}
