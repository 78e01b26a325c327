//! The load: many connections, each with a window of PUBLISH packets made beforehand.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
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
pub(super) struct Load {
    pub(super) address: SocketAddr,
    pub(super) connections: u32,
    pub(super) window: u16,
    pub(super) duration: Duration,
    /// Time of the first rows; each device's rows are 10 s apart.
    pub(super) start_ms: i64,
}

/// Is what came of it.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) messages: u64,
    pub(super) points: u64,
    pub(super) payload_bytes: u64,
    /// From the first PUBLISH to the last PUBACK.
    pub(super) elapsed: Duration,
    pub(super) latencies: Latencies,
}

struct Shared {
    load: Load,
    latencies: Latencies,
    messages: Cell<u64>,
    points: Cell<u64>,
    payload_bytes: Cell<u64>,
    last_ack: RefCell<Instant>,
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
pub(super) fn run(load: Load, begin: impl FnOnce() -> Result<(), Error>) -> Result<Sent, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Failed(format!("the generator's runtime: {error}")))?;
    LocalSet::new().block_on(&runtime, async move {
        let shared = Rc::new(Shared {
            load,
            latencies: Latencies::default(),
            messages: Cell::new(0),
            points: Cell::new(0),
            payload_bytes: Cell::new(0),
            last_ack: RefCell::new(Instant::now()),
        });
        let (go, wait) = watch::channel(None);
        let mut tasks = JoinSet::new();
        for number in 0..load.connections {
            let packets = packets(number, load.start_ms);
            let mut stream = connect(load.address, number).await.map_err(|error| {
                Error::Failed(format!("connection {number} to {}: {error}", load.address))
            })?;
            let (shared, mut wait) = (Rc::clone(&shared), wait.clone());
            tasks.spawn_local(async move {
                let until = wait.wait_for(Option::is_some).await.map(|until| *until);
                let until = until.ok().flatten().unwrap_or_else(Instant::now);
                drive(&mut stream, &packets, until, &shared).await
            });
        }
        begin()?;
        let started = Instant::now();
        go.send_replace(Some(started + load.duration));
        let ended = tokio::time::timeout(load.duration + DRAIN_DEADLINE, async {
            while let Some(ended) = tasks.join_next().await {
                ended
                    .map_err(|error| Error::Failed(format!("a connection's task: {error}")))?
                    .map_err(|error| Error::Failed(format!("a connection: {error}")))?;
            }
            Ok(())
        });
        ended.await.map_err(|_| {
            Error::Failed(format!(
                "PUBACKs are missing {DRAIN_DEADLINE:?} after the last PUBLISH"
            ))
        })??;
        drop(tasks);
        let elapsed = shared.last_ack.borrow().duration_since(started);
        let shared = Rc::into_inner(shared).expect("the tasks have ended");
        Ok(Sent {
            messages: shared.messages.get(),
            points: shared.points.get(),
            payload_bytes: shared.payload_bytes.get(),
            elapsed,
            latencies: shared.latencies,
        })
    })
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

/// Keeps the window full until it is time, then takes the PUBACKs that are missing.
async fn drive(
    stream: &mut TcpStream,
    packets: &[Packet],
    until: Instant,
    shared: &Shared,
) -> io::Result<()> {
    let mut in_flight: VecDeque<(u16, Instant)> = VecDeque::new();
    let (mut sequence, mut packet_id) = (0, 0_u16);
    let mut out = Vec::new();
    let (mut acks, mut filled) = ([0; 4 * 64], 0);
    loop {
        let now = Instant::now();
        out.clear();
        while in_flight.len() < usize::from(shared.load.window) && now < until {
            packet_id = packet_id.checked_add(1).unwrap_or(1);
            in_flight.push_back((packet_id, now));
            append(packets, sequence, packet_id, shared, &mut out);
            sequence += 1;
        }
        stream.write_all(&out).await?;
        if in_flight.is_empty() {
            return Ok(());
        }
        let read = stream.read(&mut acks[filled..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        let now = Instant::now();
        let (whole, rest) = acks[..filled].as_chunks::<4>();
        for ack in whole {
            let Some((expected, sent)) = in_flight.pop_front() else {
                return Err(io::Error::other(format!("{ack:02x?} for nothing")));
            };
            let [high, low] = expected.to_be_bytes();
            if *ack != [0x40, 2, high, low] {
                return Err(io::Error::other(format!(
                    "{ack:02x?} instead of PUBACK {expected}"
                )));
            }
            shared.latencies.record(now - sent);
        }
        *shared.last_ack.borrow_mut() = now;
        let (taken, left) = (4 * whole.len(), rest.len());
        acks.copy_within(taken..taken + left, 0);
        filled = left;
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

fn packets(number: u32, start_ms: i64) -> Vec<Packet> {
    let device = Device::of_variant(Variant::Standard, SEED, u64::from(number), start_ms);
    let topic = format!("fleet/{}/telemetry", client_id(number));
    device
        .take(ROWS_KEPT)
        .map(|row| packet(&topic, &row))
        .collect()
}

fn packet(topic: &str, row: &Row) -> Packet {
    let payload = payload(row);
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
        points: row.len(),
    }
}

/// The message of a row.
pub(super) fn payload(row: &Row) -> String {
    use std::fmt::Write;
    let mut text = format!("{{\"ts\":{:0TS_DIGITS$},\"metrics\":{{", row.ts_ms);
    for (at, (name, value)) in row.metrics().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(text, "{comma}\"{name}\":{value}").expect("a String takes any text");
    }
    text + "}}"
}
