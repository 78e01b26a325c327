use std::sync::Arc;

use bytes::Bytes;
use mqtt::QoS;

use super::Limits;
use super::queue::{Entry, Pushed, Queue};
use crate::{MESSAGE_OVERHEAD_BYTES, Message, Seq, WallMs};

fn entry(payload: &'static str, qos: QoS) -> Entry {
    let message = Message {
        topic: "t".try_into().expect("a topic"),
        payload: Bytes::from_static(payload.as_bytes()),
        qos,
        retain: false,
        properties: None,
        publisher: None,
        received: WallMs(0),
        expiry: None,
    };
    Entry {
        seq: Seq(0),
        message: Arc::new(message),
        qos,
        retain: false,
        ids: mqtt::SubscriptionIds::new(),
        released: false,
    }
}

fn limits(queue_messages: usize) -> Limits {
    Limits {
        queue_messages,
        ..Limits::default()
    }
}

fn drained(queue: &mut Queue) -> Vec<Bytes> {
    queue.advance_sent(usize::MAX);
    queue.restart_delivery();
    let next = std::iter::from_fn(|| queue.next_delivery().map(|e| e.message.payload.clone()));
    next.collect()
}

#[test]
fn a_full_queue_drops_the_oldest_unsent_qos_1_before_qos_2() {
    let mut queue = Queue::default();
    let limits = limits(3);
    queue.push(entry("sent", QoS::AtLeastOnce), false, &limits);
    queue.advance_sent(1);
    queue.push(entry("two", QoS::ExactlyOnce), false, &limits);
    queue.push(entry("one", QoS::AtLeastOnce), false, &limits);

    let first = queue.push(entry("new", QoS::ExactlyOnce), false, &limits);
    let second = queue.push(entry("newer", QoS::AtLeastOnce), false, &limits);

    let taken = Pushed {
        taken: true,
        dropped: 1,
    };
    assert_eq!((first, second), (taken, taken));
    assert_eq!(drained(&mut queue), ["sent", "new", "newer"]);
}

#[test]
fn a_queue_of_sent_messages_drops_the_new_one() {
    let mut queue = Queue::default();
    let limits = limits(2);
    queue.push(entry("a", QoS::AtLeastOnce), false, &limits);
    queue.push(entry("b", QoS::AtLeastOnce), false, &limits);
    queue.advance_sent(10);

    let pushed = queue.push(entry("c", QoS::ExactlyOnce), false, &limits);

    let dropped = Pushed {
        taken: false,
        dropped: 1,
    };
    assert_eq!(pushed, dropped);
    assert_eq!(drained(&mut queue), ["a", "b"]);
}

#[test]
fn bytes_bound_the_queue_and_return_to_zero() {
    let mut queue = Queue::default();
    let limits = Limits {
        queue_bytes: 2 * (MESSAGE_OVERHEAD_BYTES + 2),
        ..Limits::default()
    };
    for payload in ["a", "b", "c"] {
        queue.push(entry(payload, QoS::AtLeastOnce), false, &limits);
    }
    assert_eq!(queue.len(), 2);
    assert_eq!(queue.bytes(), limits.queue_bytes);

    assert!(queue.ack(Seq(1)));
    assert!(queue.ack(Seq(2)));

    assert_eq!((queue.len(), queue.bytes()), (0, 0));
}

#[test]
fn a_message_above_the_byte_limit_costs_no_other() {
    let mut queue = Queue::default();
    let limits = Limits {
        queue_bytes: MESSAGE_OVERHEAD_BYTES + 3,
        ..Limits::default()
    };
    queue.push(entry("ab", QoS::AtLeastOnce), false, &limits);

    let pushed = queue.push(entry("abc", QoS::AtLeastOnce), false, &limits);

    assert!(!pushed.taken);
    assert_eq!(drained(&mut queue), ["ab"]);
}

#[test]
fn sent_upto_never_goes_back_and_never_reaches_a_packet_id_in_use() {
    let mut queue = Queue::default();
    let limits = Limits {
        queue_bytes: usize::MAX,
        ..limits(40_000)
    };
    for _ in 0..32_768 {
        queue.push(entry("m", QoS::AtLeastOnce), false, &limits);
    }

    let held_back = drained(&mut queue).len();
    assert!(queue.ack(Seq(0)));
    let after = drained(&mut queue).len();

    // Sequence 32 767 would take the packet id of sequence 0.
    assert_eq!(held_back, 32_767);
    assert_eq!(after, 32_767);
}

#[test]
fn held_messages_get_their_sequence_when_they_leave() {
    let mut queue = Queue::default();
    let limits = limits(10);
    queue.push(entry("held", QoS::AtLeastOnce), true, &limits);
    queue.push(entry("row", QoS::AtLeastOnce), false, &limits);
    assert_eq!(drained(&mut queue), ["row"]);

    queue.unhold(|_| false);

    assert_eq!(drained(&mut queue), ["row", "held"]);
}

#[test]
fn expiry_spares_what_was_sent() {
    let mut queue = Queue::default();
    let limits = limits(10);
    for payload in ["sent", "unsent"] {
        let mut entry = entry(payload, QoS::ExactlyOnce);
        let mut message = (*entry.message).clone();
        message.expiry = Some(WallMs(5));
        entry.message = Arc::new(message);
        queue.push(entry, false, &limits);
        queue.advance_sent(1);
    }

    assert_eq!(queue.expire(WallMs(4)), 0);
    assert_eq!(queue.expire(WallMs(5)), 1);

    assert_eq!(queue.expiry_min(), None);
    assert_eq!(drained(&mut queue), ["sent"]);
}
