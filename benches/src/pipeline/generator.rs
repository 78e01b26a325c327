//! The load: many connections, each with a window of PUBLISH packets made beforehand.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use telemetry::Row;
use telemetry::sample::{Device, INTERVAL_MS, Variant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use super::Error;
use crate::fleet::Latencies;

/// Rows of a device that are made beforehand; then they come again with later times.
const ROWS_KEPT: usize = 48;

/// How long everything in flight may take to be acknowledged at the end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

const SEED: u64 = 7;

/// Says what is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) connections: u32,
    /// Number of the first one: each number is a device.
    pub(crate) first: u32,
    pub(crate) window: u16,
    pub(crate) duration: Duration,
    /// Time of the first rows; each device's rows are 10 s apart.
    pub(crate) start_ms: i64,
    /// Messages a second of all connections together; `None`: as the windows allow.
    pub(crate) rate_per_s: Option<f64>,
    /// Metrics of a message.
    pub(crate) metrics: usize,
    /// Payloads shorter than this are brought to it.
    pub(crate) payload_bytes_min: usize,
}

impl Load {
    /// Whole rows of the standard fleet, as fast as one message in flight lets them.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            connections: 1,
            first: 0,
            window: 1,
            duration: Duration::from_secs(1),
            start_ms: 0,
            rate_per_s: None,
            metrics: usize::MAX,
            payload_bytes_min: 0,
        }
    }
}

/// Is what others may watch while it is sent.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) acked: AtomicU64,
    /// Connections that ended before their time; their devices send no more.
    pub(crate) disconnected: AtomicU64,
}

/// Is what came of it.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) messages: u64,
    pub(crate) points: u64,
    pub(crate) payload_bytes: u64,
    /// From the first PUBLISH to the last PUBACK.
    pub(crate) elapsed: Duration,
    pub(crate) latencies: Latencies,
    /// Why the first connection that ended before its time did.
    pub(crate) disconnected: Option<String>,
}

impl Sent {
    /// Refuses a run in which a connection ended before its time.
    pub(crate) fn require_connected(&self) -> Result<(), Error> {
        match &self.disconnected {
            None => Ok(()),
            Some(reason) => Err(Error::Failed(reason.clone())),
        }
    }
}

struct Shared {
    load: Load,
    live: Arc<Live>,
    latencies: Latencies,
    messages: Cell<u64>,
    points: Cell<u64>,
    payload_bytes: Cell<u64>,
    last_ack: Cell<Instant>,
    /// See [`Sent::disconnected`].
    disconnected: RefCell<Option<String>>,
}

/// A PUBLISH whose packet id and time are put in when it is sent.
struct Packet {
    bytes: Box<[u8]>,
    packet_id_at: usize,
    ts_at: usize,
    payload_len: usize,
    points: usize,
}

/// Connects everything, calls `begin`, sends for the time asked for and waits for what is in
/// flight. Uses the calling thread alone.
///
/// # Errors
/// When a connection cannot be made, or PUBACKs are missing at the end. Connections that end
/// before their time are counted instead.
pub(crate) fn run(
    load: Load,
    live: &Arc<Live>,
    begin: impl FnOnce() -> Result<(), Error>,
) -> Result<Sent, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Failed(format!("the generator's runtime: {error}")))?;
    LocalSet::new().block_on(&runtime, async move {
        let shared = Rc::new(Shared {
            load,
            live: Arc::clone(live),
            latencies: Latencies::default(),
            messages: Cell::new(0),
            points: Cell::new(0),
            payload_bytes: Cell::new(0),
            last_ack: Cell::new(Instant::now()),
            disconnected: RefCell::new(None),
        });
        let (go, wait) = watch::channel(None);
        let mut tasks = JoinSet::new();
        for number in 0..load.connections {
            let device = load.first + number;
            let packets = packets(device, &load);
            let stream = connect(load.address, device).await.map_err(|error| {
                Error::Failed(format!("connection {number} to {}: {error}", load.address))
            })?;
            let (shared, mut wait) = (Rc::clone(&shared), wait.clone());
            tasks.spawn_local(async move {
                let start = wait.wait_for(Option::is_some).await.map(|start| *start);
                let start = start.ok().flatten().unwrap_or_else(Instant::now);
                let schedule = Schedule::new(&load, number, start);
                if let Err(error) = drive(stream, &packets, &schedule, &shared).await {
                    shared.live.disconnected.fetch_add(1, Ordering::Relaxed);
                    let mut first = shared.disconnected.borrow_mut();
                    first.get_or_insert_with(|| format!("connection {number}: {error}"));
                }
            });
        }
        begin()?;
        let started = Instant::now();
        go.send_replace(Some(started));
        let ended = tokio::time::timeout(load.duration + DRAIN_DEADLINE, async {
            while let Some(ended) = tasks.join_next().await {
                ended.map_err(|error| Error::Failed(format!("a connection's task: {error}")))?;
            }
            Ok(())
        });
        ended.await.map_err(|_| {
            Error::Failed(format!(
                "PUBACKs are missing {DRAIN_DEADLINE:?} after the last PUBLISH"
            ))
        })??;
        drop(tasks);
        let shared = Rc::into_inner(shared).expect("the tasks have ended");
        Ok(Sent {
            messages: shared.messages.get(),
            points: shared.points.get(),
            payload_bytes: shared.payload_bytes.get(),
            elapsed: shared.last_ack.get().duration_since(started),
            latencies: shared.latencies,
            disconnected: shared.disconnected.into_inner(),
        })
    })
}

