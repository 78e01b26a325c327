//! The handshake on a connection.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use cluster_core::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frame::{CloseReason, Frame};
use super::greeting::{Greeting, Hello, Refusal, RefusalCode, Welcome, Wish};
use super::handshake::{self, Dialing, Met, Rejected};
use super::lane::{Grant, Lane};
use super::links::Shared;
use super::net::ByteStream;

/// Bytes asked of a socket at once: a message of the handshake is shorter.
const READ_BYTES: usize = 1_024;
/// How long a refusal may take to be written.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(200);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("cannot be dialed: {0}")]
    Connect(io::Error),
    #[error("gave no answer within {0} ms")]
    Silent(u64),
    #[error("ended the connection before it greeted")]
    Eof,
    #[error("the connection failed before the greeting: {0}")]
    Network(io::Error),
    #[error("{0}")]
    Rejected(#[from] Rejected),
}

/// Greets as the side that dialed; gives the answer and what was read behind it.
pub(super) async fn dial<S: ByteStream>(
    shared: &Shared,
    stream: &mut S,
    lane: Lane,
    sought: NodeId,
) -> Result<(Welcome, BytesMut), Trouble> {
    let hello = Hello {
        identity: shared.roster().own(),
        lane,
        sought,
        nonce: shared.nonce(),
    };
    let dialing = Dialing::new(hello);
    write(stream, &Greeting::Hello(hello).encode()).await?;
    let certified = stream.certified();
    let mut bytes = BytesMut::new();
    loop {
        let welcome = dialing.handle_bytes(&mut bytes, &mut shared.roster(), certified);
        match welcome {
            Ok(Some(welcome)) => return Ok((welcome, bytes)),
            Ok(None) => read(stream, &mut bytes).await?,
            Err(rejected) => {
                if let Rejected::Ours(refusal) = rejected
                    && lane != Lane::Stream
                {
                    // It has greeted already, so it expects frames.
                    let mut frame = BytesMut::new();
                    Frame::Close(CloseReason::Refused(refusal)).encode(&mut frame);
                    tell(stream, &frame).await;
                }
                return Err(rejected.into());
            }
        }
    }
}

/// Who was greeted by the side that accepted.
pub(super) enum Greeted {
    /// A member has its welcome; what was read behind its hello.
    Member(Hello, BytesMut),
    /// Somebody wants to be one, and waits for an answer.
    Applicant(Wish),
}

/// Greets as the side that accepted. Whoever is refused is told why.
pub(super) async fn accept<S: ByteStream>(
    shared: &Shared,
    stream: &mut S,
    patience: Duration,
) -> Result<Greeted, Trouble> {
    let patience_ms = patience.as_millis() as u64;
    let outcome = tokio::time::timeout(patience, accept_patiently(shared, stream)).await;
    let trouble = match outcome {
        Ok(Ok(greeted)) => return Ok(greeted),
        Ok(Err(trouble)) => trouble,
        Err(_) => {
            let limit_ms = u128::from(patience_ms);
            Rejected::Ours(Refusal::new(RefusalCode::Silence, 0_u8, limit_ms)).into()
        }
    };
    if let Trouble::Rejected(Rejected::Ours(refusal)) = &trouble {
        tell(stream, &Greeting::Refusal(*refusal).encode()).await;
    }
    Err(trouble)
}

async fn accept_patiently<S: ByteStream>(
    shared: &Shared,
    stream: &mut S,
) -> Result<Greeted, Trouble> {
    let certified = stream.certified();
    let mut bytes = BytesMut::new();
    loop {
        let grant = |hello: &Hello| match hello.lane {
            Lane::Stream => Grant::NONE,
            lane => shared.config.lane(lane).grant,
        };
        let answer = handshake::answer(&mut bytes, &mut shared.roster(), certified, grant)?;
        match answer {
            None => read(stream, &mut bytes).await?,
            Some(Met::Applicant(wish)) => return Ok(Greeted::Applicant(wish)),
            Some(Met::Member(hello, welcome)) => {
                write(stream, &Greeting::Welcome(welcome).encode()).await?;
                return Ok(Greeted::Member(hello, bytes));
            }
        }
    }
}

/// Says why, as far as the network takes it, and ends the connection.
pub(super) async fn tell<S: ByteStream>(stream: &mut S, bytes: &[u8]) {
    let told = async {
        write(stream, bytes).await?;
        stream.shutdown().await.map_err(Trouble::Network)
    };
    // Who does not hear it finds the connection ended.
    let _ = tokio::time::timeout(REFUSAL_PATIENCE, told).await;
}

pub(super) async fn write<S: ByteStream>(stream: &mut S, bytes: &[u8]) -> Result<(), Trouble> {
    stream.write_all(bytes).await.map_err(Trouble::Network)?;
    stream.flush().await.map_err(Trouble::Network)
}

pub(super) async fn read<S: ByteStream>(
    stream: &mut S,
    bytes: &mut BytesMut,
) -> Result<(), Trouble> {
    bytes.reserve(READ_BYTES);
    match stream.read_buf(bytes).await {
        Ok(0) => Err(Trouble::Eof),
        Ok(_) => Ok(()),
        Err(error) => Err(Trouble::Network(error)),
    }
}
