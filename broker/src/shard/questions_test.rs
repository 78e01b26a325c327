use std::sync::Arc;

use bytes::Bytes;
use cluster::exchange::{RetainedReply, RetainedRequest, RetainedRows, Said};
use mqtt::{Filter, QoS, Topic};
use session::{ConnectionId, Message, Token, WallMs};

use super::*;

fn filter(text: &str) -> Filter {
    text.try_into().expect("a filter")
}

fn question(connection: u64, filters: &[&str]) -> Question {
    let wanted = filters.iter().enumerate();
    Question {
        connection: ConnectionId(connection),
        token: Token(connection),
        wanted: wanted.map(|(at, text)| (at, filter(text))).collect(),
        limit: 10,
    }
}

fn message(topic: &str, bytes: usize) -> Arc<Message> {
    let topic = Topic::try_from(topic).expect("a topic");
    Arc::new(Message {
        topic,
        payload: Bytes::from(vec![0; bytes]),
        qos: QoS::AtLeastOnce,
        retain: true,
        properties: None,
        publisher: None,
        received: WallMs(0),
        expiry: None,
    })
}

/// Answers as a leader does that retains these.
fn answer(request: &RetainedRequest, retained: &[Arc<Message>]) -> RetainedReply {
    let reply = RetainedReply::within(request, |wanted| {
        let is_wanted = |row: &&Arc<Message>| {
            let after = wanted.after.as_ref();
            let is_behind = after.is_none_or(|after| row.topic.levels().gt(after.levels()));
            is_behind && wanted.filter.matches(&row.topic)
        };
        let rows = retained
            .iter()
            .filter(is_wanted)
            .take(wanted.limit as usize);
        rows.cloned().collect()
    });
    assert!(reply.encode().len() <= request.reply_bytes as usize);
    reply
}

/// Asks until everything is answered; the answers, and how many requests it took.
fn ask_all(questions: &mut Questions, retained: &[Arc<Message>]) -> (Vec<Answered>, usize) {
    let (mut answered, mut requests) = (Vec::new(), 0);
    while let Some((number, request)) = questions.poll_request() {
        requests += 1;
        assert!(requests < 1_000, "it comes to an end");
        let reply = answer(&request, retained);
        answered.extend(questions.handle_reply(number, Some(reply)));
    }
    (answered, requests)
}

fn topics(answered: &Answered) -> Vec<Vec<&str>> {
    fn of((_, rows): &RowsAt) -> Vec<&str> {
        rows.iter().map(|row| row.topic.as_str()).collect()
    }
    answered.rows.iter().map(of).collect()
}

#[test]
fn what_gathered_while_a_request_was_under_way_goes_with_the_next() {
    let retained = [message("a/1", 10), message("a/2", 10), message("b", 10)];
    let mut questions = Questions::new(32);
    assert!(questions.push(question(0, &["a/+"])).is_none());
    let (number, request) = questions.poll_request().expect("a request");
    for connection in 1..200 {
        assert!(questions.push(question(connection, &["b", "c"])).is_none());
        assert!(questions.poll_request().is_none());
    }
    let reply = answer(&request, &retained);
    let first = questions.handle_reply(number, Some(reply));
    assert_eq!(first.len(), 1);
    assert_eq!(topics(&first[0]), [vec!["a/1", "a/2"]]);
    let (rest, requests) = ask_all(&mut questions, &retained);
    assert_eq!((rest.len(), requests), (199, 1));
    assert!(rest.iter().all(|one| topics(one) == [vec!["b"], vec![]]));
    assert_eq!(rest[0].connection, ConnectionId(1));
}

#[test]
fn what_does_not_fit_into_one_answer_comes_in_parts_up_to_the_limit() {
    let names: Vec<String> = (10..30).map(|n| format!("a/{n}")).collect();
    let retained: Vec<_> = names.iter().map(|name| message(name, 1_000)).collect();
    let mut questions = Questions::new(u16::MAX);
    for connection in 0..2 {
        assert!(
            questions
                .push(question(connection, &["a/15", "#", "a/29"]))
                .is_none()
        );
    }
    let (answered, requests) = ask_all(&mut questions, &retained);
    assert!(requests > 4, "{requests} requests of 4 KiB");
    assert_eq!(answered.len(), 2);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for one in answered {
        assert_eq!(
            topics(&one),
            [vec!["a/15"], names[..10].to_vec(), vec!["a/29"]]
        );
    }
}

#[test]
fn a_message_larger_than_an_answer_gets_an_answer_of_its_size() {
    let retained = [message("a", 10), message("b", 300_000), message("c", 10)];
    let mut questions = Questions::new(1);
    assert!(questions.push(question(0, &["#"])).is_none());
    let (answered, _) = ask_all(&mut questions, &retained);
    assert_eq!(topics(&answered[0]), [vec!["a", "b", "c"]]);
    assert!(questions.push(question(1, &["a"])).is_none());
    let (_, request) = questions.poll_request().expect("a request");
    assert_eq!(request.reply_bytes, REPLY_BYTES_MAX, "later ones do not");
}

#[test]
fn a_request_without_an_answer_is_asked_again_and_a_late_answer_counts_no_more() {
    let retained = [message("a", 10)];
    let mut questions = Questions::new(1);
    assert!(questions.push(question(0, &["a"])).is_none());
    let (number, request) = questions.poll_request().expect("a request");
    assert!(questions.handle_reply(number, None).is_empty());
    // The shard is led here for a while, and elsewhere again.
    let taken = questions.take_all();
    assert_eq!(taken.len(), 1);
    assert!(questions.push(question(1, &["x"])).is_none());
    let (second, _) = questions.poll_request().expect("a request");
    let late = answer(&request, &retained);
    assert!(questions.handle_reply(number, Some(late)).is_empty());
    assert!(questions.poll_request().is_none(), "one is under way");
    let nothing = RetainedReply {
        answers: vec![RetainedRows {
            rows: Vec::new(),
            is_whole: true,
        }],
        needed_bytes: 0,
    };
    let answered = questions.handle_reply(second, Some(nothing));
    assert_eq!(answered[0].connection, ConnectionId(1));
    assert_eq!(topics(&answered[0]), [Vec::<&str>::new()]);
}

#[test]
fn one_question_too_many_is_answered_with_nothing() {
    let mut questions = Questions::new(1);
    for connection in 0..QUESTIONS_MAX as u64 {
        assert!(questions.push(question(connection, &["a"])).is_none());
    }
    let refused = questions.push(question(7, &["a"])).expect("no room");
    assert_eq!(
        (refused.connection, refused.rows),
        (ConnectionId(7), Vec::new())
    );
    let (_, request) = questions.poll_request().expect("a request");
    assert_eq!(request.wanted.len(), FILTERS_MAX);
}