/// When the messages of one connection are due.
struct Schedule {
    until: Instant,
    first: Instant,
    /// Zero: as the window allows.
    interval: Duration,
}

impl Schedule {
    /// The connections' first messages are spread over their common interval.
    fn new(load: &Load, number: u32, start: Instant) -> Self {
        let interval = load.rate_per_s.map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(f64::from(load.connections) / rate)
        });
        Self {
            until: start + load.duration,
            first: start + interval.mul_f64(f64::from(number) / f64::from(load.connections)),
            interval,
        }
    }

    /// When the message of this number is due; `None`: at once, or never for it would be too late.
    fn due(&self, sequence: usize) -> Option<Instant> {
        let due = self.first + self.interval.mul_f64(sequence as f64);
        (!self.interval.is_zero() && due < self.until).then_some(due)
    }
}

async fn connect(address: SocketAddr, number: u32) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let id = client_id(number);
    // MQTT 3.1.1, clean session, keepalive of an hour.
    let mut connect = vec![0x10, 12 + id.len() as u8];
    connect.extend_from_slice(b"\x00\x04MQTT\x04\x02\x0e\x10\x00");
    connect.push(id.len() as u8);
    connect.extend_from_slice(id.as_bytes());
    stream.write_all(&connect).await?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await?;
    if connack != [0x20, 2, 0, 0] {
        return Err(io::Error::other(format!("CONNACK {connack:02x?}")));
    }
    Ok(stream)
}

fn client_id(number: u32) -> String {
    format!("bench-{number:05}")
}

