//! The publisher of a pair: one message under way at a time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mqttbytes::QoS;
use mqttbytes::v4::{Packet, Publish};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::client::Client;
use super::{Shared, topic};
use crate::fleet::wire::{Lost, Wire};

/// A connection on which a PUBACK is missing for so long is given up. A node closes its side after
/// 30 s (`settle_deadline`).
const PUBACK_TIMEOUT: Duration = Duration::from_secs(40);

/// Says what a publisher did.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) published: u64,
    pub(super) acked: u64,
    pub(super) sessions_missing: u64,
    pub(super) reconnects: u64,
}

/// Publishes once its subscriber is there, and tells at the end how many were acknowledged.
pub(super) async fn run(
    pair: u32,
    shared: &Shared,
    subscribed: oneshot::Receiver<()>,
    tell_acked: watch::Sender<Option<u64>>,
) -> Published {
    let mut client = Client::new(shared, format!("pair-{pair}-publisher"), pair + 1);
    let mut outbox = Outbox::default();
    tokio::select! {
        () = publish_all(pair, shared, subscribed, &mut client, &mut outbox) => {}
        () = shared.over() => {}
    }
    let acked = outbox.acked();
    tell_acked.send_replace(Some(acked));
    Published {
        published: outbox.next,
        acked,
        sessions_missing: client.sessions_missing,
        reconnects: client.reconnects(),
    }
}

/// What was sent, and what of it lacks its PUBACK.
#[derive(Debug, Default)]
struct Outbox {
    /// Sequence of the next new message.
    next: u64,
    /// The message under way.
    in_flight: Option<u64>,
}

impl Outbox {
    /// All messages but the one under way were acknowledged before it was sent.
    fn acked(&self) -> u64 {
        self.next - u64::from(self.in_flight.is_some())
    }

    fn poll(&mut self) -> u64 {
        let sequence = self.next;
        self.next += 1;
        self.in_flight = Some(sequence);
        sequence
    }
}

/// The packet id of a message, never 0.
fn packet_id(sequence: u64) -> u16 {
    (sequence % u64::from(u16::MAX)) as u16 + 1
}

async fn publish_all(
    pair: u32,
    shared: &Shared,
    subscribed: oneshot::Receiver<()>,
    client: &mut Client<'_>,
    outbox: &mut Outbox,
) {
    if subscribed.await.is_err() {
        // The subscriber was ended before it could subscribe.
        return;
    }
    let topic = topic(pair);
    let start = Instant::now();
    loop {
        let mut wire = client.connect().await;
        match publish(&mut wire, &topic, start, shared, outbox).await {
            Ok(()) => {
                // Ends the connection; the session stays.
                if let Err(lost) = wire.disconnect(&client.id).await {
                    tracing::debug!(%lost, "DISCONNECT cannot be written");
                }
                return;
            }
            Err(lost) => client.handle_lost(&lost).await,
        }
    }
}

/// Publishes until the end on one connection.
async fn publish(
    wire: &mut Wire,
    topic: &str,
    start: Instant,
    shared: &Shared,
    outbox: &mut Outbox,
) -> Result<(), Lost> {
    let end = shared.start + shared.config.duration;
    //# [MQTT-4.4.0-1] ... re-send any unacknowledged PUBLISH packets ... using their original
    //# Packet Identifiers
    let mut again = outbox.in_flight;
    loop {
        let (sequence, dup) = match again.take() {
            Some(sequence) => (sequence, true),
            None => {
                let sent = u32::try_from(outbox.next).unwrap_or(u32::MAX);
                let due = start + shared.config.interval.saturating_mul(sent);
                if due.max(Instant::now()) >= end {
                    return Ok(());
                }
                sleep_until(due).await;
                (outbox.poll(), false)
            }
        };
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, sequence.to_string());
        publish.pkid = packet_id(sequence);
        publish.dup = dup;
        publish.write(&mut wire.out).map_err(Lost::Malformed)?;
        wire.flush().await?;
        let acknowledged = timeout(PUBACK_TIMEOUT, await_puback(wire, publish.pkid)).await;
        acknowledged.map_err(|_| Lost::Slow("PUBACK"))??;
        outbox.in_flight = None;
        shared.stats.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

async fn await_puback(wire: &mut Wire, id: u16) -> Result<(), Lost> {
    match wire.read_packet().await? {
        Packet::PubAck(puback) if puback.pkid == id => Ok(()),
        _ => Err(Lost::Unexpected("only the PUBACK of one message was due")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_not_acknowledged() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.acked(), 0);
        assert_eq!(outbox.poll(), 0);
        assert_eq!(outbox.acked(), 0);
        outbox.in_flight = None;
        assert_eq!((outbox.acked(), outbox.poll()), (1, 1));
    }

    #[test]
    fn packet_ids_begin_again_and_are_never_zero() {
        let ids = [0, 65_534, 65_535, 65_536].map(packet_id);
        assert_eq!(ids, [1, 65_535, 1, 2]);
    }
}
