//! What comes in by the socket: whole, in pieces, too long, too late, wrong.

use bytes::Bytes;
use mqtt::{Packet, QoS, ReasonCode, Version};
use runtime::ManualClock;

use crate::harness::{Dial, config, options, publish, start, start_at, subscribe};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_behind_connect_in_one_segment_are_served_in_order() {
    let node = start(config()).await;
    for dial in [Dial::v5("c"), Dial::v5("p").persistent(), Dial::v311("o")] {
        let mut client = node.socket(dial.0.version).await;
        let mut first = publish("t", QoS::AtLeastOnce, "hello");
        first.packet_id = Some(client.take_id());
        let packets = [
            dial.packet(),
            subscribe(client.take_id(), &[("t", options(QoS::AtMostOnce))]),
            Packet::Publish(first),
            Packet::PingReq,
        ];
        let bytes = client.encode(&packets);
        client.raw(&bytes).await;
        client.connack().await;
        let mut kinds = [0; 4];
        for _ in 0..3 {
            match client.packet().await {
                Packet::SubAck(_) => kinds[0] += 1,
                Packet::PubAck(_) => kinds[1] += 1,
                Packet::PingResp => kinds[2] += 1,
                Packet::Publish(_) => kinds[3] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(kinds[0] <= 1 && kinds[1] <= 1 && kinds[2] <= 1);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_may_come_byte_by_byte() {
    let node = start(config()).await;
    let mut client = node.socket(Version::V5).await;
    let packets = [
        Dial::v5("slow").packet(),
        Packet::PingReq,
        Packet::Publish(publish("t", QoS::AtMostOnce, "x")),
        Packet::PingReq,
    ];
    for byte in client.encode(&packets) {
        client.raw(&[byte]).await;
        tokio::task::yield_now().await;
    }
    client.connack().await;
    assert_eq!(client.packet().await, Packet::PingResp);
    assert_eq!(client.packet().await, Packet::PingResp);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_of_a_mebibyte_passes_in_small_pieces() {
    let node = start(config()).await;
    let mut subscriber = node.clean("s").await;
    subscriber.subscribe("big", QoS::AtLeastOnce).await;
    let mut publisher = node.clean("p").await;
    let mut big = publish("big", QoS::AtLeastOnce, "");
    big.packet_id = Some(publisher.take_id());
    let payload: Vec<u8> = (0..(1 << 20) - 1_000).map(|n: u32| n as u8).collect();
    big.payload = Bytes::from(payload.clone());
    let bytes = publisher.encode(&[Packet::Publish(big)]);
    for piece in bytes.chunks(777) {
        publisher.raw(piece).await;
    }
    assert!(matches!(publisher.packet().await, Packet::PubAck(_)));
    // With its overhead it does not fit the mailbox's limit together with another, but alone.
    assert_eq!(&subscriber.publication().await.payload[..], &payload[..]);
    publisher.ping().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_above_the_limit_is_refused_before_its_bytes_come() {
    let node = start(config()).await;
    // 64 KiB before CONNECT is answered: 70 000 announced, nothing of it sent.
    let mut stranger = node.socket(Version::V5).await;
    stranger.raw(&[0x10, 0xF0, 0xA2, 0x04]).await;
    assert_eq!(stranger.next().await, None);
    let mut client = node.clean("c").await;
    client.raw(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]).await;
    assert_eq!(client.disconnected().await, ReasonCode::PacketTooLarge);
    node.until("tidewire_broker_protocol_errors_total", |n| n == 2)
        .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_on_sending_still_hears_why_it_was_refused() {
    let node = start(config()).await;
    for _ in 0..20 {
        let mut client = node.clean("c").await;
        let mut bytes = vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F];
        bytes.resize(300_000, 0);
        client.raw(&bytes).await;
        assert_eq!(client.disconnected().await, ReasonCode::PacketTooLarge);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_connect_may_come_first_and_only_once() {
    let node = start(config()).await;
    let mut early = node.socket(Version::V5).await;
    early.raw(&[0xC0, 0]).await;
    assert_eq!(early.next().await, None);
    let mut twice = node.clean("twice").await;
    twice.send(&Dial::v5("twice").packet()).await;
    assert_eq!(twice.disconnected().await, ReasonCode::ProtocolError);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_packet_closes_its_connection_with_the_reason_and_no_other() {
    let node = start(config()).await;
    let mut bystander = node.clean("bystander").await;
    // PUBLISH with QoS 3; PUBLISH to a wildcard; SUBSCRIBE with wrong flags.
    let wrong: [(&[u8], ReasonCode); 3] = [
        (&[0x36, 3, 0, 1, b't'], ReasonCode::MalformedPacket),
        (&[0x30, 4, 0, 1, b'#', 0], ReasonCode::MalformedPacket),
        (&[0x80, 1, 0], ReasonCode::MalformedPacket),
    ];
    for (bytes, reason) in wrong {
        let mut client = node.clean("bad").await;
        client.raw(bytes).await;
        assert_eq!(client.disconnected().await, reason, "{bytes:?}");
        let (mut old, _) = node.connect(Dial::v311("bad")).await;
        old.raw(&bytes[..bytes.len() - 1]).await;
        old.raw(&bytes[bytes.len() - 1..]).await;
        assert_eq!(old.next().await, None);
        bystander.ping().await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_without_connect_is_closed_at_the_connect_timeout() {
    let clock = ManualClock::at(1_800_000_000_000);
    let node = start_at(config(), &clock).await;
    let mut silent = node.socket(Version::V5).await;
    node.until("tidewire_broker_connections_open", |open| open == 1)
        .await;
    clock.advance_ms(4_900);
    let mut half = node.socket(Version::V5).await;
    half.raw(&[0x10]).await;
    node.until("tidewire_broker_connections_open", |open| open == 2)
        .await;
    clock.advance_ms(200);
    assert_eq!(silent.next().await, None);
    clock.advance_ms(5_000);
    assert_eq!(half.next().await, None);
    drop((silent, half));
    node.until("tidewire_broker_timeouts_total", |n| n == 2)
        .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_client_is_closed_after_one_and_a_half_keep_alives() {
    let clock = ManualClock::at(1_800_000_000_000);
    let node = start_at(config(), &clock).await;
    let (mut client, _) = node.connect(Dial::v5("k").keep_alive(10)).await;
    clock.advance_ms(14_900);
    client.ping().await;
    clock.advance_ms(14_900);
    client.ping().await;
    clock.advance_ms(15_100);
    assert_eq!(client.disconnected().await, ReasonCode::KeepAliveTimeout);
    // The clock stands still: the node would wait for this side to close for as long as it may.
    drop(client);
    node.stop().await;
}
