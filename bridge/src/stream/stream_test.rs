use mqtt::Topic;

use super::*;

fn rule(filter: &str) -> StreamRule {
    StreamRule {
        filter: filter.to_owned(),
        ..StreamRule::default()
    }
}

fn keyed(filter: &str, key: &str) -> StreamRule {
    StreamRule {
        key: key.to_owned(),
        ..rule(filter)
    }
}

/// A rule of Kafka: name and topic.
fn to_topic(name: &str, topic: &str) -> StreamRule {
    StreamRule {
        name: name.to_owned(),
        topic: Some(topic.to_owned()),
        ..StreamRule::default()
    }
}

fn without_store(rule: StreamRule) -> StreamRule {
    StreamRule {
        store: false,
        ..rule
    }
}

fn streams(rule: StreamRule) -> Streams {
    Streams::new(vec![rule], true).expect("the rule is good")
}

/// The text of the refusal.
fn refused(rules: Vec<StreamRule>, kafka: bool) -> String {
    Streams::new(rules, kafka)
        .expect_err("the rules are bad")
        .to_string()
}

#[test]
fn the_default_rule_finds_the_device_in_its_topic() {
    let streams = Streams::new(vec![StreamRule::default()], false).expect("the default is good");

    assert_eq!(
        streams.match_topic("fleet/car42/telemetry", "c"),
        Some((StreamId(0), "car42"))
    );
}

#[test]
fn topics_with_another_shape_are_no_telemetry() {
    let streams = streams(rule("fleet/+/telemetry"));
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
        assert_eq!(streams.match_topic(topic, "c"), None, "{topic}");
    }
}

#[test]
fn a_leading_wildcard_matches_no_dollar_topic() {
    for (filter, key) in [
        ("+/t", "{1}"),
        ("+/t", "{client_id}"),
        ("+/+", "{2}"),
        ("+/#", "{1}"),
        ("#", "{client_id}"),
    ] {
        let streams = streams(keyed(filter, key));

        assert_eq!(streams.match_topic("$SYS/t", "c"), None, "{filter} {key}");
        assert!(
            streams.match_topic("car/t", "c").is_some(),
            "{filter} {key}"
        );
    }
}

#[test]
fn the_first_of_two_matching_rules_wins() {
    let other = StreamRule {
        name: "b".to_owned(),
        ..rule("fleet/+/telemetry")
    };
    let streams = Streams::new(vec![rule("+/x/telemetry"), other], false).expect("both are good");

    assert_eq!(
        streams.match_topic("fleet/x/telemetry", "c"),
        Some((StreamId(0), "fleet"))
    );
    assert_eq!(
        streams.match_topic("fleet/y/telemetry", "c"),
        Some((StreamId(1), "y"))
    );
}

#[test]
fn the_key_names_a_level_the_publisher_or_the_topic() {
    let cases = [
        ("site/+/dev/+/#", "{2}", Some("d9")),
        ("site/+/dev/+/#", "{1}", Some("s1")),
        ("site/#", "{client_id}", Some("gateway/7")),
        ("site/s1/dev/d9/temp", "{client_id}", Some("gateway/7")),
        ("site/s2/#", "{client_id}", None),
    ];
    for (filter, key, device) in cases {
        let streams = streams(keyed(filter, key));

        let found = streams.match_topic("site/s1/dev/d9/temp", "gateway/7");

        assert_eq!(
            found,
            device.map(|device| (StreamId(0), device)),
            "{filter}"
        );
    }
    let whole = streams(without_store(keyed("site/#", "{topic}")));
    assert_eq!(
        whole.match_topic("site/s1", "c"),
        Some((StreamId(0), "site/s1"))
    );
}

#[test]
fn a_rule_whose_key_is_no_device_id_leaves_the_topic_to_the_next() {
    let second = StreamRule {
        name: "second".to_owned(),
        ..keyed("a/#", "{client_id}")
    };
    let streams = Streams::new(vec![keyed("a/+/#", "{1}"), second], false).expect("both are good");
    let long = "x".repeat(DEVICE_ID_BYTES_MAX + 1);

    assert_eq!(streams.match_topic("a//b", "c"), Some((StreamId(1), "c")));
    assert_eq!(
        streams.match_topic(&format!("a/{long}"), "c"),
        Some((StreamId(1), "c"))
    );
    assert_eq!(streams.match_topic("a//b", &long), None);
}

