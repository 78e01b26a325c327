use std::time::Duration;

use cluster_core::{FeatureLevel, FolderId, NodeId, StartCount};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::test_nodes::*;
use super::*;

impl Node {
    /// What was refused here or there for this reason.
    pub(super) fn refused(&self, code: RefusalCode) -> Vec<Refusal> {
        let refusals = self.service.refusals().into_iter();
        let of = refusals.map(|(_, _, refusal)| refusal);
        of.filter(|refusal| refusal.code == code).collect()
    }
}

/// Node 1 serves, a stranger dials it, a third node comes after the stranger: the stranger is
/// refused on both sides by the same words, and the third is let in.
async fn refused(stranger: NodeIdentity, words: &str) {
    let hub = MemoryHub::default();
    let one = start(&hub, identity(1)).await;
    one.links.learn(NodeId(2), FolderId(0xf02), StartCount(5));
    let own = "stranger";
    let dials = start_with(hub.at(own), own, stranger, LinkConfig::default()).await;
    let sought = if stranger.node == NodeId(1) { 7 } else { 1 };
    dials.links.set_peer(NodeId(sought), &address(1));

    until(|| !one.service.refusals().is_empty() && !dials.service.refusals().is_empty()).await;

    let (dialed, here, refusal) = one.service.refusals()[0];
    assert_eq!((dialed, here), (false, true), "refused by who accepted");
    assert_eq!(refusal.to_string(), words);
    assert_eq!(dials.service.refusals()[0], (true, false, refusal));
    assert!(!one.service.saw(|event| matches!(event, Event::Up { .. })));
    assert!(one.links.counters().refused_here_total.get() > 0);
    assert!(dials.links.counters().refused_there_total.get() > 0);
    one_is_well(&hub, &one).await;
}

/// The listener goes on: another member is let in.
async fn one_is_well(hub: &MemoryHub, one: &Node) {
    let three = start(hub, identity(3)).await;
    three.links.set_peer(NodeId(1), &address(1));
    one.links.set_peer(NodeId(3), &address(3));
    until(|| three.is_linked(1)).await;
    assert_eq!(
        three.ask(1, Lane::Control, b"well").await,
        Ok("well".into())
    );
}

fn two_with(change: impl Fn(&mut NodeIdentity)) -> NodeIdentity {
    let mut of = identity(2);
    of.start = StartCount(5);
    change(&mut of);
    of
}

#[tokio::test(start_paused = true)]
async fn another_cluster_is_refused() {
    let words =
        "cluster 000000000000000000000000000000aa meets cluster 000000000000000000000000000000c1";
    refused(two_with(|of| of.cluster = ClusterId(0xaa)), words).await;
}

