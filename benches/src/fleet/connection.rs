//! The shell around a [`Device`]: connects, writes its packets, reads its acknowledgements,
//! connects again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use mqttbytes::QoS;
use mqttbytes::v4::{Connect, ConnectReturnCode, Packet, Publish};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::Shared;
use super::device::{Device, Outgoing, Sending};
use crate::ledger::{self, Entry};
use crate::profile;

/// Time for the TCP connect and, separately, for CONNACK.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a write; a peer that takes nothing for so long counts as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection whose oldest packet lacks its PUBACK for so long is given up. A node closes its
/// side after 30 s (`settle_deadline`).
const PUBACK_TIMEOUT: Duration = Duration::from_secs(40);

/// Largest packet a device takes from the node.
const PACKET_BYTES_MAX: usize = 64 * 1024;

/// Bytes gathered before a write.
const BATCH_BYTES: usize = 64 * 1024;

/// Says why one connection ended. The device goes on.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0} took too long")]
    Slow(&'static str),
    #[error("the node closed the connection")]
    Closed,
    #[error("the node refused the connection: {0:?}")]
    Refused(ConnectReturnCode),
    #[error("the node sent what is no packet: {0:?}")]
    Malformed(mqttbytes::Error),
    #[error("the node sent an unexpected packet: {0}")]
    Unexpected(&'static str),
    #[error(transparent)]
    Ledger(ledger::Error),
}

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
    let mut failures = 0;
    let mut connected_before = false;
    loop {
        let mut connection = Connection::new(&shared, number);
        let ended = tokio::select! {
            opened = connection.open() => opened,
            () = shared.stop.cancelled() => return Ok(device),
        };
        let ended = match ended {
            Ok(stream) => {
                failures = 0;
                shared.stats.connected.fetch_add(1, Ordering::Relaxed);
                if std::mem::replace(&mut connected_before, true) {
                    shared.stats.reconnects.fetch_add(1, Ordering::Relaxed);
                }
                let ended = connection.serve(stream, &mut device).await;
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
    received: BytesMut,
    out: BytesMut,
    last_write: Instant,
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
            received: BytesMut::new(),
            out: BytesMut::new(),
            last_write: Instant::now(),
            ping_sent: None,
        }
    }

    fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// Connects and waits for CONNACK.
    async fn open(&mut self) -> Result<TcpStream, Lost> {
        let connecting = TcpStream::connect(self.shared.config.address);
        let mut stream = timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| Lost::Slow("connect"))??;
        stream.set_nodelay(true)?;
        let mut connect = Connect::new(self.client_id.as_str());
        connect.clean_session = self.shared.config.clean_session;
        connect.keep_alive =
            u16::try_from(self.shared.config.keepalive.as_secs()).unwrap_or(u16::MAX);
        connect.write(&mut self.out).map_err(Lost::Malformed)?;
        self.flush(&mut stream).await?;
        let first = timeout(CONNECT_TIMEOUT, self.read_packet(&mut stream))
            .await
            .map_err(|_| Lost::Slow("CONNACK"))??;
        match first {
            Packet::ConnAck(connack) if connack.code == ConnectReturnCode::Success => Ok(stream),
            Packet::ConnAck(connack) => Err(Lost::Refused(connack.code)),
            _ => Err(Lost::Unexpected("another before CONNACK")),
        }
    }

    /// Publishes until the device is done or the fleet is stopped; then sends DISCONNECT.
    async fn serve(&mut self, mut stream: TcpStream, device: &mut Device) -> Result<(), Lost> {
        device.handle_connected();
        let connected_at = self.now();
        loop {
            while let Some(packet) = self.next_packet()? {
                self.handle_packet(packet, device).await?;
            }
            device.handle_time(self.now());
            self.publish(&mut stream, device).await?;
            if device.is_done() {
                return self.disconnect(&mut stream).await;
            }
            let wake_at = self.next_wake(device, connected_at);
            tokio::select! {
                read = stream.read_buf(&mut self.received) => {
                    if read? == 0 {
                        return Err(Lost::Closed);
                    }
                }
                () = tokio::time::sleep_until(wake_at) => {
                    self.handle_timers(&mut stream, device, connected_at).await?;
                }
                () = self.shared.stop.cancelled() => {
                    return self.disconnect(&mut stream).await;
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
    async fn publish(&mut self, stream: &mut TcpStream, device: &mut Device) -> Result<(), Lost> {
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
            self.write_publish(outgoing)?;
            if self.out.len() >= BATCH_BYTES {
                self.flush(stream).await?;
            }
        }
        self.flush(stream).await
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

    fn write_publish(&mut self, outgoing: Outgoing) -> Result<(), Lost> {
        let payload = outgoing.message.payload;
        let mut publish = Publish::from_bytes(self.topic.as_str(), QoS::AtLeastOnce, payload);
        publish.pkid = outgoing.packet_id;
        //# [MQTT-3.3.1-1] The DUP flag MUST be set to 1 by the Client or Server when it attempts
        //# to re-deliver a PUBLISH Packet.
        // A clean session remembers no delivery that this could repeat.
        publish.dup =
            outgoing.sending == Sending::Unacknowledged && !self.shared.config.clean_session;
        publish.write(&mut self.out).map_err(Lost::Malformed)?;
        Ok(())
    }

    /// Returns when the loop must look at its timers at the latest.
    fn next_wake(&self, device: &Device, connected_at: Duration) -> Instant {
        let start = self.shared.start;
        let mut wake = self
            .ping_sent
            .map_or(self.last_write + self.ping_after(), |sent| {
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
        stream: &mut TcpStream,
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
            None if self.last_write.elapsed() >= self.ping_after() => {
                mqttbytes::v4::PingReq
                    .write(&mut self.out)
                    .map_err(Lost::Malformed)?;
                self.flush(stream).await?;
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

    async fn disconnect(&mut self, stream: &mut TcpStream) -> Result<(), Lost> {
        mqttbytes::v4::Disconnect
            .write(&mut self.out)
            .map_err(Lost::Malformed)?;
        // The device has nothing more to say: an error now changes nothing for it.
        if let Err(lost) = self.flush(stream).await {
            tracing::debug!(client_id = self.client_id, %lost, "DISCONNECT was not sent");
        }
        Ok(())
    }

    async fn flush(&mut self, stream: &mut TcpStream) -> Result<(), Lost> {
        if self.out.is_empty() {
            return Ok(());
        }
        timeout(WRITE_TIMEOUT, stream.write_all(&self.out))
            .await
            .map_err(|_| Lost::Slow("a write"))??;
        self.out.clear();
        self.last_write = Instant::now();
        Ok(())
    }

    async fn read_packet(&mut self, stream: &mut TcpStream) -> Result<Packet, Lost> {
        loop {
            if let Some(packet) = self.next_packet()? {
                return Ok(packet);
            }
            if stream.read_buf(&mut self.received).await? == 0 {
                return Err(Lost::Closed);
            }
        }
    }

    /// Takes a packet out of what was received; `None` while it is incomplete.
    fn next_packet(&mut self) -> Result<Option<Packet>, Lost> {
        let before = self.received.len();
        match mqttbytes::v4::read(&mut self.received, PACKET_BYTES_MAX) {
            Ok(packet) => Ok(Some(packet)),
            // The decoder says this of complete but wrong packets too, and has then taken them
            // out of the buffer.
            Err(mqttbytes::Error::InsufficientBytes(_)) if self.received.len() == before => {
                Ok(None)
            }
            Err(error) => Err(Lost::Malformed(error)),
        }
    }
}
