//! Wills.

use mqtt::{QoS, ReasonCode};
use runtime::ManualClock;

use crate::harness::{Dial, config, start, start_at};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_publishes_its_will_and_a_normal_disconnect_does_not() {
    let node = start(config()).await;
    for watcher in [Dial::v5("w"), Dial::v5("w").persistent()] {
        let (mut watcher, _) = node.connect(watcher).await;
        watcher.subscribe("will/#", QoS::AtLeastOnce).await;
        let (polite, _) = node
            .connect(Dial::v5("a").will("will/polite", false, None))
            .await;
        polite.leave(ReasonCode::Success).await;
        let (angry, _) = node
            .connect(Dial::v5("b").will("will/angry", false, None))
            .await;
        angry.leave(ReasonCode::DisconnectWithWill).await;
        assert_eq!(watcher.publication().await.topic.as_str(), "will/angry");
        let (lost, _) = node
            .connect(Dial::v311("c").will("will/lost", false, None))
            .await;
        drop(lost);
        assert_eq!(watcher.publication().await.topic.as_str(), "will/lost");
        let (old, _) = node
            .connect(Dial::v5("d").will("will/taken", false, None))
            .await;
        let new = node.clean("d").await;
        assert_eq!(watcher.publication().await.topic.as_str(), "will/taken");
        drop((old, new));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retained_will_is_there_for_later_subscribers() {
    let node = start(config()).await;
    let (lost, _) = node
        .connect(Dial::v5("c").will("will/kept", true, None))
        .await;
    drop(lost);
    node.until("tidewire_session_retained_bytes", |bytes| bytes > 0)
        .await;
    let mut watcher = node.clean("w").await;
    watcher.subscribe("will/kept", QoS::AtMostOnce).await;
    assert!(watcher.publication().await.retain);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_will_waits_and_is_forgotten_when_the_client_comes_back() {
    let clock = ManualClock::at(1_800_000_000_000);
    let node = start_at(config(), &clock).await;
    let mut watcher = node.clean("w").await;
    watcher.subscribe("will/#", QoS::AtLeastOnce).await;
    for id in ["back", "away"] {
        let dial = Dial::v5(id)
            .persistent()
            .will(&format!("will/{id}"), false, Some(60));
        let (lost, _) = node.connect(dial).await;
        drop(lost);
    }
    // Their ends are in the log before the clock goes on; the watcher's session is the third.
    node.until("tidewire_session_sessions", |sessions| sessions == 3)
        .await;
    node.until("tidewire_session_sessions_connected", |owned| owned == 1)
        .await;
    clock.advance_ms(59_000);
    let (back, present) = node.connect(Dial::v5("back").persistent()).await;
    assert!(present);
    clock.advance_ms(2_000);
    assert_eq!(watcher.publication().await.topic.as_str(), "will/away");
    // Anything of `back` would have come by now: its shard looks at the clock as often.
    clock.advance_ms(600_000);
    watcher.ping().await;
    drop(back);
    node.stop().await;
}
