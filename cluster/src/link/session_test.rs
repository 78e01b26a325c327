use bytes::Bytes;

use super::credits::Exceeded;
use super::frame::{CloseReason, Failure, Frame, Request};
use super::lane::{Channel, Grant};
use super::session::*;

const GRANT: Grant = Grant {
    requests: 4,
    payload_bytes: 1_000,
    request_bytes: 2_000,
    reply_bytes: 1_500,
};

const PACE: Pace = Pace {
    ping_interval_ms: 100,
    silence_limit_ms: 1_000,
    turn_bytes: 1_500,
};

type Waiting = Session<&'static str>;

fn pair() -> (Waiting, Waiting) {
    let new = |side| Session::new(side, GRANT, PACE, 0);
    (new(Side::Dialed), new(Side::Accepted))
}

fn asked(bytes: usize, reply_bytes_max: u32) -> Asked {
    Asked {
        channel: Channel::default(),
        payload: Bytes::from(vec![7; bytes]),
        reply_bytes_max,
        deadline_ms: 100,
    }
}

/// What one turn of a side writes.
fn turn(session: &mut Waiting, now_ms: u64) -> Vec<Frame> {
    let mut frames = Vec::new();
    session.poll_turn(&mut frames, now_ms);
    frames
}

/// Lets everything of one side arrive at the other.
fn deliver(from: &mut Waiting, to: &mut Waiting, now_ms: u64) -> Vec<Arrived<&'static str>> {
    let mut arrived = Vec::new();
    loop {
        let frames = turn(from, now_ms);
        if frames.is_empty() {
            return arrived;
        }
        for frame in frames {
            match to.handle_frame(frame, now_ms).expect("no violation") {
                Arrived::Alive => {}
                other => arrived.push(other),
            }
        }
    }
}

fn requests(arrived: Vec<Arrived<&'static str>>) -> Vec<Request> {
    let request = |one| match one {
        Arrived::Request(request) => request,
        other => panic!("{other:?}"),
    };
    arrived.into_iter().map(request).collect()
}

fn answers(arrived: Vec<Arrived<&'static str>>) -> Vec<(&'static str, Result<Bytes, Failure>)> {
    let answer = |one| match one {
        Arrived::Answer(waiter, answer) => (waiter, answer),
        other => panic!("{other:?}"),
    };
    arrived.into_iter().map(answer).collect()
}

#[test]
fn requests_arrive_in_order_and_each_answer_finds_who_waits() {
    let (mut here, mut there) = pair();
    here.request(asked(1, 10), "first").expect("room");
    here.request(asked(2, 10), "second").expect("room");

    let came = requests(deliver(&mut here, &mut there, 1));
    assert_eq!([came[0].payload.len(), came[1].payload.len()], [1, 2]);
    // Answered the other way round.
    there.reply(came[1].id, Ok(Bytes::from_static(b"b")));
    there.reply(came[0].id, Err(Failure::Unanswered));

    let answers = answers(deliver(&mut there, &mut here, 2));
    assert_eq!(
        answers,
        [
            ("second", Ok(Bytes::from_static(b"b"))),
            ("first", Err(Failure::Unanswered))
        ]
    );
    assert_eq!((here.open(), there.open()), (0, 0));
    assert_eq!((here.queue_bytes(), there.queue_bytes()), (0, 0));
}

#[test]
fn who_asks_beyond_the_grant_is_told_and_has_sent_nothing() {
    let (mut here, _) = pair();
    for _ in 0..4 {
        here.request(asked(10, 10), "in").expect("room");
    }
    let (waiter, unsent) = here.request(asked(0, 0), "out").expect_err("none left");

    assert_eq!(waiter, "out");
    assert_eq!(unsent, Unsent::Exceeded(Exceeded::Requests { limit: 4 }));
    assert_eq!(here.queue_bytes(), 4 * 46);
}

#[test]
fn a_share_comes_back_with_the_answer_and_not_before() {
    let (mut here, mut there) = pair();
    here.request(asked(1_000, 0), "a").expect("room");
    here.request(asked(1_000, 0), "b").expect("room");
    let came = requests(deliver(&mut here, &mut there, 1));
    assert!(
        here.request(asked(1, 0), "c").is_err(),
        "written is not answered"
    );

    there.reply(came[0].id, Ok(Bytes::new()));
    assert!(here.request(asked(1, 0), "c").is_err(), "on its way");
    deliver(&mut there, &mut here, 2);

    here.request(asked(1_000, 0), "c").expect("room again");
}

#[test]
fn a_side_that_reads_nothing_costs_the_other_no_more_than_the_grant() {
    let (mut here, mut there) = pair();
    // Every request of the grant is served, and no answer ever leaves.
    let mut asked_total = 0;
    for _ in 0..1_000 {
        if here.request(asked(1, 300), "x").is_ok() {
            asked_total += 1;
        }
        for request in requests(deliver(&mut here, &mut there, 1)) {
            there.reply(request.id, Ok(Bytes::from(vec![0; 300])));
        }
    }
    assert_eq!(asked_total, 4);
    assert!(there.queue_bytes() <= 4 * 336);
}

#[test]
fn a_reply_beyond_its_room_is_not_sent() {
    let (mut here, mut there) = pair();
    here.request(asked(1, 5), "short").expect("room");
    let came = requests(deliver(&mut here, &mut there, 1));
    there.reply(came[0].id, Ok(Bytes::from_static(b"too long")));

    let answers = answers(deliver(&mut there, &mut here, 1));

    assert_eq!(answers, [("short", Err(Failure::ReplyTooLarge))]);
}

