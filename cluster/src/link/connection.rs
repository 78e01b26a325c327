//! One framed connection at work: reads, writes and watches the time, until one of them ends it.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, oneshot};

use super::frame::{CloseReason, Decoder, Failure, Frame, Malformed};
use super::lane::Lane;
use super::links::Shared;
use super::net::ByteStream;
use super::peer::PeerState;
use super::service::{Incoming, Responder};
use super::session::{Arrived, Asked, Session, Unsent, Violation};

/// How long the last frame may take, once a connection ends.
const CLOSE_PATIENCE: Duration = Duration::from_millis(200);
/// An idle write buffer above this is given back.
const KEPT_BYTES_MAX: usize = 16 << 10;

pub(super) type Waiter = oneshot::Sender<Result<Bytes, Failure>>;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// This side ended it.
    #[error("closed here: {0}")]
    Here(CloseReason),
    /// The other side ended it.
    #[error("closed by the peer: {0}")]
    There(CloseReason),
    /// Nothing came.
    #[error("nothing was heard for {ms} ms")]
    Silent {
        /// For how long.
        ms: u64,
    },
    /// What came is no frame.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// What came is beyond what was agreed.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// It ended without a last frame.
    #[error("the connection ended")]
    Eof,
    /// The network failed.
    #[error("the connection failed: {0}")]
    Network(io::ErrorKind),
}

impl Ended {
    /// What the other side is told.
    fn reason(self) -> CloseReason {
        match self {
            Self::Here(reason) => reason,
            Self::Silent { .. } => CloseReason::Silent,
            Self::Malformed(_) | Self::Violation(_) => CloseReason::Violation,
            Self::There(_) | Self::Eof | Self::Network(_) => CloseReason::Stopping,
        }
    }
}

/// A connection as those see it who ask and answer on it.
pub(super) struct Line {
    pub(super) lane: Lane,
    session: Mutex<Session<Waiter>>,
    wake: Notify,
}

impl Line {
    pub(super) fn new(lane: Lane, session: Session<Waiter>) -> Arc<Self> {
        Arc::new(Self {
            lane,
            session: Mutex::new(session),
            wake: Notify::new(),
        })
    }

    /// Queues a request; the receiver gets its answer, or nothing if the connection ends.
    pub(super) fn request(
        &self,
        asked: Asked,
    ) -> Result<oneshot::Receiver<Result<Bytes, Failure>>, Unsent> {
        let (waiter, answer) = oneshot::channel();
        let queued = self.session().request(asked, waiter);
        queued.map_err(|(_, unsent)| unsent)?;
        self.wake.notify_one();
        Ok(answer)
    }

    /// Queues an answer; nothing happens if the connection has ended.
    pub(super) fn reply(&self, id: u64, answer: Result<Bytes, Failure>) {
        if self.session().reply(id, answer) {
            self.wake.notify_one();
        }
    }

    /// Lets the connection end, with a last frame that says why.
    pub(super) fn close(&self, reason: CloseReason) {
        self.session().close(reason);
        self.wake.notify_one();
    }

    pub(super) fn session(&self) -> MutexGuard<'_, Session<Waiter>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the session however its task ends, so that nobody waits for ever.
struct EndOnDrop<'a>(&'a Line);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        let waiting = self.0.session().end();
        // Who waits learns it from the dropped end.
        drop(waiting);
    }
}

/// Runs a connection until it ends; the last frame says why, as far as the network takes it.
pub(super) async fn run<S: ByteStream>(
    shared: &Shared,
    peer: &Arc<PeerState>,
    line: &Arc<Line>,
    stream: S,
    decoder: Decoder,
) -> Ended {
    let _end = EndOnDrop(line);
    let (reader, writer) = tokio::io::split(stream);
    let mut write = pin!(write(shared, line, writer));
    let ended = tokio::select! {
        ended = &mut write => return ended,
        ended = read(shared, peer, line, reader, decoder) => ended,
        ended = watch(shared, line) => ended,
    };
    if !matches!(ended, Ended::Eof | Ended::Network(_) | Ended::There(_)) {
        line.close(ended.reason());
        // The writer may be in the middle of a turn, and goes on from there.
        let _ = tokio::time::timeout(CLOSE_PATIENCE, write).await;
    }
    ended
}

