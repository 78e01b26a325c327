use mqtt::{QoS, Topic};

use super::queue::{Entry, Ids, Pushed, Queue};
use super::{Limits, QueuePlace};
use crate::{MESSAGE_OVERHEAD_BYTES, MessageId, Seq, WallMs};

/// An entry whose message is named after its payload, of up to 8 bytes.
fn entry(payload: &str, qos: QoS) -> Entry {
    let mut name = [0; 8];
    name[..payload.len()].copy_from_slice(payload.as_bytes());
    Entry {
        seq: Seq(0),
        message: MessageId(u64::from_le_bytes(name)),
        bytes: (MESSAGE_OVERHEAD_BYTES + 1 + payload.len()) as u32,
        expiry: None.into(),
        qos,
        retain: false,
        ids: Ids::None,
        released: false,
    }
}

fn payload(message: MessageId) -> String {
    let name = message.0.to_le_bytes();
    let text = name.iter().take_while(|byte| **byte != 0);
    text.map(|byte| char::from(*byte)).collect()
}

fn limits(queue_messages: usize) -> Limits {
    Limits {
        queue_messages,
        ..Limits::default()
    }
}

fn drained(queue: &mut Queue) -> Vec<String> {
    queue.advance_sent(usize::MAX);
    queue.restart_delivery();
    queue.deliverable().map(|e| payload(e.message)).collect()
}

#[test]
fn a_full_queue_drops_the_oldest_unsent_qos_1_before_qos_2() {
    let mut queue = Queue::default();
    let limits = limits(3);
    queue.push(
        entry("sent", QoS::AtLeastOnce),
        None,
        &limits,
        &mut Vec::new(),
    );
    queue.advance_sent(1);
    queue.push(
        entry("two", QoS::ExactlyOnce),
        None,
        &limits,
        &mut Vec::new(),
    );
    queue.push(
        entry("one", QoS::AtLeastOnce),
        None,
        &limits,
        &mut Vec::new(),
    );

    let first = queue.push(
        entry("new", QoS::ExactlyOnce),
        None,
        &limits,
        &mut Vec::new(),
    );
    let second = queue.push(
        entry("newer", QoS::AtLeastOnce),
        None,
        &limits,
        &mut Vec::new(),
    );

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
    queue.push(entry("a", QoS::AtLeastOnce), None, &limits, &mut Vec::new());
    queue.push(entry("b", QoS::AtLeastOnce), None, &limits, &mut Vec::new());
    queue.advance_sent(10);

    let pushed = queue.push(entry("c", QoS::ExactlyOnce), None, &limits, &mut Vec::new());

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
        queue.push(
            entry(payload, QoS::AtLeastOnce),
            None,
            &limits,
            &mut Vec::new(),
        );
    }
    assert_eq!(queue.len(), 2);
    assert_eq!(queue.bytes(), limits.queue_bytes);

    assert!(queue.ack(Seq(1), &mut Vec::new()));
    assert!(queue.ack(Seq(2), &mut Vec::new()));

    assert_eq!((queue.len(), queue.bytes()), (0, 0));
}

#[test]
fn a_message_above_the_byte_limit_costs_no_other() {
    let mut queue = Queue::default();
    let limits = Limits {
        queue_bytes: MESSAGE_OVERHEAD_BYTES + 3,
        ..Limits::default()
    };
    queue.push(
        entry("ab", QoS::AtLeastOnce),
        None,
        &limits,
        &mut Vec::new(),
    );

    let pushed = queue.push(
        entry("abc", QoS::AtLeastOnce),
        None,
        &limits,
        &mut Vec::new(),
    );

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
        queue.push(entry("m", QoS::AtLeastOnce), None, &limits, &mut Vec::new());
    }

    let held_back = drained(&mut queue).len();
    assert!(queue.ack(Seq(0), &mut Vec::new()));
    let after = drained(&mut queue).len();

    // Sequence 32 767 would take the packet id of sequence 0.
    assert_eq!(held_back, 32_767);
    assert_eq!(after, 32_767);
}

#[test]
fn held_messages_get_their_sequence_when_they_leave() {
    let mut queue = Queue::default();
    let limits = limits(10);
    let topic: Topic = "t".try_into().expect("a topic");
    queue.push(
        entry("held", QoS::AtLeastOnce),
        Some(&topic),
        &limits,
        &mut Vec::new(),
    );
    queue.push(
        entry("row", QoS::AtLeastOnce),
        None,
        &limits,
        &mut Vec::new(),
    );
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
        entry.expiry = Some(WallMs(5)).into();
        queue.push(entry, None, &limits, &mut Vec::new());
        queue.advance_sent(1);
    }

    assert_eq!(queue.expire(WallMs(4), &mut Vec::new()), 0);
    assert_eq!(queue.expire(WallMs(5), &mut Vec::new()), 1);

    assert_eq!(queue.expiry_min(), None);
    assert_eq!(drained(&mut queue), ["sent"]);
}

#[test]
fn only_what_changed_since_the_last_rows_is_written_again() {
    let mut queue = Queue::default();
    let limits = limits(10);
    for payload in ["a", "b"] {
        queue.push(
            entry(payload, QoS::ExactlyOnce),
            None,
            &limits,
            &mut Vec::new(),
        );
    }
    queue.advance_sent(10);
    assert_eq!(queue.take_changes().0.len(), 2);

    queue.push(entry("c", QoS::AtLeastOnce), None, &limits, &mut Vec::new());
    queue.push(entry("d", QoS::AtLeastOnce), None, &limits, &mut Vec::new());
    let mut left = Vec::new();
    queue.ack(Seq(0), &mut left);
    queue.ack(Seq(3), &mut left);
    queue.release(Seq(1));

    let (put, deleted) = queue.take_changes();
    let put: Vec<QueuePlace> = put.into_iter().map(|(place, _)| place).collect();
    let at = |seq| QueuePlace::Sequenced(Seq(seq));
    assert_eq!((put, deleted), (vec![at(1), at(2)], vec![at(0)]));
    let left: Vec<String> = left.into_iter().map(payload).collect();
    assert_eq!(left, ["a", "d"]);
}
