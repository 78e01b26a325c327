//! What is compared: cases, the figures shown of each, and the one that is judged.

use std::time::Duration;

use crate::load::Case;

use super::Options;

/// A case of the comparison.
#[derive(Clone, Debug)]
pub(super) struct Measure {
    /// Its word, for `--only`.
    pub word: &'static str,
    /// Heading.
    pub title: String,
    /// What is run.
    pub case: Case,
    /// Figures of the outcome that are shown, and their headings.
    pub columns: &'static [(&'static str, &'static str)],
    /// Figures that are set in relation to mosquitto's.
    pub judged: &'static [Judged],
}

/// A figure that is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Judged {
    /// Name in the outcome.
    pub figure: &'static str,
    /// Words for people.
    pub title: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
    /// First step of Tidewire, as a multiple of mosquitto's.
    pub ratio_goal: Option<f64>,
    /// First step of Tidewire as a bound of the figure itself.
    pub bound: Option<f64>,
}

const fn per_cpu(ratio_goal: f64) -> [Judged; 1] {
    [Judged {
        figure: "messages_per_cpu_s",
        title: "messages per broker CPU second",
        more_is_better: true,
        ratio_goal: Some(ratio_goal),
        bound: None,
    }]
}

const IN_JUDGED: [Judged; 1] = per_cpu(8.0);
const SUBSCRIBER_JUDGED: [Judged; 1] = per_cpu(6.0);
const WAKE_UP_JUDGED: [Judged; 1] = per_cpu(1.2);
const FANOUT_JUDGED: [Judged; 1] = per_cpu(3.0);
const P2P_JUDGED: [Judged; 1] = per_cpu(1.0);

/// No first step is set for it; the goal is 2 000 bytes.
const CONN_SUBSCRIBED_JUDGED: [Judged; 1] = [Judged {
    figure: "rss_bytes_per_connection",
    title: "resident bytes per idle connection",
    more_is_better: false,
    ratio_goal: None,
    bound: None,
}];

const CONN_JUDGED: [Judged; 2] = [
    Judged {
        figure: "rss_bytes_per_connection",
        title: "resident bytes per idle connection",
        more_is_better: false,
        ratio_goal: None,
        bound: Some(2_500.0),
    },
    Judged {
        figure: "connects_per_s",
        title: "connects per second",
        more_is_better: true,
        ratio_goal: Some(0.6),
        bound: None,
    },
];

const OFFLINE_JUDGED: [Judged; 3] = [
    Judged {
        figure: "enqueues_per_s",
        title: "messages queued per second",
        more_is_better: true,
        ratio_goal: None,
        bound: None,
    },
    Judged {
        figure: "drains_per_s",
        title: "messages drained per second",
        more_is_better: true,
        ratio_goal: None,
        bound: None,
    },
    Judged {
        figure: "rss_bytes_per_message",
        title: "resident bytes per queued message",
        more_is_better: false,
        ratio_goal: None,
        bound: None,
    },
];

const STORM_JUDGED: [Judged; 2] = [
    Judged {
        figure: "seconds",
        title: "seconds until all are back",
        more_is_better: false,
        ratio_goal: None,
        bound: None,
    },
    Judged {
        figure: "others_p99_us",
        title: "p99 delivery of the others meanwhile, in us",
        more_is_better: false,
        ratio_goal: None,
        bound: None,
    },
];

const FLOW_COLUMNS: &[(&str, &str)] = &[
    ("messages_per_s", "messages/s"),
    ("cpu_s_per_million", "CPU s per million"),
    ("messages_per_cpu_s", "messages per CPU s"),
    ("ack_p50_us", "PUBACK p50 µs"),
    ("ack_p99_us", "p99 µs"),
    ("delivery_p50_us", "delivery p50 µs"),
    ("delivery_p99_us", "p99 µs"),
    ("rss_bytes", "RSS bytes"),
];

