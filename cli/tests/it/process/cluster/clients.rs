//! Clients, sessions, subscribers and retained messages, asked for through any node.

use admin::retained::RetainedMessages;
use admin::session::{Session, SessionDetails, Sessions};
use admin::sub::Routes;

use super::client::Client;
use super::nodes::{Cluster, NODES, ctl, json};
use crate::process::sessions::DEFAULTS;
use crate::process::wait::until;

/// A client id that must be escaped on its way through a URL.
const AWKWARD: &str = "car-l/ü %41?";
/// The reason Administrative action.
const ADMINISTRATIVE_ACTION: u8 = 0x98;

#[test]
fn any_node_tells_who_is_connected_where_and_what_waits_for_whom() {
    let cluster = Cluster::new(DEFAULTS);
    let nodes = cluster.start();
    let [first, second, third] = cluster.mqtt();
    let mut away = Client::connect(first, "car-away", true);
    away.subscribe("d/+/cmd", 1);
    away.disconnect();
    let mut clean = Client::connect(second, "car-clean", false);
    clean.subscribe("d/7/#", 0);
    let _lasting = Client::connect(third, AWKWARD, true);
    let mut publisher = Client::connect(first, "publisher", false);
    until("the shard to know who is away", || {
        let list: Sessions = json(&nodes, 0, &["session", "list", "--away"]);
        (ids(&list.sessions) == ["car-away"]).then_some(())
    });
    for _ in 0..3 {
        publisher.publish("d/7/cmd", 1, "go");
    }

    for at in 0..NODES {
        let list: Sessions = json(&nodes, at, &["client", "list", "--prefix", "car-"]);
        assert_eq!(
            (ids(&list.sessions), list.next),
            (vec!["car-clean", AWKWARD], None)
        );
        assert_eq!(
            list.sessions.iter().map(|one| one.node).collect::<Vec<_>>(),
            [Some(2), Some(3)]
        );
        let connection = list.sessions[0]
            .connection
            .as_ref()
            .expect("its node answers");
        assert_eq!(
            (connection.protocol.as_str(), connection.subscriptions),
            ("5", 1)
        );
        let list: Sessions = json(&nodes, at, &["client", "list", "--node", "1"]);
        assert_eq!(ids(&list.sessions), ["publisher"]);

        let shown: SessionDetails = json(&nodes, at, &["client", "show", "car-away"]);
        let session = &shown.session;
        assert!(shown.by_leader && !session.connected && session.connection.is_none());
        assert_eq!((session.queue_messages, session.subscriptions), (3, 1));
        assert!(session.expires_in_s.is_some_and(|s| s > 3_000) && shown.oldest_ms.is_some());
        assert_eq!(shown.subscriptions[0].filter, "d/+/cmd");
        let shown: SessionDetails = json(&nodes, at, &["client", "show", AWKWARD]);
        assert_eq!(
            (shown.session.client.as_str(), shown.session.node),
            (AWKWARD, Some(3))
        );
        let shown: SessionDetails = json(&nodes, at, &["session", "show", "car-clean"]);
        assert_eq!(shown.session.node, Some(2));
        assert_eq!(shown.subscriptions[0].filter, "d/7/#");
    }

    let (code, table, error) = ctl(&nodes, 1, &["client", "show", "car-away"]);
    assert_eq!(code, Some(0), "{error}");
    for line in ["state     away for", "3 messages", "\nd/+/cmd "] {
        assert!(table.contains(line), "{line}: {table}");
    }
    let (_, table, _) = ctl(&nodes, 1, &["client", "list", "--prefix", "car-clean"]);
    let row: Vec<&str> = table
        .lines()
        .nth(1)
        .expect("a row")
        .split_whitespace()
        .collect();
    assert_eq!(
        (row[0], row[1], row[3], row[5]),
        ("car-clean", "2", "5", "clean")
    );

    // Page by page, as a script would.
    let page: Sessions = json(&nodes, 1, &["session", "list", "--limit", "2"]);
    assert_eq!(
        (ids(&page.sessions), page.next.as_deref()),
        (vec!["car-away", "car-clean"], Some("car-clean"))
    );
    let page: Sessions = json(
        &nodes,
        1,
        &["session", "list", "--limit", "2", "--after", "car-clean"],
    );
    assert_eq!(
        (ids(&page.sessions), page.next),
        (vec![AWKWARD, "publisher"], None)
    );
    let (code, table, error) = ctl(&nodes, 2, &["session", "list", "--limit", "1"]);
    assert_eq!((code, table.lines().count()), (Some(0), 2), "{table}");
    assert!(error.contains("--after \"car-away\""), "{error}");

    let (code, _, error) = ctl(&nodes, 2, &["client", "show", "nobody"]);
    assert!(
        code == Some(1) && error.contains("no session of client \"nobody\""),
        "{error}"
    );
    let (code, _, error) = ctl(&nodes, 0, &["client", "list", "--node", "9"]);
    assert!(
        code == Some(1) && error.contains("node 9 does not serve"),
        "{error}"
    );
    assert_eq!(
        ctl(&nodes, 0, &["client", "list", "--limit", "0"]).0,
        Some(2)
    );
}

