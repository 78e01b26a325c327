//! What is done with a connection that came in.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::OwnedSemaphorePermit;

use super::connection::{self, Line};
use super::frame::{CloseReason, Decoder};
use super::greet::{self, Greeted, Trouble};
use super::greeting::{Greeting, Hello, Refusal, RefusalCode};
use super::handshake::Rejected;
use super::join;
use super::lane::Lane;
use super::links::Shared;
use super::net::{ByteStream, Listen};
use super::peer::PeerState;
use super::service::Event;
use super::session::{Session, Side};
use super::stream::{LinkStream, Place};

/// Greets and serves one connection until it ends.
pub(super) async fn serve<L: Listen>(
    shared: Arc<Shared>,
    opening: L::Opening,
    address: String,
    permit: OwnedSemaphorePermit,
) {
    let patience = Duration::from_millis(shared.config.handshake_deadline_ms);
    let opened = match tokio::time::timeout(patience, opening).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Trouble::Network(error)),
        Err(_) => Err(Trouble::Silent(patience.as_millis() as u64)),
    };
    let greeted = match opened {
        Ok(mut stream) => {
            let greeted = greet::accept(&shared, &mut stream, patience).await;
            greeted.map(|greeted| (stream, greeted))
        }
        Err(trouble) => Err(trouble),
    };
    drop(permit);
    match greeted {
        Ok((stream, Greeted::Member(hello, rest))) => {
            run(&shared, stream, &hello, rest, &address).await;
        }
        Ok((stream, Greeted::Applicant(wish))) => {
            if let Err(trouble) = join::serve(&shared, stream, wish, &address).await {
                tell(&shared, &address, &trouble);
            }
        }
        Err(trouble) => tell(&shared, &address, &trouble),
    }
}

async fn run<S: ByteStream>(
    shared: &Arc<Shared>,
    mut stream: S,
    hello: &Hello,
    rest: BytesMut,
    address: &str,
) {
    let (node, lane, start) = (hello.identity.node, hello.lane, hello.identity.start);
    let peer = shared.peer_or_new(node);
    if lane == Lane::Stream {
        let limit = shared.config.streams_max;
        let Some(place) = Place::take(&peer.streams, limit) else {
            let refusal = Refusal::new(RefusalCode::Crowded, limit, limit);
            greet::tell(&mut stream, &Greeting::Refusal(refusal).encode()).await;
            return tell(shared, address, &Rejected::Ours(refusal).into());
        };
        shared.counters.accepted_total.add(1);
        let stream = LinkStream::new(stream, rest, Some(place));
        return shared.service.handle_stream(node, stream);
    }
    let limits = shared.config.lane(lane);
    let session = Session::new(
        Side::Accepted,
        limits.grant,
        shared.pace(lane),
        shared.now_ms(),
    );
    let line = Line::new(lane, session);
    if !peer.install(&line, false, start) {
        line.close(CloseReason::Removed);
    } else if shared.is_stopping() {
        line.close(CloseReason::Stopping);
    }
    shared.counters.accepted_total.add(1);
    // Who reaches this node is likely to be reached.
    peer.redial.notify_waiters();
    shared.service.handle_event(Event::Up {
        node,
        lane,
        dialed: false,
        start,
    });
    let decoder = Decoder::new(limits.grant.payload_bytes, rest);
    let why = serve_line(shared, &peer, &line, stream, decoder).await;
    if let connection::Ended::There(CloseReason::Refused(refusal)) = why {
        tell(shared, address, &Rejected::Theirs(refusal).into());
    }
    shared.handle_ended(&peer, lane, false, why);
}

async fn serve_line<S: ByteStream>(
    shared: &Shared,
    peer: &Arc<PeerState>,
    line: &Arc<Line>,
    stream: S,
    decoder: Decoder,
) -> connection::Ended {
    let why = connection::run(shared, peer, line, stream, decoder).await;
    peer.uninstall(line, false);
    why
}

/// Says what came of a connection, as often as the limit of lines allows.
fn tell(shared: &Shared, address: &str, trouble: &Trouble) {
    if let Trouble::Rejected(rejected) = trouble {
        shared.handle_rejected(address, false, *rejected);
    }
    let reason = match trouble {
        Trouble::Rejected(Rejected::Theirs(refusal)) => format!("it refuses this node: {refusal}"),
        Trouble::Rejected(Rejected::Ours(refusal)) => format!("it is refused: {refusal}"),
        other => other.to_string(),
    };
    if shared.may_say() {
        tracing::warn!(address, %reason, "no link from");
    }
}

/// How many lines strangers may cause.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lines {
    since_ms: u64,
    said: u32,
}

/// Lines in a window, and the window in milliseconds.
const LINES_MAX: u32 = 10;
const LINES_WINDOW_MS: u64 = 10_000;

impl Lines {
    /// Whether one more line may be said.
    pub(super) fn may_say(&mut self, now_ms: u64) -> bool {
        if now_ms.saturating_sub(self.since_ms) >= LINES_WINDOW_MS {
            *self = Self {
                since_ms: now_ms,
                said: 0,
            };
        }
        self.said = self.said.saturating_add(1);
        self.said <= LINES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cause_ten_lines_in_ten_seconds() {
        let mut lines = Lines::default();
        let said = (0..1_000).filter(|_| lines.may_say(20_000)).count();
        assert_eq!(said, 10);
        assert!(!lines.may_say(29_999));
        assert!(lines.may_say(30_000));
    }
}