#[tokio::test(start_paused = true)]
async fn another_feature_level_is_refused() {
    let old = two_with(|of| {
        of.level = FeatureLevel(0);
        of.understood = FeatureLevel(0);
    });
    refused(
        old,
        "a node that understands feature level 0 meets feature level 1 in use",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reused_node_number_is_refused() {
    refused(
        two_with(|of| of.folder = FolderId(0xbb)),
        "the node number belongs to data folder 00000000000000000000000000000f02, \
         not to 000000000000000000000000000000bb",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_past_is_refused() {
    refused(
        two_with(|of| of.start = StartCount(4)),
        "start 4 of the node is past, start 5 was seen",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_own_number_is_refused() {
    refused(
        two_with(|of| of.node = NodeId(1)),
        "node number 1 is that of both sides",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_finds_another_node_than_it_sought_is_refused() {
    let hub = MemoryHub::default();
    let (one, two) = (
        start(&hub, identity(1)).await,
        start(&hub, identity(2)).await,
    );
    two.links.set_peer(NodeId(9), &address(1));

    until(|| !two.refused(RefusalCode::Node).is_empty()).await;

    let refusal = one.refused(RefusalCode::Node)[0];
    assert_eq!(refusal.to_string(), "node 1 is not the sought node 9");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_good_is_refused_by_who_dialed_and_named_there() {
    let hub = MemoryHub::default();
    let (one, two) = (
        start(&hub, identity(1)).await,
        start(&hub, identity(2)).await,
    );
    // Node 2 knows better than node 1 which run is the latest.
    two.links
        .learn(NodeId(1), identity(1).folder, StartCount(9));
    two.links.set_peer(NodeId(1), &address(1));

    until(|| !one.refused(RefusalCode::Start).is_empty()).await;

    assert!(two.service.refusals().contains(&(
        true,
        true,
        Refusal::new(RefusalCode::Start, 1_u8, 9_u8)
    )));
    assert!(one.service.refusals().contains(&(
        false,
        false,
        Refusal::new(RefusalCode::Start, 1_u8, 9_u8)
    )));
}

#[tokio::test(start_paused = true)]
async fn garbage_and_silence_are_told_why_and_the_listener_goes_on() {
    let hub = MemoryHub::default();
    let one = start(&hub, identity(1)).await;
    let stranger = hub.at("stranger");

    let mut loud = stranger.connect(&address(1)).await.expect("listens");
    loud.write_all(b"GET / HTTP/1.1\r\n").await.expect("writes");
    let mut told = Vec::new();
    let _ = loud.read_to_end(&mut told).await;
    let told = Greeting::poll_decode(&mut told[..].into()).expect("good");
    assert!(
        matches!(told, Some(Greeting::Refusal(refusal)) if refusal.code == RefusalCode::Garbage)
    );

    let mut mute = stranger.connect(&address(1)).await.expect("listens");
    let mut told = Vec::new();
    within(Duration::from_millis(2_300), mute.read_to_end(&mut told))
        .await
        .expect("told");
    let told = Greeting::poll_decode(&mut told[..].into()).expect("good");
    let Some(Greeting::Refusal(refusal)) = told else {
        panic!("{told:?}");
    };
    assert_eq!(refusal.to_string(), "no greeting came within 2000 ms");
    assert_eq!(one.service.refusals().len(), 2);
    one_is_well(&hub, &one).await;
}

#[tokio::test(start_paused = true)]
async fn strangers_hold_a_bounded_number_of_places_for_a_bounded_time() {
    let hub = MemoryHub::default();
    let one = start(&hub, identity(1)).await;
    let stranger = hub.at("stranger");
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(stranger.connect(&address(1)).await.expect("listens"));
        tokio::task::yield_now().await;
    }
    until(|| one.links.counters().crowded_total.get() == 100 - 64).await;

    one_is_well(&hub, &one).await;
    let suppressed = one.links.counters().lines_suppressed_total.get();
    assert!(suppressed >= 64 - 10, "{suppressed}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_floods_garbage_after_the_handshake_is_left() {
    let hub = MemoryHub::default();
    let one = start(&hub, identity(1)).await;
    let mut stream = hub.at("x").connect(&address(1)).await.expect("listens");
    let hello = Greeting::Hello(Hello {
        identity: identity(2),
        lane: Lane::Requests,
        sought: NodeId(1),
        nonce: 1,
    });
    stream.write_all(&hello.encode()).await.expect("writes");
    until(|| one.service.saw(|event| matches!(event, Event::Up { .. }))).await;
    stream.write_all(&[0xff; 1_000]).await.expect("writes");

    until(|| one.violations() == 1).await;

    let why = Ended::Malformed(Malformed::Version(0xff));
    assert!(
        one.service
            .saw(|event| matches!(event, Event::Down { why: of, .. } if *of == why))
    );
    let mut told = Vec::new();
    let _ = stream.read_to_end(&mut told).await;
    let mut told: bytes::BytesMut = told[..].into();
    assert!(matches!(
        Greeting::poll_decode(&mut told),
        Ok(Some(Greeting::Welcome(_)))
    ));
    let mut decoder = Decoder::new(1_000, told);
    let frames: Vec<_> = std::iter::from_fn(|| decoder.poll_frame().expect("good")).collect();
    assert_eq!(frames.last(), Some(&Frame::Close(CloseReason::Violation)));
    one_is_well(&hub, &one).await;
}
