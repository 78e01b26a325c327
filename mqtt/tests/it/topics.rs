//! Topic names, filters and client identifiers.

use bytes::Bytes;
use tidewire_mqtt::*;

use crate::bytes_of::{filter, topic};

#[test]
fn mqtt_4_7_0_1_a_topic_name_has_no_wildcards() {
    assert_eq!(Topic::try_from("a/+"), Err(TopicError::Wildcard));
    assert_eq!(Topic::try_from("a#b"), Err(TopicError::Wildcard));
    assert_eq!(&*topic("a//b/"), "a//b/");
}

#[test]
fn mqtt_4_7_3_1_topics_and_filters_are_not_empty() {
    assert_eq!(Topic::try_from(""), Err(TopicError::Empty));
    assert_eq!(Filter::try_from(""), Err(FilterError::Empty));
}

#[test]
fn mqtt_4_7_3_2_topics_and_filters_hold_no_nul() {
    assert_eq!(
        Topic::try_from("a\0"),
        Err(TopicError::Text(TextError::Nul))
    );
    assert_eq!(
        Filter::try_from("a\0"),
        Err(FilterError::Text(TextError::Nul))
    );
}

#[test]
fn mqtt_4_7_3_3_strings_have_at_most_65535_bytes() {
    assert!(Text::parse(Bytes::from(vec![b'a'; 65_535])).is_ok());
    assert_eq!(
        Text::parse(Bytes::from(vec![b'a'; 65_536])),
        Err(TextError::TooLong(65_536))
    );
}

#[test]
fn mqtt_1_5_4_1_ill_formed_utf8_and_surrogates_are_no_text() {
    for bytes in [
        &b"\xC3"[..],
        b"\xED\xA0\x80",
        b"\xC0\x80",
        b"\xF5\x80\x80\x80",
        b"\xFF",
    ] {
        assert_eq!(
            Text::parse(Bytes::copy_from_slice(bytes)),
            Err(TextError::NotUtf8)
        );
    }
}

#[test]
fn mqtt_1_5_4_3_a_byte_order_mark_is_kept() {
    assert_eq!(topic("\u{FEFF}a").as_bytes(), b"\xEF\xBB\xBFa");
}

#[test]
fn the_unchecked_string_is_the_checked_one() {
    for sample in ["", "a", "é/日本", "\u{10FFFF}\u{FEFF}"] {
        let text = Text::try_from(sample).expect("an MQTT string");
        assert_eq!(
            text.as_str(),
            std::str::from_utf8(text.as_bytes()).expect("UTF-8")
        );
        assert_eq!(text.detach().as_str(), sample);
    }
    assert_eq!(Text::default().as_str(), "");
}

#[test]
fn mqtt_4_7_1_1_a_hash_is_alone_in_the_last_level() {
    for bad in ["#/a", "a#", "a/#/b", "##", "#+", "a/b#"] {
        assert_eq!(
            Filter::try_from(bad),
            Err(FilterError::HashMisplaced),
            "{bad}"
        );
    }
    for good in ["#", "a/#", "/#", "+/#"] {
        assert!(Filter::try_from(good).is_ok(), "{good}");
    }
}

#[test]
fn mqtt_4_7_1_2_a_plus_is_alone_in_its_level() {
    for bad in ["a+", "+a", "a/b+/c", "++"] {
        assert_eq!(
            Filter::try_from(bad),
            Err(FilterError::PlusMisplaced),
            "{bad}"
        );
    }
    for good in ["+", "+/+", "/+", "a/+/c"] {
        assert!(Filter::try_from(good).is_ok(), "{good}");
    }
}

#[test]
fn mqtt_4_8_2_1_a_share_name_has_a_character() {
    for bad in ["$share/", "$share//a"] {
        assert_eq!(
            Filter::try_from(bad),
            Err(FilterError::ShareNameEmpty),
            "{bad}"
        );
    }
    assert!(filter("$share").shared().is_none());
}