/// Takes what comes; never waits for anything else.
async fn read<S: ByteStream>(
    shared: &Shared,
    peer: &Arc<PeerState>,
    line: &Arc<Line>,
    mut reader: ReadHalf<S>,
    mut decoder: Decoder,
) -> Ended {
    let counters = shared.counters.lane(line.lane);
    // What came behind the handshake is looked at first.
    let mut bytes = decoder.pending_bytes();
    // Both bounded by what one read holds.
    let (mut frames, mut arrived) = (Vec::new(), Vec::new());
    loop {
        let now_ms = shared.now_ms();
        peer.handle_heard(now_ms);
        // Checksums before the lock that those who ask take too.
        let mut outcome = decode(&mut decoder, &mut frames).map_err(Ended::Malformed);
        counters.frames_received_total.add(frames.len() as u64);
        counters.bytes_received_total.add(bytes as u64);
        {
            let mut session = line.session();
            session.handle_alive(now_ms);
            for frame in frames.drain(..) {
                match session.handle_frame(frame, now_ms) {
                    Ok(Arrived::Alive) => continue,
                    Ok(Arrived::Close(reason)) => outcome = Err(Ended::There(reason)),
                    Ok(some) => {
                        arrived.push(some);
                        continue;
                    }
                    Err(violation) => outcome = Err(Ended::Violation(violation)),
                }
                break;
            }
        }
        for one in arrived.drain(..) {
            dispatch(shared, peer, line, one, now_ms);
        }
        if let Err(ended) = outcome {
            return ended;
        }
        // A ping may want its answer.
        line.wake.notify_one();
        bytes = match reader.read_buf(decoder.room()).await {
            Ok(0) => return Ended::Eof,
            Ok(bytes) => bytes,
            Err(error) => return Ended::Network(error.kind()),
        };
    }
}

/// Takes every whole frame; those before one that is malformed are good.
fn decode(decoder: &mut Decoder, frames: &mut Vec<Frame>) -> Result<(), Malformed> {
    while let Some(frame) = decoder.poll_frame()? {
        frames.push(frame);
    }
    Ok(())
}

fn dispatch(
    shared: &Shared,
    peer: &Arc<PeerState>,
    line: &Arc<Line>,
    arrived: Arrived<Waiter>,
    now_ms: u64,
) {
    match arrived {
        // Who asked may wait no longer.
        Arrived::Answer(waiter, answer) => drop(waiter.send(answer)),
        Arrived::Request(request) => {
            let counters = shared.counters.lane(line.lane);
            counters.requests_received_total.add(1);
            shared.service.handle_request(Incoming {
                from: peer.node,
                lane: line.lane,
                channel: request.channel,
                deadline_ms: now_ms.saturating_add(u64::from(request.deadline_ms)),
                reply_bytes_max: request.reply_bytes_max,
                payload: request.payload,
                responder: Responder::new(Arc::clone(line), request.id),
            });
        }
        Arrived::Alive | Arrived::Close(_) => {}
    }
}

/// Writes what is queued, everything of a turn at once.
async fn write<S: ByteStream>(shared: &Shared, line: &Line, mut writer: WriteHalf<S>) -> Ended {
    let counters = shared.counters.lane(line.lane);
    let (mut frames, mut out) = (Vec::new(), BytesMut::new());
    loop {
        let closed = {
            let mut session = line.session();
            session.poll_turn(&mut frames, shared.now_ms());
            session.closed()
        };
        let is_idle = frames.is_empty();
        counters.frames_sent_total.add(frames.len() as u64);
        for frame in frames.drain(..) {
            frame.encode(&mut out);
        }
        if !is_idle {
            counters.bytes_sent_total.add(out.len() as u64);
            counters.turns_total.add(1);
            let written = async {
                writer.write_all(&out).await?;
                writer.flush().await
            };
            if let Err(error) = written.await {
                return Ended::Network(error.kind());
            }
            out.clear();
        }
        if let Some(reason) = closed {
            // The last frame is written; whether the network says goodbye does not matter.
            let _ = writer.shutdown().await;
            return Ended::Here(reason);
        }
        if is_idle {
            if out.capacity() > KEPT_BYTES_MAX {
                out = BytesMut::new();
            }
            line.wake.notified().await;
        }
    }
}

/// Pings, and ends what is silent. A write that does not go on does not keep it.
fn watch<'a>(shared: &'a Shared, line: &'a Line) -> impl Future<Output = Ended> + 'a {
    let interval_ms = shared.config.lane(line.lane).ping_interval_ms.max(1);
    async move {
        loop {
            let now_ms = shared.now_ms();
            let next_ms = line.session().next_timeout_ms();
            let wait_ms = next_ms.saturating_sub(now_ms).clamp(1, interval_ms);
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            let outcome = line.session().handle_timeout(shared.now_ms());
            if let Err(ms) = outcome {
                return Ended::Silent { ms };
            }
            line.wake.notify_one();
        }
    }
}
