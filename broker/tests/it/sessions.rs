//! Takeover, resumption, clean start.

use std::sync::Arc;

use mqtt::{Packet, QoS, ReasonCode, Version};

use crate::harness::{Dial, config, soon, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_connection_is_told_that_its_session_is_taken_over() {
    let node = start(config()).await;
    for (first, second) in [
        (Dial::v5("x"), Dial::v5("x")),
        (Dial::v5("y").persistent(), Dial::v5("y").persistent()),
    ] {
        let (mut old, _) = node.connect(first).await;
        let (mut new, _) = node.connect(second).await;
        assert_eq!(old.disconnected().await, ReasonCode::SessionTakenOver);
        new.ping().await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_takeovers_at_once_one_survives_and_none_hangs() {
    let node = Arc::new(start(config()).await);
    for persistent in [false, true] {
        let mut attempts = Vec::new();
        for _ in 0..50 {
            let node = Arc::clone(&node);
            attempts.push(tokio::spawn(async move {
                let dial = match persistent {
                    true => Dial::v5("wanted").persistent(),
                    false => Dial::v5("wanted"),
                };
                let mut client = node.socket(Version::V5).await;
                client.send(&dial.packet()).await;
                let Packet::ConnAck(connack) = client.packet().await else {
                    panic!("the answer to CONNECT is CONNACK");
                };
                (client, connack.reason)
            }));
        }
        let mut clients = Vec::new();
        for attempt in attempts {
            let (client, reason) = soon("a CONNACK", attempt).await.expect("no panic");
            // Whose CONNECT is read behind that of a later connection does not unseat that one.
            match reason {
                ReasonCode::Success => clients.push(client),
                other => assert_eq!(other, ReasonCode::ServerUnavailable),
            }
        }
        node.until("tidewire_broker_connections_open", |open| open == 1)
            .await;
        let mut survivors = 0;
        for mut client in clients {
            client.raw(&[0xC0, 0]).await;
            match client.packet().await {
                Packet::PingResp => survivors += 1,
                Packet::Disconnect(told) => assert_eq!(told.reason, ReasonCode::SessionTakenOver),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(survivors, 1);
        node.until("tidewire_broker_connections_open", |open| open == 0)
            .await;
    }
    let node = Arc::into_inner(node).expect("the attempts have ended");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_with_what_was_queued_meanwhile() {
    let node = start(config()).await;
    for dial in [
        || Dial::v5("p5").persistent(),
        || Dial::v311("p3").persistent(),
    ] {
        let (mut client, present) = node.connect(dial()).await;
        assert!(!present);
        client.subscribe("q/#", QoS::AtLeastOnce).await;
        client.leave(ReasonCode::Success).await;
        let mut publisher = node.clean("publisher").await;
        for number in 0..20 {
            publisher
                .publish("q/t", QoS::AtLeastOnce, &number.to_string())
                .await;
        }
        let (mut client, present) = node.connect(dial()).await;
        assert!(present);
        for number in 0..20 {
            assert_eq!(client.text().await, number.to_string());
        }
        client.leave(ReasonCode::Success).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_start_ends_the_session_that_was_there() {
    let node = start(config()).await;
    let (mut client, _) = node.connect(Dial::v5("p").persistent()).await;
    client.subscribe("q/#", QoS::AtLeastOnce).await;
    client.leave(ReasonCode::Success).await;
    let mut publisher = node.clean("publisher").await;
    publisher.publish("q/t", QoS::AtLeastOnce, "lost").await;
    let (clean, present) = node.connect(Dial::v5("p")).await;
    assert!(!present);
    clean.leave(ReasonCode::Success).await;
    let (mut again, present) = node.connect(Dial::v5("p").persistent()).await;
    assert!(!present);
    again.ping().await;
    assert_eq!(
        node.until("tidewire_broker_routes", |rows| rows == 0).await,
        0
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_while_it_is_answered_leaves_no_owner_behind() {
    let node = start(config()).await;
    for round in 0..50 {
        let id = format!("cut-{round}");
        let mut client = node.socket(Version::V5).await;
        let dial = Dial::v5(&id).persistent().will("cut/will", false, None);
        client.send(&dial.packet()).await;
        drop(client);
    }
    node.until("tidewire_broker_connections_accepted_total", |n| n == 50)
        .await;
    node.until("tidewire_broker_connections_open", |open| open == 0)
        .await;
    // A session that still had an owner would have to be taken over; here it is just resumed.
    for round in 0..50 {
        let (mut client, _) = node
            .connect(Dial::v5(&format!("cut-{round}")).persistent())
            .await;
        client.ping().await;
    }
    node.stop().await;
}