#[test]
fn a_client_is_disconnected_through_any_node_and_its_session_ends_only_if_told_to() {
    let cluster = Cluster::new(DEFAULTS);
    let nodes = cluster.start();
    let [first, second, third] = cluster.mqtt();
    let mut client = Client::connect(second, "car", true);
    client.subscribe("d/#", 1);
    let mut publisher = Client::connect(third, "publisher", false);

    let (code, out, _) = ctl(&nodes, 0, &["client", "kick", "car", "--dry-run"]);
    assert!(
        code == Some(0) && out.contains("would be disconnected from node 2"),
        "{out}"
    );
    client.assert_silent();
    let (code, out, _) = ctl(&nodes, 0, &["client", "kick", "car"]);
    assert!(
        code == Some(0) && out.contains("is disconnected from node 2"),
        "{out}"
    );
    assert_eq!(client.reason_of_end(), ADMINISTRATIVE_ACTION);
    publisher.publish("d/1", 1, "kept");
    let (code, error) = until("the shard to know that it is away", || {
        let (code, _, error) = ctl(&nodes, 2, &["client", "kick", "car"]);
        error.contains("is not connected").then_some((code, error))
    });
    assert_eq!(code, Some(1), "{error}");

    let mut client = Client::connect(first, "car", true);
    assert!(client.is_resumed);
    assert_eq!(client.next().payload, "kept");
    let (code, out, _) = ctl(&nodes, 1, &["client", "kick", "--clean", "car"]);
    assert!(code == Some(0) && out.contains("its session ends"), "{out}");
    assert_eq!(client.reason_of_end(), ADMINISTRATIVE_ACTION);
    until("the session to be gone", || {
        let (code, ..) = ctl(&nodes, 2, &["session", "show", "car"]);
        (code == Some(1)).then_some(())
    });
    assert!(!Client::connect(third, "car", true).is_resumed);
}

#[test]
fn any_node_tells_who_gets_a_topic_and_why_and_what_is_retained() {
    let cluster = Cluster::new(DEFAULTS);
    let nodes = cluster.start();
    let [first, second, third] = cluster.mqtt();
    let mut lasting = Client::connect(first, "lasting", true);
    lasting.subscribe("d/+/cmd", 1);
    lasting.subscribe("d/#", 0);
    let mut clean = Client::connect(second, "clean", false);
    clean.subscribe("d/7/#", 1);
    clean.subscribe("other/#", 1);
    let mut member = Client::connect(third, "member", true);
    member.subscribe("$share/g/d/7/+", 1);
    let mut publisher = Client::connect(third, "publisher", false);
    for topic in ["d/7/cmd", "d/7", "d", "e/ü"] {
        publisher.retain(topic, &format!("of {topic}"));
    }

    for at in 0..NODES {
        let routes: Routes = json(&nodes, at, &["sub", "routes", "d/7/cmd"]);
        assert_eq!(routes.missing, [""; 0]);
        let of_nodes = routes.nodes.iter();
        let clean: Vec<_> = of_nodes
            .flat_map(|of| of.clients.iter().map(|one| (of.node, one.client.as_str())))
            .collect();
        assert_eq!(clean, [(2, "clean")]);
        let sessions = routes.shards.iter().flat_map(|of| &of.sessions);
        let because: Vec<_> = sessions
            .flat_map(|one| {
                one.because
                    .iter()
                    .map(|of| (one.client.as_str(), of.filter.as_str(), of.qos))
            })
            .collect();
        assert_eq!(because, [("lasting", "d/+/cmd", 1), ("lasting", "d/#", 0)]);
        let groups = routes.shards.iter().flat_map(|of| &of.groups);
        let groups: Vec<_> = groups
            .map(|one| (one.filter.as_str(), one.connected, one.members))
            .collect();
        assert_eq!(groups, [("$share/g/d/7/+", 1, 1)]);

        let all: RetainedMessages = json(&nodes, at, &["retained", "list", "d/#"]);
        let topics: Vec<&str> = all.messages.iter().map(|one| one.topic.as_str()).collect();
        assert_eq!((topics, all.next), (vec!["d", "d/7", "d/7/cmd"], None));
        let page: RetainedMessages = json(&nodes, at, &["retained", "list", "#", "--limit", "2"]);
        assert_eq!(page.next.as_deref(), Some("d/7"));
        let page: RetainedMessages = json(&nodes, at, &["retained", "list", "#", "--after", "d/7"]);
        let topics: Vec<&str> = page.messages.iter().map(|one| one.topic.as_str()).collect();
        assert_eq!(topics, ["d/7/cmd", "e/ü"]);
        let (code, out, _) = ctl(&nodes, at, &["retained", "show", "e/ü"]);
        assert!(code == Some(0) && out.ends_with("\nof e/ü\n"), "{out}");
    }

    let (code, out, _) = ctl(&nodes, 0, &["sub", "routes", "d/7/cmd"]);
    assert!(
        code == Some(0) && out.contains("d/+/cmd (QoS 1), d/# (QoS 0)"),
        "{out}"
    );
    let (code, _, error) = ctl(&nodes, 0, &["sub", "routes", "d/+"]);
    assert!(code == Some(2) && error.contains("d/+"), "{error}");
    let (code, _, error) = ctl(&nodes, 0, &["retained", "show", "d/8"]);
    assert!(code == Some(1) && error.contains("d/8"), "{error}");
    assert_eq!(ctl(&nodes, 0, &["retained", "show", "d/#"]).0, Some(2));
}

fn ids(sessions: &[Session]) -> Vec<&str> {
    sessions.iter().map(|one| one.client.as_str()).collect()
}
