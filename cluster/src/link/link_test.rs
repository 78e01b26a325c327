use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cluster_core::{NodeId, StartCount};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::test_nodes::*;
use super::*;

const CUT: Faults = Faults {
    cut: true,
    delay: Duration::ZERO,
    garbled_every: None,
};

fn delayed(ms: u64) -> Faults {
    Faults {
        delay: Duration::from_millis(ms),
        ..Faults::default()
    }
}

fn set_both(hub: &MemoryHub, faults: Faults) {
    hub.set_faults(&address(1), &address(2), faults);
    hub.set_faults(&address(2), &address(1), faults);
}

#[tokio::test(start_paused = true)]
async fn each_node_asks_the_other_on_every_lane() {
    let (one, two) = two(&MemoryHub::default()).await;

    for lane in Lane::FRAMED {
        assert_eq!(one.ask(2, lane, b"to two").await, Ok("to two".into()));
        assert_eq!(two.ask(1, lane, b"to one").await, Ok("to one".into()));
    }
    let asked: Vec<_> = Lane::FRAMED.map(|lane| (lane, "to two".into())).into();
    assert_eq!(*two.service.asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_lane_arrive_in_the_order_in_which_they_were_sent() {
    let (one, two) = two(&MemoryHub::default()).await;
    let peer = one.peer(2);
    let payloads: Vec<Bytes> = (0..500_u32)
        .map(|number| number.to_le_bytes().repeat(1 + number as usize % 50).into())
        .collect();

    let sent: Vec<_> = payloads
        .iter()
        .map(|payload| peer.send(Lane::Requests, ask(payload)).expect("room"))
        .collect();
    for (pending, payload) in sent.into_iter().zip(&payloads) {
        assert_eq!(pending.wait().await.as_ref(), Ok(payload));
    }

    let asked: Vec<_> = two
        .service
        .asked()
        .drain(..)
        .map(|(_, asked)| asked)
        .collect();
    assert_eq!(asked, payloads);
    let turns = one.links.counters().lane(Lane::Requests).turns_total.get();
    assert!(turns < 20, "500 requests in {turns} writes");
}

#[tokio::test(start_paused = true)]
async fn who_waits_learns_that_the_connection_ended_and_the_next_one_starts_clean() {
    let hub = MemoryHub::default();
    let (one, two) = two(&hub).await;
    two.service.serve(Serve::Hold);
    let lost = one
        .peer(2)
        .send(Lane::Requests, ask(b"held"))
        .expect("room");
    // More than the window of a connection: half of it has arrived when the connection ends.
    set_both(&hub, delayed(10));
    let half = ask(&vec![7; 1 << 20]);
    let half = one.peer(2).send(Lane::Requests, half).expect("room");
    tokio::time::sleep(Duration::from_millis(25)).await;

    hub.reset(&address(1), &address(2));

    let node = NodeId(2);
    assert_eq!(lost.wait().await, Err(RequestError::Lost { node }));
    assert_eq!(half.wait().await, Err(RequestError::Lost { node }));
    two.service.serve(Serve::Echo);
    until(|| one.is_linked(2) && two.is_linked(1)).await;
    assert_eq!(one.ask(2, Lane::Requests, b"anew").await, Ok("anew".into()));
    assert_eq!((one.violations(), two.violations()), (0, 0));
    assert_eq!(two.service.asked().len(), 2, "no half request");
    assert_eq!(one.peer(2).status().lanes.map(|lane| lane.asked), [0; 3]);
    // The answer to a request of the connection that ended goes nowhere.
    two.service.held.lock().unwrap().clear();
    assert_eq!(one.ask(2, Lane::Requests, b"good").await, Ok("good".into()));
}

#[tokio::test(start_paused = true)]
async fn a_cut_in_one_direction_ends_both_and_healing_brings_them_back() {
    let hub = MemoryHub::default();
    let (one, two) = two(&hub).await;
    let is_silent = |event: &Event| {
        let Event::Down { why, .. } = event else {
            return false;
        };
        matches!(why, Ended::Silent { .. })
    };

    hub.set_faults(&address(1), &address(2), CUT);
    let node = NodeId(2);
    let asked = one.ask(2, Lane::Control, b"into the cut").await;
    assert_eq!(asked, Err(RequestError::Deadline { node }));
    let silent_ms = two.peer(1).status().silent_ms.expect("was heard");
    assert!((1_900..2_400).contains(&silent_ms), "{silent_ms} ms");
    until(|| one.service.saw(is_silent) || two.service.saw(is_silent)).await;
    until(|| {
        let lanes = one.peer(2).status().lanes;
        lanes.iter().all(|lane| !lane.dialed)
    })
    .await;
    let lane = Lane::Control;
    let asked = one.ask(2, lane, b"no connection").await;
    assert_eq!(asked, Err(RequestError::NotConnected { node, lane }));

    hub.set_faults(&address(1), &address(2), Faults::default());
    let healed = Instant::now();
    until(|| one.is_linked(2) && two.is_linked(1)).await;
    // An attempt that hangs in the cut, and the longest pause.
    assert!(healed.elapsed() < Duration::from_millis(3_100));
    assert_eq!(one.ask(2, lane, b"healed").await, Ok("healed".into()));
}

#[tokio::test(start_paused = true)]
async fn changed_bytes_are_never_taken_for_a_message() {
    let hub = MemoryHub::default();
    let (one, two) = two(&hub).await;
    let garbled = Faults {
        garbled_every: Some(9_973),
        ..Faults::default()
    };
    set_both(&hub, garbled);
    let mut answered = 0;
    for number in 0..2_000_u32 {
        let payload = number.to_le_bytes().repeat(64);
        match one.ask(2, Lane::Requests, &payload).await {
            Ok(reply) => {
                assert_eq!(reply, payload);
                answered += 1;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    assert!(answered > 500, "{answered}");
    let violations = one.violations() + two.violations();
    assert!(violations > 10, "{violations}");
    for (_, asked) in two.service.asked().iter() {
        assert!(asked.chunks(4).all(|chunk| chunk == &asked[..4]));
    }

    set_both(&hub, Faults::default());
    hub.reset(&address(1), &address(2));
    within(Duration::from_secs(5), async {
        while one.ask(2, Lane::Requests, b"good").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_delays_no_vote() {
    let hub = MemoryHub::default();
    let (one, _two) = two(&hub).await;
    set_both(&hub, delayed(20));
    let began = Instant::now();
    let bulk: Vec<_> = (0..8)
        .map(|_| {
            let mut copy = ask(&vec![1; 1 << 20]);
            copy.reply_bytes_max = 0;
            copy.deadline = Duration::from_secs(20);
            one.peer(2).send(Lane::Bulk, copy).expect("room")
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;

    for _ in 0..10 {
        let asked = Instant::now();
        assert_eq!(one.ask(2, Lane::Control, b"vote").await, Ok("vote".into()));
        assert!(
            asked.elapsed() <= Duration::from_millis(45),
            "{:?}",
            asked.elapsed()
        );
    }

    for pending in bulk {
        let _ = pending.wait().await;
    }
    assert!(
        began.elapsed() > Duration::from_secs(1),
        "bulk was under way"
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_serves_nothing_costs_no_more_than_its_grant() {
    let (one, two) = two(&MemoryHub::default()).await;
    two.service.serve(Serve::Hold);
    let peer = one.peer(2);
    let grant = LaneLimits::BULK.grant;
    let mut sent = Vec::new();
    let mut busy = 0;
    for _ in 0..100 {
        match peer.send(Lane::Bulk, ask(&vec![0; 60_000])) {
            Ok(pending) => sent.push(pending),
            Err(RequestError::Busy { .. }) => busy += 1,
            Err(other) => panic!("{other}"),
        }
        tokio::task::yield_now().await;
    }
    assert_eq!((sent.len(), busy), (16, 84));
    until(|| two.service.asked().len() == 16).await;
    assert_eq!(peer.status().lanes[2].asked, grant.requests);
    assert_eq!(two.peer(1).status().lanes[2].owed, grant.requests);
    let counters = one.links.counters().lane(Lane::Bulk);
    assert_eq!(counters.requests_busy_total.get(), 84);
    // The other lanes go on.
    let held = peer.send(Lane::Control, ask(b"x")).expect("room");
    until(|| two.service.asked().len() == 17).await;
    drop(held);

    // Who stops waiting gives nothing back: the peer still holds it.
    drop(sent);
    assert!(peer.send(Lane::Bulk, ask(b"x")).is_err());
    two.service.held.lock().unwrap().truncate(10);
    until(|| peer.status().lanes[2].asked == 10).await;
    let unanswered = peer.send(Lane::Bulk, ask(b"x")).expect("room again");
    two.service.serve(Serve::Drop);
    until(|| !two.service.held.lock().unwrap().is_empty()).await;
    two.service.held.lock().unwrap().clear();
    let failure = Failure::Unanswered;
    let node = NodeId(2);
    let outcome = unanswered.wait().await;
    assert_eq!(outcome, Err(RequestError::Failed { node, failure }));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_reading_costs_no_more_than_its_grant_and_is_left() {
    let hub = MemoryHub::default();
    let one = start(&hub, identity(1)).await;
    // It greets, and then does nothing.
    let mut listener = hub.at("mute").listen("mute").await.expect("free");
    let mute = tokio::spawn(async move {
        let mut streams = Vec::new();
        loop {
            let Ok((opening, _)) = listener.accept().await else {
                return;
            };
            let mut stream = opening.await.expect("opens");
            let mut bytes = BytesMut::new();
            let mut roster = Roster::new(identity(2));
            let welcome = loop {
                stream.read_buf(&mut bytes).await.expect("reads");
                let grant = LaneLimits::REQUESTS.grant;
                let answer = answer(&mut bytes, &mut roster, None, |_| grant);
                if let Some(Met::Member(_, welcome)) = answer.expect("good") {
                    break welcome;
                }
            };
            let welcome = Greeting::Welcome(welcome).encode();
            stream.write_all(&welcome).await.expect("writes");
            streams.push(stream);
        }
    });
    one.links.set_peer(NodeId(2), "mute");
    until(|| one.peer(2).status().lanes.iter().all(|lane| lane.dialed)).await;

    let peer = one.peer(2);
    let mut request = ask(&vec![0; 1 << 20]);
    request.reply_bytes_max = 0;
    let sent: Vec<_> = (0..100)
        .map_while(|_| peer.send(Lane::Requests, request.clone()).ok())
        .collect();

    assert_eq!(sent.len(), 32, "32 MiB are granted");
    let queue_bytes = peer.status().lanes[1].queue_bytes;
    assert!(
        queue_bytes <= 32 * ((1 << 20) + HEADER_BYTES),
        "{queue_bytes}"
    );
    let began = Instant::now();
    let node = NodeId(2);
    for pending in sent {
        let outcome = pending.wait().await;
        let left = outcome == Err(RequestError::Lost { node });
        assert!(left || outcome == Err(RequestError::Deadline { node }));
    }
    until(|| one.links.counters().silent_total.get() >= 2).await;
    assert!(began.elapsed() < Duration::from_secs(6));
    mute.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stop_tells_the_peers_and_a_crash_does_not() {
    let hub = MemoryHub::default();
    let (one, two) = two(&hub).await;
    two.stop().await;
    let why = Ended::There(CloseReason::Stopping);
    until(|| {
        let events = one.service.events.lock().unwrap();
        let told = events
            .iter()
            .filter(|event| matches!(event, Event::Down { why: of, .. } if *of == why));
        told.count() == 6
    })
    .await;
    until(|| one.peer(2).status().connects_refused >= 2).await;

    // The next run of the node, at the same address.
    let mut next = identity(2);
    next.start = StartCount(2);
    let two = start(&hub, next).await;
    two.links.set_peer(NodeId(1), &address(1));
    until(|| one.is_linked(2) && two.is_linked(1)).await;
    let status = one.peer(2).status();
    assert_eq!(status.start, Some(StartCount(2)));
    assert_eq!(status.connects_refused, 0);
    two.kill().await;
    until(|| one.peer(2).status().lanes.iter().all(|lane| !lane.dialed)).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_link_is_heard_and_measured() {
    let hub = MemoryHub::default();
    let (one, two) = two(&hub).await;
    set_both(&hub, delayed(15));
    tokio::time::sleep(Duration::from_secs(60)).await;

    for (node, other) in [(&one, 2), (&two, 1)] {
        let status = node.peer(other).status();
        assert!(status.silent_ms.expect("heard") <= 330, "{status:?}");
        assert_eq!(status.round_trip_ms, Some(30));
        assert!(node.is_linked(other));
        assert_eq!(node.links.counters().dialed_total.get(), 3, "never anew");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_request_on_a_slow_network_is_no_silence() {
    let hub = MemoryHub::default();
    let (one, two) = two(&hub).await;
    // 64 KiB in 250 ms: 4 MiB take 16 s, and no other frame comes on that connection meanwhile.
    set_both(&hub, delayed(250));
    let mut slow = ask(&vec![1; 4 << 20]);
    slow.deadline = Duration::from_secs(60);
    let began = Instant::now();

    let reply = one.peer(2).request(Lane::Requests, slow).await;

    assert_eq!(reply.map(|reply| reply.len()), Ok(4 << 20));
    assert!(began.elapsed() > Duration::from_secs(20), "there and back");
    for node in [&one, &two] {
        assert_eq!(node.links.counters().silent_total.get(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_moves_and_is_removed() {
    let hub = MemoryHub::default();
    let (one, two) = two(&hub).await;
    two.stop().await;
    let two = start_with(hub.at("moved"), "moved", identity(2), LinkConfig::default()).await;
    two.links.set_peer(NodeId(1), &address(1));
    one.links.set_peer(NodeId(2), "moved");
    until(|| one.is_linked(2) && two.is_linked(1)).await;

    one.links.remove_peer(NodeId(2));

    until(|| !two.refused(RefusalCode::Removed).is_empty()).await;
    until(|| two.peer(1).status().lanes.iter().all(|lane| !lane.accepted)).await;
    let lanes = one.peer(2).status().lanes;
    assert!(lanes.iter().all(|lane| !lane.dialed && !lane.accepted));
}

#[tokio::test(start_paused = true)]
async fn a_stream_carries_bytes_as_they_are_and_has_its_bound() {
    let (one, two) = two(&MemoryHub::default()).await;
    let mut here = one.links.open_stream(NodeId(2)).await.expect("opens");
    until(|| two.service.streams.lock().unwrap().len() == 1).await;
    let mut there = two.service.streams.lock().unwrap().remove(0);

    here.write_all(b"any bytes").await.expect("writes");
    let mut bytes = [0; 9];
    there.read_exact(&mut bytes).await.expect("reads");
    assert_eq!(&bytes, b"any bytes");
    there.write_all(b"and back").await.expect("writes");
    drop(there);
    let mut back = Vec::new();
    here.read_to_end(&mut back).await.expect("reads");
    assert_eq!(back, b"and back");

    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(one.links.open_stream(NodeId(2)).await.expect("opens"));
    }
    until(|| two.service.streams.lock().unwrap().len() == 4).await;
    let mut fifth = one.links.open_stream(NodeId(2)).await.expect("opens");
    let mut told = Vec::new();
    let _ = within(Duration::from_secs(1), fifth.read_to_end(&mut told)).await;
    assert!(told.starts_with(b"TIDELINK"), "a refusal");
    assert_eq!(two.refused(RefusalCode::Crowded).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_may_wait_for_ever() {
    let (one, two) = two(&MemoryHub::default()).await;
    two.service.serve(Serve::Hold);
    let mut request = ask(b"x");
    request.deadline = Duration::MAX;
    let pending = one.peer(2).send(Lane::Requests, request).expect("room");
    tokio::time::sleep(Duration::from_secs(3_600)).await;

    let held = std::mem::take(&mut *two.service.held.lock().unwrap());
    held.into_iter()
        .for_each(|request| request.responder.reply("at last".into()));

    let node = NodeId(2);
    let failure = Failure::ReplyTooLarge;
    let outcome = pending.wait().await;
    assert_eq!(outcome, Err(RequestError::Failed { node, failure }));
}

#[tokio::test(start_paused = true)]
async fn of_two_connections_of_a_lane_the_newer_stays() {
    let hub = MemoryHub::default();
    let one = start(&hub, identity(1)).await;
    // As a node does that gave the first one up before the other side noticed.
    let mut streams = Vec::new();
    for nonce in 1..=2 {
        let mut stream = hub.at("x").connect(&address(1)).await.expect("listens");
        let hello = Greeting::Hello(Hello {
            identity: identity(2),
            lane: Lane::Requests,
            sought: NodeId(1),
            nonce,
        });
        stream.write_all(&hello.encode()).await.expect("writes");
        until(|| one.links.counters().accepted_total.get() == nonce as u64).await;
        streams.push(stream);
    }

    let mut bytes = Vec::new();
    let first = streams[0].read_to_end(&mut bytes);
    within(Duration::from_secs(1), first)
        .await
        .expect("ended in order");

    let mut bytes = BytesMut::from(&bytes[..]);
    let welcome = Greeting::poll_decode(&mut bytes);
    assert!(matches!(welcome, Ok(Some(Greeting::Welcome(_)))));
    let last = Decoder::new(0, bytes).poll_frame();
    assert_eq!(last, Ok(Some(Frame::Close(CloseReason::Replaced))));
    assert!(one.peer(2).status().lanes[1].accepted);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_panics_ends_one_connection() {
    let (one, two) = two(&MemoryHub::default()).await;
    two.service.serve(Serve::Panic);
    let node = NodeId(2);
    let lost = one.ask(2, Lane::Requests, b"x").await;
    assert_eq!(lost, Err(RequestError::Lost { node }));
    two.service.serve(Serve::Echo);

    assert_eq!(
        one.ask(2, Lane::Control, b"goes on").await,
        Ok("goes on".into())
    );
    until(|| one.is_linked(2)).await;
    assert_eq!(
        one.ask(2, Lane::Requests, b"again").await,
        Ok("again".into())
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_done_is_counted() {
    let (one, two) = two(&MemoryHub::default()).await;
    for _ in 0..10 {
        one.ask(2, Lane::Bulk, &[0; 100]).await.expect("echoed");
    }
    let here = one.links.counters().lane(Lane::Bulk);
    let there = two.links.counters().lane(Lane::Bulk);

    assert_eq!(here.requests_sent_total.get(), 10);
    assert_eq!(there.requests_received_total.get(), 10);
    // Each has one bulk connection of its own, which may have pinged.
    assert!(here.frames_sent_total.get() >= 10);
    assert!(here.bytes_sent_total.get() >= 10 * 136);
    assert_eq!(
        here.frames_sent_total.get(),
        there.frames_received_total.get()
    );
    assert_eq!(
        here.bytes_sent_total.get(),
        there.bytes_received_total.get()
    );
    assert!(here.turns_total.get() <= here.frames_sent_total.get());
}
