//! Back-pressure: nobody's slowness or haste harms anybody else.

use mqtt::{Packet, PacketId, QoS, ReasonCode, Version};
use runtime::ManualClock;
use tidewire_broker::Config;

use crate::harness::{Dial, TestNode, ack, config, publish, start, start_at};

const TELEMETRY: &str = "fleet/car1/telemetry";

fn numbered(id: u16, topic: &str, qos: QoS, payload: &str) -> Packet {
    let mut publish = publish(topic, qos, payload);
    publish.packet_id = PacketId::new(id);
    Packet::Publish(publish)
}

fn sample(number: u16) -> String {
    format!(
        r#"{{"ts":{},"metrics":{{"m":1}}}}"#,
        1_800_000_000_000_u64 + u64::from(number)
    )
}

/// A small log, which is soon full: nothing is sealed, so nothing leaves it.
fn small_log() -> Config {
    let mut config = config();
    config.no_telemetry = false;
    config.telemetry.log.segment_bytes = 64 << 10;
    config.telemetry.log.log_bytes_limit = 128 << 10;
    config
}

/// Publishes telemetry that does not shrink until the log refuses some.
async fn fill(node: &TestNode) {
    let (mut client, _) = node.connect(Dial::v311("filler")).await;
    let mut random = 1_u64;
    let mut id = 0;
    while node
        .metric("tidewire_telemetry_refused_batches_total")
        .await
        == 0
    {
        let mut text = String::new();
        for _ in 0..1_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            text.push_str(&format!("{random:x}"));
        }
        id += 1;
        client
            .send(&numbered(id, TELEMETRY, QoS::AtLeastOnce, &text))
            .await;
        client.send(&Packet::PingReq).await;
        while client.packet().await != Packet::PingResp {}
    }
    // It goes on owning what it is owed.
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_3_1_1_client_beyond_the_window_is_answered_in_order_and_keeps_its_pings() {
    let mut config = config();
    config.no_telemetry = false;
    config.mqtt.receive_maximum = 4;
    config.mqtt.stash_bytes_limit = 1_000;
    let node = start(config).await;
    let (mut client, _) = node.connect(Dial::v311("haste")).await;
    let mut packets: Vec<Packet> = (1..=300)
        .map(|id| numbered(id, TELEMETRY, QoS::AtLeastOnce, &sample(id)))
        .collect();
    packets.push(Packet::PingReq);
    let bytes = client.encode(&packets);
    client.raw(&bytes).await;
    let mut acknowledged = Vec::new();
    let mut pings = 0;
    while acknowledged.len() < 300 || pings == 0 {
        match client.packet().await {
            Packet::PubAck(ack) => acknowledged.push(ack.packet_id.get()),
            Packet::PingResp => pings += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(acknowledged, (1..=300).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_stash_does_not_wait_for_a_pubrel_behind_it() {
    let mut config = config();
    config.mqtt.receive_maximum = 4;
    config.mqtt.stash_bytes_limit = 1_000;
    let node = start(config).await;
    for dial in [Dial::v311("c"), Dial::v311("p").persistent()] {
        let (mut client, _) = node.connect(dial).await;
        let mut packets: Vec<Packet> = (1..=100)
            .map(|id| numbered(id, "t", QoS::ExactlyOnce, "x"))
            .collect();
        packets.extend((1..=100).map(|id| Packet::PubRel(ack(PacketId::new(id).expect("not 0")))));
        let publishes = client.encode(&packets[..100]);
        client.raw(&publishes).await;
        let (mut received, mut complete) = (0, 0);
        while received < 100 {
            let packet = client.packet().await;
            assert!(matches!(packet, Packet::PubRec(_)), "{packet:?}");
            received += 1;
        }
        let releases = client.encode(&packets[100..]);
        client.raw(&releases).await;
        while complete < 100 {
            let packet = client.packet().await;
            assert!(matches!(packet, Packet::PubComp(_)), "{packet:?}");
            complete += 1;
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_mqtt_5_client_beyond_receive_maximum_is_disconnected() {
    let mut config = small_log();
    config.mqtt.receive_maximum = 4;
    let node = start(config).await;
    fill(&node).await;
    let mut client = node.clean("haste").await;
    let mut packets = Vec::new();
    for id in 1..=20 {
        packets.push(numbered(id, TELEMETRY, QoS::AtLeastOnce, &sample(id)));
    }
    let bytes = client.encode(&packets);
    client.raw(&bytes).await;
    assert_eq!(
        client.disconnected().await,
        ReasonCode::ReceiveMaximumExceeded
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_room_withholds_pubacks_and_nothing_else() {
    let clock = ManualClock::at(1_800_000_000_000);
    let mut config = small_log();
    // One thread: everything stands behind the batch that the log refused. On another thread a
    // message small enough for what room is left would be taken, and rightly so.
    config.io_threads = 1;
    let node = start_at(config, &clock).await;
    let mut subscriber = node.clean("s").await;
    subscriber.subscribe("other/#", QoS::AtLeastOnce).await;
    let mut client = node.clean("c").await;
    fill(&node).await;
    for id in 1..=10 {
        client
            .send(&numbered(id, TELEMETRY, QoS::AtLeastOnce, &sample(id)))
            .await;
        client.ping().await;
    }
    // Telemetry of QoS 0 is dropped and counted, other topics go on.
    let mut other = node.clean("o").await;
    for _ in 0..20 {
        other.publish(TELEMETRY, QoS::AtMostOnce, &sample(1)).await;
        client.publish(TELEMETRY, QoS::AtMostOnce, &sample(1)).await;
    }
    node.until("tidewire_broker_telemetry_qos0_dropped_total", |n| n >= 20)
        .await;
    other.publish("other/t", QoS::AtLeastOnce, "goes on").await;
    assert_eq!(subscriber.text().await, "goes on");
    client.ping().await;
    clock.advance_ms(31_000);
    assert_eq!(client.disconnected().await, ReasonCode::ServerBusy);
    other.ping().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_withheld_message_nothing_of_its_connection_is_taken() {
    const WITHHELD: &str = "tidewire_broker_telemetry_withheld_total";
    const ACCEPTED: &str = "tidewire_telemetry_accepted_messages_total";
    let clock = ManualClock::at(1_800_000_000_000);
    let mut config = small_log();
    config.io_threads = 1;
    config.telemetry.inflight_bytes_limit = 2_000;
    // It sends on, however slow the disk is.
    config.mqtt.receive_maximum = 10_000;
    config.telemetry.head_age_max = std::time::Duration::from_secs(5);
    // The clock runs ahead below for as long as the disk takes: the client is to stay all the same.
    config.mqtt.settle_deadline = std::time::Duration::from_secs(1 << 20);
    config.telemetry.log.read_retention_bytes = 0;
    let node = start_at(config, &clock).await;
    let mut client = node.clean("c").await;
    fill(&node).await;
    let mut id = 0;
    while node.metric(WITHHELD).await == 0 {
        id += 1;
        client
            .send(&numbered(id, TELEMETRY, QoS::AtLeastOnce, &sample(id)))
            .await;
        // Some are acknowledged, as long as the log has a little room.
        client.send(&Packet::PingReq).await;
        while client.packet().await != Packet::PingResp {}
    }

    // The store seals, so the log has room again, and takes what waited.
    let accepted = node.metric(ACCEPTED).await;
    let sealing = async {
        // Rows age from when the store has read them, which waits for their bucket's entry in meta.
        while node.metric(ACCEPTED).await <= accepted {
            clock.advance_ms(1_000);
        }
    };
    crate::harness::soon("the log to take what waited", sealing).await;
    let mut other = node.clean("o").await;
    other.publish(TELEMETRY, QoS::AtLeastOnce, &sample(1)).await;
    let before = node.metric(WITHHELD).await;
    client
        .send(&numbered(
            id + 1,
            TELEMETRY,
            QoS::AtLeastOnce,
            &sample(id + 1),
        ))
        .await;

    // Taken, it would overtake the one before it.
    node.until(WITHHELD, |n| n == before + 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_does_not_read_loses_its_own_messages_only() {
    let node = start(config()).await;
    let mut deaf = Vec::new();
    for id in ["d1", "d2"] {
        let mut client = node.clean(id).await;
        client.subscribe("flood/#", QoS::AtMostOnce).await;
        deaf.push(client);
    }
    let mut attentive = node.clean("a").await;
    attentive.subscribe("flood/#", QoS::AtLeastOnce).await;
    let mut publisher = node.clean("p").await;
    let payload = "x".repeat(60_000);
    for number in 0..400 {
        publisher
            .publish("flood/t", QoS::AtLeastOnce, &format!("{number} {payload}"))
            .await;
        let text = attentive.text().await;
        assert_eq!(text.split(' ').next(), Some(number.to_string().as_str()));
    }
    // 24 MB were sent to each; what the kernel and a queue of 1 MiB do not hold is dropped.
    node.until("tidewire_broker_queue_dropped_full_total", |n| n > 0)
        .await;
    publisher.ping().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_no_answers_is_not_read_for_ever() {
    let node = start(config()).await;
    let mut client = node.narrow_socket(Version::V5).await;
    client.send(&Dial::v5("c").packet()).await;
    client.connack().await;
    let pings = [0xC0, 0].repeat(32 << 10);
    let flood = async {
        loop {
            client.raw(&pings).await;
        }
    };
    // The answers fill the kernel's buffers and then ours; then the node stops reading, and what
    // the client sends stops too. Half a second without progress is what "stops" means here: a
    // node that goes on reading never makes the client wait.
    let mut flood = Box::pin(flood);
    let mut before = u64::MAX;
    loop {
        let step = tokio::time::timeout(std::time::Duration::from_millis(500), &mut flood).await;
        assert!(step.is_err());
        let now = node.metric("tidewire_broker_received_bytes_total").await;
        if now == before {
            break;
        }
        assert!(
            now < 256 << 20,
            "{now} bytes were read of a client that reads nothing"
        );
        before = now;
    }
    drop(flood);
    drop(client);
    node.clean("other").await.ping().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_wait_in_their_sockets_while_messages_to_sessions_fill_their_room() {
    const PUBLISHERS: u16 = 12;
    const WINDOW: u16 = 32;
    let mut config = config();
    // Room for 4 MiB under way; the publishers have 18 MiB to send at once.
    config.memory_bytes_limit = Some(16 << 20);
    config.mqtt.queue_bytes_limit = 64 << 20;
    let node = start(config).await;
    let dial = || Dial::v5("door").persistent();
    let (mut door, _) = node.connect(dial()).await;
    door.subscribe("flood/#", QoS::AtLeastOnce).await;
    door.leave(ReasonCode::Success).await;
    let mut listener = node.clean("listener").await;

    let mut floods = tokio::task::JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let mut client = node.clean(&format!("p{publisher}")).await;
        floods.spawn(async move {
            let text = |id| format!("{publisher} {id} {}", "x".repeat(48 << 10));
            let all = (1..=WINDOW).map(|id| numbered(id, "flood/t", QoS::AtLeastOnce, &text(id)));
            let bytes = client.encode(&all.collect::<Vec<_>>());
            client.raw(&bytes).await;
            for id in 1..=WINDOW {
                let Packet::PubAck(ack) = client.packet().await else {
                    panic!("only acknowledgements were asked for");
                };
                assert_eq!(ack.packet_id.get(), id);
            }
            client
        });
    }
    // Who publishes nothing is served meanwhile.
    let mut most = 0;
    while node.metric("tidewire_broker_puback_sent_total").await
        < u64::from(PUBLISHERS) * u64::from(WINDOW)
    {
        listener.ping().await;
        most = most.max(node.metric("tidewire_session_under_way_bytes").await);
    }
    let clients = floods.join_all().await;
    assert_eq!(clients.len(), usize::from(PUBLISHERS));
    // Each thread may have been in the middle of a read, and a packet may have been whole then.
    assert!((1 << 20..5 << 20).contains(&most), "{most} bytes under way");
    assert!(node.metric("tidewire_broker_reads_held_total").await > 0);
    node.until("tidewire_session_under_way_bytes", |bytes| bytes == 0)
        .await;

    let (mut door, present) = node.connect(dial()).await;
    assert!(present);
    let mut last = vec![0; usize::from(PUBLISHERS)];
    for _ in 0..u32::from(PUBLISHERS) * u32::from(WINDOW) {
        let text = door.text().await;
        let mut words = text.split(' ').map(|word| word.parse::<u16>());
        let mut number = || words.next().expect("a word").expect("a number");
        let (publisher, id) = (usize::from(number()), number());
        assert_eq!(id, last[publisher] + 1);
        last[publisher] = id;
    }
    node.stop().await;
}