/// All sequences of 1 to `levels` of these levels, joined.
fn joined(alphabet: &[&str], levels: usize) -> Vec<String> {
    let mut all: Vec<String> = alphabet.iter().map(|level| (*level).to_owned()).collect();
    let mut longest = all.clone();
    for _ in 1..levels {
        longest = longest
            .iter()
            .flat_map(|front| alphabet.iter().map(move |level| format!("{front}/{level}")))
            .collect();
        all.extend_from_slice(&longest);
    }
    all
}

#[test]
fn every_small_filter_matches_what_a_subscription_with_it_matches() {
    let topics = joined(&["", "a", "b", "$a"], 4);
    let topics: Vec<Topic> = topics
        .iter()
        .filter_map(|topic| Topic::try_from(topic.as_str()).ok())
        .collect();
    let mut matched = 0;
    for filter in joined(&["", "a", "$a", "+", "#"], 4) {
        let Ok(parsed) = Filter::try_from(filter.as_str()) else {
            continue;
        };
        if filter.starts_with('$') {
            continue;
        }
        let mut pluses: Vec<usize> = Vec::new();
        pluses.extend(
            filter
                .split('/')
                .enumerate()
                .filter_map(|(at, level)| (level == "+").then_some(at)),
        );
        let by_client = streams(keyed(&filter, "{client_id}"));
        let by_level: Vec<Streams> = (1..=pluses.len())
            .map(|nth| streams(keyed(&filter, &format!("{{{nth}}}"))))
            .collect();
        for topic in &topics {
            let matches = parsed.matches(topic);
            matched += usize::from(matches);

            let client = by_client.match_topic(topic, "c");
            assert_eq!(client.is_some(), matches, "{filter} and {topic}");
            for (streams, at) in by_level.iter().zip(&pluses) {
                let level = topic.levels().nth(*at).filter(|level| !level.is_empty());
                let device = level.filter(|_| matches);
                let expected = device.map(|device| (StreamId(0), device));
                let found = streams.match_topic(topic, "c");
                assert_eq!(found, expected, "{filter}, level {at}, and {topic}");
            }
        }
    }
    assert!(matched > 1_000, "{matched}");
}

#[test]
fn filters_that_are_none_are_refused_with_stream_and_value() {
    for (filter, reason) in [
        ("", "empty"),
        ("fleet/x+/t", "MQTT-4.7.1-2"),
        ("fleet/#/t", "MQTT-4.7.1-1"),
        ("a\0/+", "U+0000"),
        ("$share/g/+", "must not begin with $"),
        ("$SYS/+", "must not begin with $"),
    ] {
        let text = refused(vec![rule(filter)], false);

        let value = format!("stream \"telemetry\": filter = {filter:?}");
        assert!(text.starts_with(&value), "{text}");
        assert!(text.contains(reason), "{text}");
    }
}

#[test]
fn keys_that_name_nothing_are_refused_with_stream_and_value() {
    for (key, reason) in [
        ("{3}", "has 2 +"),
        ("", "one placeholder"),
        ("{}", "one placeholder"),
        ("{0}", "one placeholder"),
        ("{01}", "one placeholder"),
        ("{+1}", "one placeholder"),
        ("{device}", "one placeholder"),
        ("1", "one placeholder"),
        ("x{1}", "one placeholder"),
        ("{1}{2}", "one placeholder"),
        ("{99999999999999999999999}", "one placeholder"),
        ("{topic}", "no device id"),
    ] {
        let text = refused(vec![keyed("a/+/+", key)], true);

        let value = format!("stream \"telemetry\": key = {key:?}");
        assert!(text.starts_with(&value), "{text}");
        assert!(text.contains(reason), "{text}");
    }
    let text = refused(vec![rule("fleet/#")], false);
    assert!(text.contains("\"fleet/#\" has 0 +"), "{text}");
}

#[test]
fn topics_that_kafka_would_refuse_are_refused() {
    let long = "x".repeat(TOPIC_BYTES_MAX + 1);
    for topic in ["", ".", "..", "a/b", "a b", "ä", &long] {
        let text = refused(vec![to_topic("a", topic)], true);

        let value = format!("stream \"a\": topic = {topic:?}");
        assert!(text.starts_with(&value), "{text}");
    }
    for topic in ["A", "...", "a-b_c.D9", &long[1..]] {
        streams(to_topic("a", topic));
    }
}

