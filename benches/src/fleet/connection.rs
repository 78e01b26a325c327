//! The shell around a [`Device`]: connects, writes its packets, reads its acknowledgements,
//! connects again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mqttbytes::QoS;
use mqttbytes::v4::{Connect, Packet, Publish};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::Shared;
use super::device::{Device, Outgoing, Sending};
use super::homes::Homes;
use super::wire::{Lost, Wire};
use crate::ledger::{self, Entry};
use crate::profile;

/// A connection whose oldest packet lacks its PUBACK for so long is given up. A node closes its
/// side after 30 s (`settle_deadline`).
const PUBACK_TIMEOUT: Duration = Duration::from_secs(40);

/// Bytes gathered before a write.
const BATCH_BYTES: usize = 64 * 1024;

/// Runs one device to its end and returns it; it is unfinished if the fleet was stopped.
///
/// # Errors
/// When the ledger takes no more entries.
pub(super) async fn run(mut device: Device, shared: Arc<Shared>) -> Result<Device, ledger::Error> {
    let number = device.number();
    let mut random =
        SmallRng::seed_from_u64(profile::mix(&[shared.config.seed, u64::from(number), 1]));
    let spread = shared
        .config
        .connect_spread
        .mul_f64(f64::from(number) / f64::from(shared.config.devices.max(1)));
    if !wait(spread, &shared).await {
        return Ok(device);
    }
    let mut homes = Homes::of(Arc::clone(&shared.config.addresses), number as usize);
    let mut failures = 0;
    let mut connected_before = false;
    loop {
        let mut connection = Connection::new(&shared, number);
        let ended = tokio::select! {
            opened = connection.open(&homes) => opened,
            () = shared.stop.cancelled() => return Ok(device),
        };
        let ended = match ended {
            Ok(wire) => {
                failures = 0;
                shared.stats.connected.fetch_add(1, Ordering::Relaxed);
                if std::mem::replace(&mut connected_before, true) {
                    shared.stats.reconnects.fetch_add(1, Ordering::Relaxed);
                }
                let ended = connection.serve(wire, &mut device).await;
                shared.stats.connected.fetch_sub(1, Ordering::Relaxed);
                ended
            }
            Err(lost) => {
                shared.stats.refused.fetch_add(1, Ordering::Relaxed);
                Err(lost)
            }
        };
        match ended {
            Ok(()) => return Ok(device),
            Err(Lost::Ledger(error)) => return Err(error),
            Err(lost) => {
                tracing::debug!(client_id = connection.client_id, %lost, failures, "connection lost");
            }
        }
        let delay = shared.config.backoff.delay(failures, random.random());
        failures += 1;
        homes.turn(random.random());
        if !wait(delay, &shared).await {
            return Ok(device);
        }
    }
}

/// Waits; false when the fleet was stopped meanwhile.
async fn wait(delay: Duration, shared: &Shared) -> bool {
    tokio::select! {
        () = tokio::time::sleep(delay) => true,
        () = shared.stop.cancelled() => false,
    }
}

struct Connection<'a> {
    shared: &'a Shared,
    device: u32,
    client_id: String,
    topic: String,
    ping_sent: Option<Instant>,
}

impl<'a> Connection<'a> {
    fn new(shared: &'a Shared, device: u32) -> Self {
        let client_id = profile::device_id(device);
        Self {
            shared,
            device,
            topic: format!("fleet/{client_id}/telemetry"),
            client_id,
            ping_sent: None,
        }
    }

    fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// Connects and waits for CONNACK.
    async fn open(&self, homes: &Homes) -> Result<Wire, Lost> {
        let mut connect = Connect::new(self.client_id.as_str());
        connect.clean_session = self.shared.config.clean_session;
        connect.keep_alive =
            u16::try_from(self.shared.config.keepalive.as_secs()).unwrap_or(u16::MAX);
        Wire::open(homes.address(), &connect).await
    }

    /// Publishes until the device is done or the fleet is stopped; then sends DISCONNECT.
    async fn serve(&mut self, mut wire: Wire, device: &mut Device) -> Result<(), Lost> {
        device.handle_connected();
        let connected_at = self.now();
        loop {
            while let Some(packet) = wire.next_packet()? {
                self.handle_packet(packet, device).await?;
            }
            device.handle_time(self.now());
            self.publish(&mut wire, device).await?;
            if device.is_done() {
                return wire.disconnect(&self.client_id).await;
            }
            let wake_at = self.next_wake(&wire, device, connected_at);
            tokio::select! {
                read = wire.read_more() => read?,
                () = tokio::time::sleep_until(wake_at) => {
                    self.handle_timers(&mut wire, device, connected_at).await?;
                }
                () = self.shared.stop.cancelled() => {
                    return wire.disconnect(&self.client_id).await;
                }
            }
        }
    }

