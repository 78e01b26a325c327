//! Nodes without a number, at a node that decides as a test says.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cluster_core::{FeatureLevel, FolderId, NodeId};
use runtime::Random;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::test_nodes::{TokioClock, address, identity, until};
use super::*;

/// Keeps wishes.
#[derive(Default)]
struct Desk(Mutex<Vec<(Wish, String, Admitter)>>);

impl Service for Desk {
    fn handle_request(&self, _: Incoming) {}

    fn handle_wish(&self, wish: Wish, from: &str, admitter: Admitter) {
        let wish = (wish, from.to_owned(), admitter);
        self.0.lock().unwrap().push(wish);
    }
}

struct Asked {
    hub: MemoryHub,
    desk: Arc<Desk>,
    links: Links,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Broken>>,
}

async fn asked() -> Asked {
    let (hub, desk) = (MemoryHub::default(), Arc::new(Desk::default()));
    let parts = LinkParts {
        config: LinkConfig::default(),
        identity: identity(1),
        clock: Arc::new(TokioClock::new()),
        random: Random::seeded(1),
        service: Arc::clone(&desk) as Arc<dyn Service>,
    };
    let (links, run) = Links::bind(hub.at(&address(1)), &address(1), parts)
        .await
        .unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(run.run(async {
        let _ = stopped.await;
    }));
    Asked {
        hub,
        desk,
        links,
        stop,
        task,
    }
}

impl Asked {
    fn apply(&self, from: &str, wish: Wish) -> JoinHandle<Result<Bytes, NotAdmitted>> {
        let net = self.hub.at(from);
        tokio::spawn(async move { apply(&net, &address(1), wish).await })
    }

    fn count(&self) -> usize {
        self.desk.0.lock().unwrap().len()
    }

    async fn end(self) {
        drop(self.stop);
        self.task.await.unwrap().unwrap();
    }
}

fn wish(folder: u128) -> Wish {
    Wish {
        cluster: None,
        folder: FolderId(folder),
        node: Some(NodeId(7)),
        understood: FeatureLevel(3),
        nonce: folder << 8,
    }
}

fn refusal(outcome: Result<Bytes, NotAdmitted>) -> Refusal {
    match outcome {
        Err(NotAdmitted::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_number_is_told_what_the_cluster_decides() {
    let asked = asked().await;
    for length in [0, 1, ADMISSION_BYTES_MAX as usize] {
        let answer = asked.apply("new", wish(9));
        until(|| asked.count() == 1).await;
        let (heard, from, admitter) = asked.desk.0.lock().unwrap().pop().unwrap();
        assert_eq!((heard, &*from), (wish(9), "new"));
        let payload = Bytes::from(vec![7; length]);
        admitter.admit(payload.clone());
        assert_eq!(answer.await.unwrap().unwrap(), payload);
    }

    let answer = asked.apply("new", wish(9));
    until(|| asked.count() == 1).await;
    let (.., admitter) = asked.desk.0.lock().unwrap().pop().unwrap();
    let why = Refusal::new(RefusalCode::Member, 9_u8, 4_u8);
    admitter.refuse(why);
    let told = refusal(answer.await.unwrap());
    assert_eq!(told, why);
    assert_eq!(
        told.to_string(),
        "data folder 00000000000000000000000000000009 belongs to node 4"
    );
    assert_eq!(asked.links.counters().wishes_total.get(), 4);
    asked.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_asks_once_at_a_time_and_few_ask_at_all() {
    let asked = asked().await;
    let first = asked.apply("10.0.0.1:4000", wish(1));
    until(|| asked.count() == 1).await;
    let second = asked.apply("10.0.0.1:4001", wish(1));
    let crowded = refusal(second.await.unwrap());
    assert_eq!(crowded.code, RefusalCode::Crowded);

    let others: Vec<_> = (2..=4)
        .map(|n| asked.apply(&format!("10.0.0.{n}:4000"), wish(n)))
        .collect();
    until(|| asked.count() == 4).await;
    let fifth = asked.apply("10.0.0.5:4000", wish(5));
    assert_eq!(refusal(fifth.await.unwrap()).code, RefusalCode::Crowded);

    // Whoever drops a wish leaves it undecided, and the place is free again.
    asked.desk.0.lock().unwrap().clear();
    for answer in others.into_iter().chain([first]) {
        let told = refusal(answer.await.unwrap());
        assert_eq!(told.code, RefusalCode::Leaderless);
    }
    let again = asked.apply("10.0.0.1:4002", wish(1));
    until(|| asked.count() == 1).await;
    // The cluster does not decide in time.
    assert_eq!(refusal(again.await.unwrap()).code, RefusalCode::Leaderless);
    asked.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_admission_that_is_too_long_harmed_or_for_another_is_refused() {
    let hub = MemoryHub::default();
    let mut listener = hub.at("liar").listen("liar").await.unwrap();
    let lies = [
        (wish(1).nonce, 4_u32, 0_u32, "garbage"),
        (wish(1).nonce, ADMISSION_BYTES_MAX + 1, 0, "garbage"),
        (wish(2).nonce, 4, crc32c::crc32c(b"good"), "nonce"),
        (wish(1).nonce, 5, 0, "eof"),
    ];
    for (nonce, payload_bytes, payload_crc, what) in lies {
        let net = hub.at("new");
        let answer = tokio::spawn(async move { apply(&net, "liar", wish(1)).await });
        let (opening, _) = listener.accept().await.unwrap();
        let mut stream = opening.await.unwrap();
        let _ = stream.read_u8().await.unwrap();
        let admission = Greeting::Admission(Admission {
            nonce,
            payload_bytes,
            payload_crc,
        });
        stream.write_all(&admission.encode()).await.unwrap();
        stream.write_all(b"good").await.unwrap();
        stream.shutdown().await.unwrap();
        let why = match answer.await.unwrap() {
            Err(NotAdmitted::Unanswered(why)) => why,
            other => panic!("{other:?}"),
        };
        let expected = match what {
            "nonce" => "answers nonce",
            "eof" => "ended the connection",
            _ => "no greeting",
        };
        assert!(why.starts_with("liar: ") && why.contains(expected), "{why}");
    }
}

#[test]
fn a_wish_for_another_number_than_the_certificate_s_is_refused() {
    let mut roster = Roster::new(identity(1));
    let mut met = |wish: Wish, certified: u32| {
        let mut bytes = bytes::BytesMut::from(&Greeting::Wish(wish).encode()[..]);
        answer(&mut bytes, &mut roster, Some(NodeId(certified)), |_| {
            unreachable!("it gets no grant")
        })
    };
    assert_eq!(met(wish(1), 7), Ok(Some(Met::Applicant(wish(1)))));
    let any = Wish {
        node: None,
        ..wish(1)
    };
    assert_eq!(met(any, 7), Ok(Some(Met::Applicant(wish(1)))));
    let refusal = Refusal::new(RefusalCode::Certificate, 7_u32, 8_u32);
    assert_eq!(met(wish(1), 8), Err(Rejected::Ours(refusal)));
}