/// Sends what is due as far as the window allows, until it is time; then takes the PUBACKs that are missing.
async fn drive(
    mut stream: TcpStream,
    packets: &[Packet],
    schedule: &Schedule,
    shared: &Shared,
) -> io::Result<()> {
    let mut in_flight: VecDeque<(u16, Instant)> = VecDeque::new();
    let (mut sequence, mut packet_id) = (0, 0_u16);
    let mut out = Vec::new();
    let (mut acks, mut filled) = ([0; 4 * 64], 0);
    loop {
        let now = Instant::now();
        out.clear();
        let mut next_due = None;
        while in_flight.len() < usize::from(shared.load.window) && now < schedule.until {
            next_due = schedule.due(sequence);
            // Latency counts from when a message was due, not from when the window let it go.
            let since = match next_due {
                Some(due) if due <= now => due,
                None if schedule.interval.is_zero() => now,
                _ => break,
            };
            packet_id = packet_id.checked_add(1).unwrap_or(1);
            in_flight.push_back((packet_id, since));
            append(packets, sequence, packet_id, shared, &mut out);
            sequence += 1;
        }
        stream.write_all(&out).await?;
        // A message that is due already waits for the window, which a PUBACK opens.
        let next_due = next_due.filter(|due| *due > now);
        if in_flight.is_empty() && next_due.is_none() {
            return Ok(());
        }
        let read = tokio::select! {
            biased;
            read = stream.read(&mut acks[filled..]) => read?,
            () = sleep_until(next_due) => continue,
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        let now = Instant::now();
        let (whole, rest) = acks[..filled].as_chunks::<4>();
        for ack in whole {
            let Some((expected, since)) = in_flight.pop_front() else {
                return Err(io::Error::other(format!("{ack:02x?} for nothing")));
            };
            let [high, low] = expected.to_be_bytes();
            if *ack != [0x40, 2, high, low] {
                return Err(io::Error::other(format!(
                    "{ack:02x?} instead of PUBACK {expected}"
                )));
            }
            shared.latencies.record(now - since);
        }
        let acked = whole.len() as u64;
        shared.live.acked.fetch_add(acked, Ordering::Relaxed);
        shared.last_ack.set(now);
        let (taken, left) = (4 * whole.len(), rest.len());
        acks.copy_within(taken..taken + left, 0);
        filled = left;
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn append(packets: &[Packet], sequence: usize, packet_id: u16, shared: &Shared, out: &mut Vec<u8>) {
    let packet = &packets[sequence % packets.len()];
    let start = out.len();
    out.extend_from_slice(&packet.bytes);
    let packet_id_at = start + packet.packet_id_at;
    out[packet_id_at..packet_id_at + 2].copy_from_slice(&packet_id.to_be_bytes());
    let mut ts_ms = shared.load.start_ms + sequence as i64 * INTERVAL_MS;
    let ts_at = start + packet.ts_at;
    for digit in out[ts_at..ts_at + TS_DIGITS].iter_mut().rev() {
        *digit = b'0' + (ts_ms % 10) as u8;
        ts_ms /= 10;
    }
    let add = |to: &Cell<u64>, count: usize| to.set(to.get() + count as u64);
    add(&shared.messages, 1);
    add(&shared.points, packet.points);
    add(&shared.payload_bytes, packet.payload_len);
}

/// Digits of a time in milliseconds from 2001 to 2286.
const TS_DIGITS: usize = 13;

fn packets(number: u32, load: &Load) -> Vec<Packet> {
    let device = Device::of_variant(Variant::Standard, SEED, u64::from(number), load.start_ms);
    let topic = format!("fleet/{}/telemetry", client_id(number));
    device
        .take(ROWS_KEPT)
        .map(|row| packet(&topic, &row, load))
        .collect()
}

fn packet(topic: &str, row: &Row, load: &Load) -> Packet {
    let mut payload = payload_of(row, load.metrics);
    lengthen(&mut payload, load.payload_bytes_min);
    let rest = 2 + topic.len() + 2 + payload.len();
    let mut bytes = vec![0x32];
    let mut left = rest;
    while left > 0 {
        bytes.push((left % 128) as u8 | if left > 127 { 0x80 } else { 0 });
        left /= 128;
    }
    bytes.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    bytes.extend_from_slice(topic.as_bytes());
    let packet_id_at = bytes.len();
    bytes.extend_from_slice(&[0, 0]);
    let ts_at = bytes.len() + "{\"ts\":".len();
    bytes.extend_from_slice(payload.as_bytes());
    Packet {
        bytes: bytes.into(),
        packet_id_at,
        ts_at,
        payload_len: payload.len(),
        points: row.len().min(load.metrics),
    }
}

/// The message of a row.
pub(super) fn payload(row: &Row) -> String {
    payload_of(row, usize::MAX)
}

fn payload_of(row: &Row, metrics: usize) -> String {
    use std::fmt::Write;
    let mut text = format!("{{\"ts\":{:0TS_DIGITS$},\"metrics\":{{", row.ts_ms);
    for (at, (name, value)) in row.metrics().take(metrics).enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(text, "{comma}\"{name}\":{value}").expect("a String takes any text");
    }
    text + "}}"
}

/// Brings a message to a length without changing what it says: zeros before its end, behind the
/// decimal point of the last number.
fn lengthen(payload: &mut String, bytes: usize) {
    let missing = bytes.saturating_sub(payload.len());
    if missing == 0 {
        return;
    }
    let end = payload.len() - "}}".len();
    let number = payload[..end].rfind(':').map_or(end, |colon| colon + 1);
    let zeros = "0".repeat(missing);
    let zeros = match missing {
        _ if payload[number..end].contains('.') => zeros,
        1 => " ".to_owned(),
        _ => format!(".{}", &zeros[1..]),
    };
    payload.insert_str(end, &zeros);
}

#[cfg(test)]
mod tests {
    use telemetry::payload::Decoder;

    use super::*;

    #[test]
    fn a_lengthened_message_has_its_length_and_says_the_same() {
        let mut device = Device::of_variant(Variant::Standard, SEED, 1, 1_700_000_000_000);
        for metrics in 1..=20 {
            let row = device.next().expect("rows without end");
            let short = payload_of(&row, metrics);
            for more in 0..12 {
                let mut long = short.clone();
                lengthen(&mut long, short.len() + more);
                assert_eq!(long.len(), short.len() + more, "{long}");
                let read = |text: &str| {
                    let decoded = Decoder::new().decode_json(text.as_bytes(), 1_700_000_300_000);
                    decoded
                        .unwrap_or_else(|error| panic!("{text}: {error}"))
                        .row
                };
                assert_eq!(read(&long), read(&short), "{long}");
            }
        }
    }

    #[test]
    fn a_schedule_spreads_the_connections_and_ends_in_time() {
        let start = Instant::now();
        let load = Load {
            connections: 4,
            rate_per_s: Some(8.0),
            duration: Duration::from_secs(1),
            ..Load::new(([127, 0, 0, 1], 1).into())
        };
        let due = |number, sequence| {
            let due = Schedule::new(&load, number, start).due(sequence);
            due.map(|due| (due - start).as_millis())
        };
        assert_eq!(
            (due(0, 0), due(1, 0), due(3, 0)),
            (Some(0), Some(125), Some(375))
        );
        assert_eq!(
            (due(0, 1), due(3, 1), due(0, 2)),
            (Some(500), Some(875), None)
        );
    }
}
