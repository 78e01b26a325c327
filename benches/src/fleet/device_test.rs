use std::time::Duration;

use super::device::{BACKFILL_MESSAGES, Device, Outgoing, Plan, Sending};

const MS: Duration = Duration::from_millis(1);

fn plan() -> Plan {
    Plan {
        device: 7,
        seed: 1,
        start_ms: 1_000_000,
        phase: MS * 50,
        interval: MS * 100,
        end: MS * 1_050,
        inflight_max: 3,
        resend_one_in: 0,
        backfill: false,
    }
}

fn poll_all(device: &mut Device, now: Duration) -> Vec<Outgoing> {
    std::iter::from_fn(|| device.poll_publish(now)).collect()
}

fn sequences(outgoing: &[Outgoing]) -> Vec<u64> {
    outgoing
        .iter()
        .map(|outgoing| outgoing.message.sequence)
        .collect()
}

#[test]
fn a_device_measures_at_its_phase_and_interval_and_stops_at_the_end() {
    let mut device = Device::new(Plan {
        inflight_max: 100,
        ..plan()
    });
    device.handle_time(MS * 49);
    assert_eq!(poll_all(&mut device, MS * 49), []);

    device.handle_time(MS * 10_000);
    let sent = poll_all(&mut device, MS * 10_000);

    assert_eq!(sequences(&sent), (0..10).collect::<Vec<_>>());
    let times: Vec<i64> = sent.iter().map(|outgoing| outgoing.message.ts_ms).collect();
    assert_eq!(
        times,
        (0..10).map(|n| 1_000_050 + 100 * n).collect::<Vec<i64>>()
    );
    assert_eq!(device.next_measurement(), None);
}

#[test]
fn the_window_holds_messages_back_until_a_puback_comes() {
    let mut device = Device::new(plan());
    device.handle_time(MS * 500);
    let sent = poll_all(&mut device, MS * 500);
    assert_eq!(sequences(&sent), [0, 1, 2]);

    let acknowledged = device.handle_puback(sent[1].packet_id, MS * 507).unwrap();

    assert_eq!((acknowledged.sequence, acknowledged.first), (1, true));
    assert_eq!(acknowledged.latency, MS * 7);
    assert_eq!(sequences(&poll_all(&mut device, MS * 507)), [3]);
    assert_eq!(
        device.handle_puback(sent[1].packet_id, MS * 508),
        None,
        "a second PUBACK"
    );
}

#[test]
fn after_a_reconnect_what_is_unacknowledged_goes_out_again_under_its_id_and_in_order() {
    let mut device = Device::new(plan());
    device.handle_time(MS * 500);
    let sent = poll_all(&mut device, MS * 500);
    device.handle_puback(sent[0].packet_id, MS * 501).unwrap();

    device.handle_connected();
    let again = poll_all(&mut device, MS * 600);

    assert_eq!(sequences(&again), [1, 2, 3]);
    assert_eq!(again[0].packet_id, sent[1].packet_id);
    assert_eq!(again[0].message, sent[1].message);
    let sendings: Vec<Sending> = again.iter().map(|outgoing| outgoing.sending).collect();
    assert_eq!(
        sendings,
        [
            Sending::Unacknowledged,
            Sending::Unacknowledged,
            Sending::First
        ]
    );
}

#[test]
fn one_message_in_n_is_sent_again_after_its_puback_with_a_new_id_and_only_once() {
    let mut device = Device::new(Plan {
        device: 0,
        resend_one_in: 5,
        ..plan()
    });
    let mut on_purpose = Vec::new();
    let mut now = Duration::ZERO;
    while !device.is_done() {
        now += MS * 10;
        device.handle_time(now);
        for outgoing in poll_all(&mut device, now) {
            if outgoing.sending == Sending::OnPurpose {
                on_purpose.push(outgoing.message.sequence);
            }
            let acknowledged = device.handle_puback(outgoing.packet_id, now).unwrap();
            assert_eq!(acknowledged.first, outgoing.sending == Sending::First);
        }
        assert!(now < MS * 5_000, "the device never ends");
    }
    assert_eq!(on_purpose, [0, 5]);
}

#[test]
fn the_backfilling_device_sends_the_newest_first_and_every_message_once() {
    let mut device = Device::new(Plan {
        backfill: true,
        inflight_max: 100,
        ..plan()
    });
    device.handle_time(MS * 10_000);

    let sent = sequences(&poll_all(&mut device, MS * 10_000));

    let batch = BACKFILL_MESSAGES as u64;
    assert_eq!(sent[0], batch - 1);
    let mut sorted = sent.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..10).collect::<Vec<_>>());
    assert_ne!(sent, sorted);
}

#[test]
fn a_device_cut_off_for_long_stops_measuring_instead_of_growing() {
    let mut device = Device::new(Plan {
        end: MS * 1_000_000,
        ..plan()
    });
    device.handle_time(MS * 500_000);
    assert_eq!(device.skipped(), 5_000 - 1_000);
    assert_eq!(sequences(&poll_all(&mut device, MS * 500_000)), [0, 1, 2]);
}

#[test]
fn packet_ids_wrap_without_zero_and_without_one_in_flight() {
    let mut device = Device::new(Plan {
        interval: MS,
        end: MS * 100_000,
        inflight_max: 2,
        ..plan()
    });
    device.handle_time(MS * 60);
    let held = device.poll_publish(MS * 60).unwrap();
    let mut seen_wrap = false;
    let mut previous = held.packet_id;
    for step in 0..70_000_u32 {
        let now = MS * (60 + step);
        device.handle_time(now);
        let outgoing = device.poll_publish(now).unwrap();
        assert_ne!(outgoing.packet_id, 0);
        assert_ne!(outgoing.packet_id, held.packet_id);
        seen_wrap |= outgoing.packet_id < previous;
        previous = outgoing.packet_id;
        device.handle_puback(outgoing.packet_id, now).unwrap();
    }
    assert!(seen_wrap);
}
