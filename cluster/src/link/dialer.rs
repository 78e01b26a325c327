//! Keeps one lane to one peer connected.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::backoff::Backoff;
use super::connection::{self, Ended, Line};
use super::frame::{CloseReason, Decoder};
use super::greet::{self, Trouble};
use super::greeting::Welcome;
use super::handshake::Rejected;
use super::lane::Lane;
use super::links::Shared;
use super::net::{ByteStream, Net};
use super::peer::PeerState;
use super::service::Event;
use super::session::{Session, Side};

/// Dials, runs the connection, and dials again, until the peer is removed or the links stop.
pub(super) async fn keep<N: Net>(
    shared: Arc<Shared>,
    net: Arc<N>,
    peer: Arc<PeerState>,
    lane: Lane,
) {
    let mut backoff = Backoff::new(shared.config.backoff);
    // What was said last: the same trouble again is no news.
    let mut said = None;
    loop {
        let Some(address) = peer.address() else {
            return;
        };
        // From here on, so that a change during the attempt is not missed.
        let mut redial = std::pin::pin!(peer.redial.notified());
        redial.as_mut().enable();
        match dial(&shared, &*net, &peer, lane, &address).await {
            Ok((stream, welcome, rest)) => {
                said = None;
                let began_ms = shared.now_ms();
                run(&shared, &peer, lane, stream, welcome, rest).await;
                backoff.handle_ended(shared.now_ms().saturating_sub(began_ms));
            }
            Err(trouble) => tell(&shared, &peer, lane, &address, &trouble, &mut said),
        }
        if shared.is_stopping() {
            return;
        }
        let pause = Duration::from_millis(shared.draw(|random| backoff.next_ms(random)));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = redial => {}
        }
    }
}

/// Connects and greets within the deadline.
pub(super) async fn dial<N: Net>(
    shared: &Shared,
    net: &N,
    peer: &PeerState,
    lane: Lane,
    address: &str,
) -> Result<(N::Stream, Welcome, BytesMut), Trouble> {
    let deadline_ms = shared.config.handshake_deadline_ms;
    let attempt = async {
        let connected = net.connect(address).await;
        if lane == Lane::Control {
            let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            peer.handle_dialed(connected.as_ref().is_err_and(refused));
        }
        let mut stream = connected.map_err(Trouble::Connect)?;
        let (welcome, rest) = greet::dial(shared, &mut stream, lane, peer.node).await?;
        Ok((stream, welcome, rest))
    };
    match tokio::time::timeout(Duration::from_millis(deadline_ms), attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Trouble::Silent(deadline_ms)),
    }
}

async fn run<S: ByteStream>(
    shared: &Arc<Shared>,
    peer: &Arc<PeerState>,
    lane: Lane,
    stream: S,
    welcome: Welcome,
    rest: BytesMut,
) {
    let limits = shared.config.lane(lane);
    let grant = limits.grant.least(welcome.grant);
    let session = Session::new(Side::Dialed, grant, shared.pace(lane), shared.now_ms());
    let line = Line::new(lane, session);
    let start = welcome.identity.start;
    if !peer.install(&line, true, start) {
        line.close(CloseReason::Removed);
    } else if shared.is_stopping() {
        line.close(CloseReason::Stopping);
    }
    let node = peer.node;
    shared.counters.dialed_total.add(1);
    tracing::info!(%node, %lane, %start, "link up");
    shared.service.handle_event(Event::Up {
        node,
        lane,
        dialed: true,
        start,
    });
    let decoder = Decoder::new(grant.payload_bytes, rest);
    let why = connection::run(shared, peer, &line, stream, decoder).await;
    peer.uninstall(&line, true);
    shared.handle_ended(peer, lane, true, why);
}

/// Says what came of an attempt: once, until something else comes of it.
fn tell(
    shared: &Shared,
    peer: &PeerState,
    lane: Lane,
    address: &str,
    trouble: &Trouble,
    said: &mut Option<String>,
) {
    shared.counters.dial_failures_total.add(1);
    if let Trouble::Rejected(rejected) = trouble {
        shared.handle_rejected(address, true, *rejected);
    }
    let line = match trouble {
        Trouble::Rejected(Rejected::Theirs(refusal)) => format!("it refuses this node: {refusal}"),
        Trouble::Rejected(Rejected::Ours(refusal)) => format!("it is refused: {refusal}"),
        other => other.to_string(),
    };
    let node = peer.node;
    if said.as_deref() == Some(&*line) {
        tracing::debug!(%node, %lane, address, reason = %line, "no link");
    } else {
        tracing::warn!(%node, %lane, address, reason = %line, "no link");
        *said = Some(line);
    }
}

/// Whether an end is worth a warning.
pub(super) fn is_trouble(why: Ended) -> bool {
    !matches!(
        why,
        Ended::Here(CloseReason::Stopping | CloseReason::Replaced | CloseReason::Removed)
            | Ended::There(CloseReason::Stopping | CloseReason::Replaced | CloseReason::Removed)
            | Ended::Eof
    )
}