    async fn handle_packet(&mut self, packet: Packet, device: &mut Device) -> Result<(), Lost> {
        match packet {
            Packet::PubAck(puback) => {
                let now = self.now();
                let Some(acknowledged) = device.handle_puback(puback.pkid, now) else {
                    // A second PUBACK, for a PUBLISH that was sent before and after a reconnect.
                    return Ok(());
                };
                let shared = self.shared;
                shared.stats.in_flight.fetch_sub(1, Ordering::Relaxed);
                shared.stats.latencies.record(acknowledged.latency);
                shared
                    .last_puback_us
                    .fetch_max(now.as_micros() as u64, Ordering::Relaxed);
                if acknowledged.first {
                    shared.stats.acknowledged.fetch_add(1, Ordering::Relaxed);
                    self.enter(Entry::Acknowledged {
                        device: self.device,
                        sequence: acknowledged.sequence,
                        ts_ms: acknowledged.ts_ms,
                    })
                    .await?;
                }
                Ok(())
            }
            Packet::PingResp => {
                self.ping_sent = None;
                Ok(())
            }
            _ => Err(Lost::Unexpected("only PUBACK and PINGRESP were due")),
        }
    }

    /// Writes what the window permits.
    async fn publish(&mut self, wire: &mut Wire, device: &mut Device) -> Result<(), Lost> {
        let mut in_flight = device.in_flight();
        while let Some(outgoing) = device.poll_publish(self.now()) {
            let started = device.in_flight() - in_flight;
            in_flight = device.in_flight();
            self.shared
                .stats
                .in_flight
                .fetch_add(started as u64, Ordering::Relaxed);
            // Entered before it is written: the ledger must know all that the store may hold.
            self.enter_sending(&outgoing).await?;
            self.write_publish(wire, outgoing)?;
            if wire.out.len() >= BATCH_BYTES {
                wire.flush().await?;
            }
        }
        wire.flush().await
    }

    async fn enter_sending(&self, outgoing: &Outgoing) -> Result<(), Lost> {
        let (device, sequence) = (self.device, outgoing.message.sequence);
        let stats = &self.shared.stats;
        match outgoing.sending {
            Sending::First => {
                let now = self.now().as_micros() as u64;
                self.shared
                    .first_publish_us
                    .fetch_min(now, Ordering::Relaxed);
                stats.published.fetch_add(1, Ordering::Relaxed);
                let (ts_ms, values) = (outgoing.message.ts_ms, outgoing.message.values);
                self.enter(Entry::Sent {
                    device,
                    sequence,
                    ts_ms,
                    values,
                })
                .await
            }
            Sending::OnPurpose | Sending::Unacknowledged => {
                stats.sent_again.fetch_add(1, Ordering::Relaxed);
                self.enter(Entry::SentAgain { device, sequence }).await
            }
        }
    }

    async fn enter(&self, entry: Entry) -> Result<(), Lost> {
        self.shared.ledger.enter(entry).await.map_err(Lost::Ledger)
    }

    fn write_publish(&self, wire: &mut Wire, outgoing: Outgoing) -> Result<(), Lost> {
        let payload = outgoing.message.payload;
        let mut publish = Publish::from_bytes(self.topic.as_str(), QoS::AtLeastOnce, payload);
        publish.pkid = outgoing.packet_id;
        //# [MQTT-3.3.1-1] The DUP flag MUST be set to 1 by the Client or Server when it attempts
        //# to re-deliver a PUBLISH Packet.
        // A clean session remembers no delivery that this could repeat.
        publish.dup =
            outgoing.sending == Sending::Unacknowledged && !self.shared.config.clean_session;
        publish.write(&mut wire.out).map_err(Lost::Malformed)?;
        Ok(())
    }

    /// Returns when the loop must look at its timers at the latest.
    fn next_wake(&self, wire: &Wire, device: &Device, connected_at: Duration) -> Instant {
        let start = self.shared.start;
        let mut wake = self
            .ping_sent
            .map_or(wire.last_write + self.ping_after(), |sent| {
                sent + self.shared.config.keepalive
            });
        if let Some(due) = device.next_measurement() {
            wake = wake.min(start + due);
        }
        if let Some(sent_at) = device.oldest_sent_at() {
            wake = wake.min(start + sent_at.max(connected_at) + PUBACK_TIMEOUT);
        }
        wake
    }

    async fn handle_timers(
        &mut self,
        wire: &mut Wire,
        device: &Device,
        connected_at: Duration,
    ) -> Result<(), Lost> {
        let waiting_since = device
            .oldest_sent_at()
            .map(|sent_at| sent_at.max(connected_at));
        if waiting_since.is_some_and(|since| self.now() >= since + PUBACK_TIMEOUT) {
            return Err(Lost::Slow("PUBACK"));
        }
        match self.ping_sent {
            Some(sent) if sent.elapsed() >= self.shared.config.keepalive => {
                Err(Lost::Slow("PINGRESP"))
            }
            None if wire.last_write.elapsed() >= self.ping_after() => {
                mqttbytes::v4::PingReq
                    .write(&mut wire.out)
                    .map_err(Lost::Malformed)?;
                wire.flush().await?;
                self.ping_sent = Some(Instant::now());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Half of what was announced, so that a slow network does not cost the connection.
    fn ping_after(&self) -> Duration {
        self.shared.config.keepalive / 2
    }
}