const CONN_COLUMNS: &[(&str, &str)] = &[
    ("connects_per_s", "connects/s"),
    ("connect_p99_us", "p99 µs"),
    ("cpu_us_per_connect", "CPU µs per connect"),
    ("rss_bytes_per_connection", "RSS bytes per connection"),
];

const OFFLINE_COLUMNS: &[(&str, &str)] = &[
    ("enqueues_per_s", "queued/s"),
    ("enqueue_cpu_s_per_million", "CPU s per million"),
    ("rss_bytes_per_message", "RSS bytes per message"),
    ("drains_per_s", "drained/s"),
    ("drain_cpu_s_per_million", "CPU s per million"),
];

const STORM_COLUMNS: &[(&str, &str)] = &[
    ("seconds", "s until all are back"),
    ("connect_p99_us", "their p99 µs"),
    ("calm_p99_us", "others' p99 µs before"),
    ("others_p99_us", "others' p99 µs meanwhile"),
    ("cpu_us_per_reconnect", "CPU µs per reconnect"),
];

/// Returns the cases in their order.
pub(super) fn measures(options: &Options) -> Vec<Measure> {
    let Options {
        publishers,
        subscribers,
        pairs,
        sessions,
        connections,
        storm,
        ..
    } = *options;
    let ingest = |window, subscriber| Case::Ingest {
        publishers,
        window,
        rate_per_s: None,
        subscriber,
    };
    let conn = |subscribe| Case::Conn {
        connections,
        in_flight: 64,
        subscribe,
    };
    let flow = |word, title, case, judged| Measure {
        word,
        title,
        case,
        columns: FLOW_COLUMNS,
        judged,
    };
    vec![
        flow(
            "in",
            format!("QoS 1 in, {publishers} publishers, 16 in flight, no subscriber"),
            ingest(16, false),
            &IN_JUDGED,
        ),
        flow(
            "subscriber",
            format!("The same to one wildcard subscriber, {publishers} publishers"),
            ingest(16, true),
            &SUBSCRIBER_JUDGED,
        ),
        flow(
            "wake-up",
            format!("The same with 1 in flight: one message per wake-up, {publishers} publishers"),
            ingest(1, true),
            &WAKE_UP_JUDGED,
        ),
        flow(
            "fanout",
            format!("Fan-out 1 to {subscribers}, QoS 1"),
            Case::Fanout {
                subscribers,
                window: 8,
                rate_per_s: None,
            },
            &FANOUT_JUDGED,
        ),
        flow(
            "p2p",
            format!("{pairs} pairs, QoS 1, 1 in flight"),
            Case::P2p {
                pairs,
                window: 1,
                rate_per_s: None,
            },
            &P2P_JUDGED,
        ),
        Measure {
            word: "offline",
            title: format!(
                "200 messages for each of {sessions} sessions that are away, then drained"
            ),
            case: Case::Offline {
                sessions,
                messages: 200,
                window: 16,
            },
            columns: OFFLINE_COLUMNS,
            judged: &OFFLINE_JUDGED,
        },
        Measure {
            word: "conn",
            title: format!("{connections} connections, 64 at a time, then idle"),
            case: conn(false),
            columns: CONN_COLUMNS,
            judged: &CONN_JUDGED,
        },
        Measure {
            word: "conn-subscribed",
            title: format!("{connections} connections with a subscription each, then idle"),
            case: conn(true),
            columns: CONN_COLUMNS,
            judged: &CONN_SUBSCRIBED_JUDGED,
        },
        Measure {
            word: "storm",
            title: format!(
                "{storm} sessions reconnect at once, beside 100 pairs at 1000 messages/s"
            ),
            case: Case::Storm {
                sessions: storm,
                jitter: Duration::ZERO,
                pairs: 100,
                rate_per_s: 1_000.0,
            },
            columns: STORM_COLUMNS,
            judged: &STORM_JUDGED,
        },
    ]
}