#[test]
fn without_kafka_what_needs_it_is_refused() {
    let mode = StreamRule {
        mode: Mode::Kafka,
        ..StreamRule::default()
    };
    for (rule, setting) in [
        (mode, "mode = \"kafka\""),
        (without_store(StreamRule::default()), "store = false"),
        (to_topic("telemetry", "t"), "topic = \"t\""),
    ] {
        let text = refused(vec![rule.clone()], false);

        let expected =
            format!("stream \"telemetry\": {setting} needs Kafka, and kafka.bootstrap is absent");
        assert_eq!(text, expected);
        streams(rule);
    }
}

#[test]
fn streams_of_one_topic_have_one_mode_and_one_reader() {
    let strict = StreamRule {
        mode: Mode::Kafka,
        ..to_topic("b", "t")
    };

    let modes = refused(vec![to_topic("a", "t"), strict], true);
    let stores = refused(
        vec![to_topic("a", "t"), without_store(to_topic("b", "t"))],
        true,
    );

    let start = "streams \"a\" and \"b\" go to one topic \"t\"";
    assert!(modes.starts_with(start), "{modes}");
    assert!(modes.contains("log and kafka"), "{modes}");
    assert!(stores.starts_with(start), "{stores}");
}

#[test]
fn the_store_reads_one_topic() {
    let text = refused(vec![to_topic("a", "t"), to_topic("b", "u")], true);

    assert!(text.contains("\"a\" and \"b\""), "{text}");
    assert!(text.contains("\"t\" and \"u\""), "{text}");
    assert!(text.contains("store = false"), "{text}");
}

#[test]
fn no_topic_is_that_of_anothers_dead_letters_or_like_another() {
    let letters = |rules| refused(rules, true);
    let [a, b] = ["t", "t.dlq"].map(|topic| without_store(to_topic(topic, topic)));

    for rules in [vec![a.clone(), b.clone()], vec![b, a]] {
        let text = letters(rules);
        assert_eq!(
            text,
            "stream \"t.dlq\": topic = \"t.dlq\" is the topic of the dead letters of stream \"t\""
        );
    }
    let text = letters(vec![
        to_topic("a", "x.y"),
        without_store(to_topic("b", "x_y")),
    ]);
    assert!(text.contains("\"x.y\" and \"x_y\""), "{text}");
}

#[test]
fn outlets_are_the_topics_in_the_order_of_their_first_use() {
    let rules = vec![
        to_topic("a", "t"),
        without_store(to_topic("b", "u")),
        to_topic("c", "t"),
    ];

    let streams = Streams::new(rules, true).expect("all are good");

    let outlet = |topic: &str, store| Outlet {
        topic: topic.to_owned(),
        mode: Mode::Log,
        store,
    };
    assert_eq!(streams.outlets(), [outlet("t", true), outlet("u", false)]);
    let places = [0, 1, 2].map(|stream| streams.outlet_of(StreamId(stream)));
    assert_eq!(places, [0, 1, 0]);
}

#[test]
fn without_kafka_all_streams_go_to_one_outlet() {
    let memory = StreamRule {
        name: "b".to_owned(),
        mode: Mode::Memory,
        ..StreamRule::default()
    };

    let streams = Streams::new(vec![StreamRule::default(), memory], false).expect("both are good");

    let [outlet] = streams.outlets() else {
        panic!("{:?}", streams.outlets());
    };
    assert_eq!(outlet.topic, "tidewire.telemetry");
    assert!(outlet.store);
    assert_eq!(streams.outlet_of(StreamId(1)), 0);
    assert!(Streams::none().outlets().is_empty());
}

#[test]
fn names_are_short_lower_case_and_unique() {
    let named = |name: &str| StreamRule {
        name: name.to_owned(),
        ..StreamRule::default()
    };

    assert_eq!(
        Streams::new(vec![named("A")], false).expect_err("upper case"),
        RuleError::Name("A".to_owned())
    );
    assert_eq!(
        Streams::new(vec![named("a"), named("a")], false).expect_err("twice"),
        RuleError::NameTwice("a".to_owned())
    );
}