#[test]
fn mqtt_4_8_2_2_a_share_name_has_no_wildcard_and_a_filter_follows() {
    for bad in [
        "$share/g",
        "$share/g/",
        "$share/+/a",
        "$share/a#/b",
        "$share/g/$share/h/a",
    ] {
        assert_eq!(Filter::try_from(bad), Err(FilterError::ShareName), "{bad}");
    }
    assert_eq!(filter("$share/g/a/+").shared(), Some(("g", "a/+")));
    assert_eq!(filter("a/+").shared(), None);
    assert_eq!(
        Filter::try_from("$share/g/a#"),
        Err(FilterError::HashMisplaced)
    );
}

#[test]
fn a_filter_matches_what_the_standards_examples_say() {
    let cases = [
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        (
            "sport/tennis/player1/#",
            "sport/tennis/player1/score/wimbledon",
            true,
        ),
        ("sport/#", "sport", true),
        ("sport/#", "sports", false),
        ("#", "sport", true),
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("+/monitor/Clients", "$SYS/monitor/Clients", false),
        ("$SYS/#", "$SYS/monitor/Clients", true),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ("#", "$SYS/monitor/Clients", false),
        ("a/+/c", "a/$b/c", true),
        ("$share/g/+/c", "a/c", true),
        ("$share/g/#", "$SYS/x", false),
        ("é", "e\u{301}", false),
        ("a", "A", false),
    ];
    for (pattern, name, expected) in cases {
        assert_eq!(
            filter(pattern).matches(&topic(name)),
            expected,
            "{pattern} {name}"
        );
    }
}

#[test]
fn has_wildcard_looks_behind_the_share_name() {
    assert!(filter("a/+").has_wildcard());
    assert!(filter("$share/g/#").has_wildcard());
    assert!(!filter("$share/g/a").has_wildcard());
}

#[test]
fn levels_are_bounded_so_that_no_walk_exhausts_a_stack() {
    assert!(Topic::try_from("/".repeat(LEVELS_MAX - 1).as_str()).is_ok());
    assert_eq!(
        Topic::try_from("/".repeat(LEVELS_MAX).as_str()),
        Err(TopicError::TooDeep(LEVELS_MAX + 1))
    );
    assert_eq!(
        Filter::try_from("/".repeat(LEVELS_MAX).as_str()),
        Err(FilterError::TooDeep(LEVELS_MAX + 1))
    );
}

#[test]
fn a_client_identifier_is_not_empty() {
    assert_eq!(ClientId::try_from(""), Err(ClientIdError::Empty));
    assert_eq!(
        ClientId::try_from("car42").map(|id| id.to_string()),
        Ok("car42".to_owned())
    );
}

/// All texts of 1 to `levels` of these levels.
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
fn filters_overlap_exactly_when_a_topic_matches_both() {
    // `x` stands for whatever no filter names.
    let topics: Vec<Topic> = joined(&["", "a", "b", "$a", "x"], 4)
        .iter()
        .filter_map(|text| Topic::try_from(text.as_str()).ok())
        .collect();
    let filters: Vec<Filter> = joined(&["", "a", "b", "$a", "+", "#"], 3)
        .iter()
        .filter_map(|text| Filter::try_from(text.as_str()).ok())
        .collect();
    let matched: Vec<Vec<bool>> = filters
        .iter()
        .map(|filter| topics.iter().map(|topic| filter.matches(topic)).collect())
        .collect();

    for (one, ones) in filters.iter().zip(&matched) {
        for (other, others) in filters.iter().zip(&matched) {
            let both = ones.iter().zip(others).any(|(a, b)| *a && *b);

            assert_eq!(one.overlaps(other), both, "{one} and {other}");
        }
    }
}

#[test]
fn a_shared_filter_overlaps_as_what_follows_the_share_name() {
    let shared = filter("$share/g/fleet/+/telemetry");

    assert!(shared.overlaps(&filter("fleet/#")));
    assert!(filter("fleet/#").overlaps(&shared));
    assert!(!shared.overlaps(&filter("cmd/#")));
}