#[test]
fn a_peer_that_breaks_the_protocol_is_found() {
    let request = |id, bytes| {
        Frame::Request(Request {
            id,
            channel: Channel::default(),
            deadline_ms: 1,
            reply_bytes_max: 0,
            payload: Bytes::from(vec![0; bytes]),
        })
    };
    let (mut here, mut there) = pair();
    for id in 1..=4 {
        there.handle_frame(request(id, 10), 0).expect("granted");
    }
    assert!(matches!(
        there.handle_frame(request(5, 10), 0),
        Err(Violation::Grant(Exceeded::Requests { limit: 4 }))
    ));
    assert!(matches!(
        there.handle_frame(request(4, 10), 0),
        Err(Violation::Id { id: 4, last: 4 })
    ));
    let reply = Frame::Reply {
        id: 1,
        payload: Bytes::new(),
    };
    assert!(matches!(
        here.handle_frame(reply.clone(), 0),
        Err(Violation::NotOpen(1))
    ));
    assert!(matches!(there.handle_frame(reply, 0), Err(Violation::Side)));
    assert!(matches!(
        here.handle_frame(request(1, 0), 0),
        Err(Violation::Side)
    ));
    here.request(asked(0, 2), "x").expect("room");
    let long = Frame::Reply {
        id: 1,
        payload: Bytes::from_static(b"abc"),
    };
    assert!(matches!(
        here.handle_frame(long, 0),
        Err(Violation::Room { bytes: 3, room: 2 })
    ));
}

#[test]
fn the_highest_id_is_taken_once() {
    let (_, mut there) = pair();
    let last = || {
        Frame::Request(Request {
            id: u64::MAX,
            channel: Channel::default(),
            deadline_ms: 1,
            reply_bytes_max: 0,
            payload: Bytes::new(),
        })
    };
    there.handle_frame(last(), 0).expect("the first");
    assert!(matches!(
        there.handle_frame(last(), 0),
        Err(Violation::Id { .. })
    ));
}

#[test]
fn a_ping_overtakes_what_is_queued_and_a_turn_has_its_bound() {
    let (mut here, _) = pair();
    here.request(asked(1_000, 0), "a").expect("room");
    here.request(asked(900, 0), "b").expect("room");
    here.request(asked(10, 0), "c").expect("room");

    let first = turn(&mut here, 0);
    let second = turn(&mut here, 0);

    assert!(matches!(first[0], Frame::Ping { .. }));
    assert_eq!(first.len(), 3, "a ping and what passes the bound");
    assert_eq!(second.len(), 1);
}

#[test]
fn the_side_that_dialed_pings_and_learns_how_long_it_took() {
    let (mut here, mut there) = pair();
    assert!(matches!(turn(&mut here, 0)[..], [Frame::Ping { id: 1 }]));
    assert_eq!(here.next_timeout_ms(), 100);
    here.handle_timeout(99).expect("heard");
    assert!(turn(&mut here, 99).is_empty());
    here.handle_timeout(100).expect("heard");
    let pings = turn(&mut here, 100);
    there.handle_frame(pings[0].clone(), 103).expect("a ping");
    let pongs = turn(&mut there, 103);
    here.handle_frame(pongs[0].clone(), 107).expect("a pong");

    assert_eq!(here.round_trip_ms(), Some(7));
}

#[test]
fn of_many_pings_the_newest_is_answered_once() {
    let (_, mut there) = pair();
    for id in 1..1_000 {
        there.handle_frame(Frame::Ping { id }, 0).expect("a ping");
    }
    assert_eq!(turn(&mut there, 0), [Frame::Pong { id: 999 }]);
}

#[test]
fn the_side_that_accepted_pings_only_when_it_wrote_nothing() {
    let (_, mut there) = pair();
    there.handle_alive(150);
    there.handle_timeout(199).expect("heard");
    assert!(turn(&mut there, 199).is_empty());
    there.handle_timeout(200).expect("heard");
    assert!(matches!(turn(&mut there, 200)[..], [Frame::Ping { .. }]));
    there.handle_timeout(201).expect("heard");
    assert!(turn(&mut there, 201).is_empty());
}

#[test]
fn silence_is_counted_from_the_last_byte() {
    let (mut here, _) = pair();
    here.handle_alive(500);
    here.handle_timeout(1_499).expect("heard");
    assert_eq!(here.handle_timeout(1_500), Err(1_000));
}

#[test]
fn the_last_frame_says_why_and_nothing_follows() {
    let (mut here, mut there) = pair();
    here.request(asked(1, 0), "waits").expect("room");
    here.close(CloseReason::Stopping);
    here.close(CloseReason::Silent);
    assert!(matches!(
        here.request(asked(1, 0), "late"),
        Err(("late", Unsent::Closing))
    ));

    let frames = turn(&mut here, 0);

    assert_eq!(frames, [Frame::Close(CloseReason::Stopping)]);
    assert!(turn(&mut here, 500).is_empty());
    assert_eq!(here.closed(), Some(CloseReason::Stopping));
    assert!(matches!(
        there.handle_frame(frames[0].clone(), 0),
        Ok(Arrived::Close(CloseReason::Stopping))
    ));
    assert_eq!(here.end().collect::<Vec<_>>(), ["waits"]);
}
