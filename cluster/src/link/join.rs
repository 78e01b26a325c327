//! How a node without a number asks for one, on a connection of its own.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::greet::{self, Trouble};
use super::greeting::{Admission, Greeting, Refusal, RefusalCode, Wish};
use super::handshake::Rejected;
use super::links::Shared;
use super::net::{ByteStream, Net};

/// Bytes that may follow an admission.
pub const ADMISSION_BYTES_MAX: u32 = 128 << 10;
/// Applicants at once; one more is refused, as is a second one of the same source.
const APPLICANTS_MAX: usize = 4;
/// How long the cluster may take to decide.
const DECISION_DEADLINE: Duration = Duration::from_secs(10);
/// How long writing the answer may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// The sources whose wishes are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Applicants(Mutex<BTreeSet<String>>);

impl Applicants {
    fn sources(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of an applicant, unless there are too many. A source is an address without its
    /// port.
    fn enter(self: &Arc<Self>, address: &str) -> Option<Entered> {
        let source = match address.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => address,
        };
        let mut sources = self.sources();
        if sources.len() >= APPLICANTS_MAX || !sources.insert(source.to_owned()) {
            return None;
        }
        drop(sources);
        Some(Entered {
            applicants: Arc::clone(self),
            source: source.to_owned(),
        })
    }
}

/// The place of an applicant, until it is dropped.
#[derive(Debug)]
struct Entered {
    applicants: Arc<Applicants>,
    source: String,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.applicants.sources().remove(&self.source);
    }
}

/// Answers one wish; dropped, it says that nobody decides at present.
#[derive(Debug)]
pub struct Admitter(oneshot::Sender<Result<Bytes, Refusal>>);

impl Admitter {
    /// Grants the wish. The bytes are read by who joins.
    ///
    /// # Panics
    /// If they are more than [`ADMISSION_BYTES_MAX`].
    pub fn admit(self, payload: Bytes) {
        assert!(payload.len() <= ADMISSION_BYTES_MAX as usize);
        // Who does not wait any more comes again.
        let _ = self.0.send(Ok(payload));
    }

    /// Refuses it.
    pub fn refuse(self, refusal: Refusal) {
        let _ = self.0.send(Err(refusal));
    }
}

/// Hands a wish to the node, and tells the answer.
pub(super) async fn serve<S: ByteStream>(
    shared: &Shared,
    mut stream: S,
    wish: Wish,
    address: &str,
) -> Result<(), Trouble> {
    shared.counters.wishes_total.add(1);
    let Some(entered) = shared.applicants.enter(address) else {
        let limit = APPLICANTS_MAX as u32;
        let refusal = Refusal::new(RefusalCode::Crowded, limit, limit);
        return refuse(&mut stream, refusal).await;
    };
    let (sender, answer) = oneshot::channel();
    shared.service.handle_wish(wish, address, Admitter(sender));
    let answer = tokio::time::timeout(DECISION_DEADLINE, answer).await;
    let leaderless = Refusal::new(RefusalCode::Leaderless, 0_u8, 0_u8);
    let answer = answer.map_or(Err(leaderless), |answer| answer.unwrap_or(Err(leaderless)));
    let told = match answer {
        Ok(payload) => admit(&mut stream, wish.nonce, &payload).await,
        Err(refusal) => refuse(&mut stream, refusal).await,
    };
    drop(entered);
    told
}

async fn refuse<S: ByteStream>(stream: &mut S, refusal: Refusal) -> Result<(), Trouble> {
    greet::tell(stream, &Greeting::Refusal(refusal).encode()).await;
    Err(Rejected::Ours(refusal).into())
}

async fn admit<S: ByteStream>(stream: &mut S, nonce: u128, payload: &Bytes) -> Result<(), Trouble> {
    let admission = Admission {
        nonce,
        payload_bytes: payload.len() as u32,
        payload_crc: crc32c::crc32c(payload),
    };
    let answer = async {
        greet::write(stream, &Greeting::Admission(admission).encode()).await?;
        greet::write(stream, payload).await?;
        stream.shutdown().await.map_err(Trouble::Network)
    };
    let patience_ms = ANSWER_PATIENCE.as_millis() as u64;
    let told = tokio::time::timeout(ANSWER_PATIENCE, answer).await;
    told.unwrap_or(Err(Trouble::Silent(patience_ms)))
}

/// Why a wish was not granted.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    /// The asked node says why.
    #[error("{0}")]
    Refused(Refusal),
    /// There was no answer that could be read; whether the node is a member now is not known.
    #[error("{0}")]
    Unanswered(String),
}

/// Asks the node at an address to let this one join; gives what it says about the cluster.
///
/// # Errors
/// Says what was wrong.
pub async fn apply<N: Net>(net: &N, address: &str, wish: Wish) -> Result<Bytes, NotAdmitted> {
    let patience = DECISION_DEADLINE + 2 * ANSWER_PATIENCE;
    let asked = async {
        let connected = tokio::time::timeout(ANSWER_PATIENCE, net.connect(address)).await;
        let silent = Trouble::Silent(ANSWER_PATIENCE.as_millis() as u64);
        let mut stream = connected.map_err(|_| silent)?.map_err(Trouble::Connect)?;
        greet::write(&mut stream, &Greeting::Wish(wish).encode()).await?;
        answered(&mut stream, wish.nonce).await
    };
    let silent = Trouble::Silent(patience.as_millis() as u64);
    let answer = tokio::time::timeout(patience, asked).await;
    answer
        .unwrap_or(Err(silent))
        .map_err(|trouble| match trouble {
            Trouble::Rejected(Rejected::Theirs(refusal)) => NotAdmitted::Refused(refusal),
            other => NotAdmitted::Unanswered(format!("{address}: {other}")),
        })
}

async fn answered<S: ByteStream>(stream: &mut S, nonce: u128) -> Result<Bytes, Trouble> {
    let ours = |code, offered, expected: u128| -> Trouble {
        Rejected::Ours(Refusal::new(code, offered, expected)).into()
    };
    let mut bytes = BytesMut::new();
    let admission = loop {
        match Greeting::poll_decode(&mut bytes).map_err(Rejected::Ours)? {
            None => greet::read(stream, &mut bytes).await?,
            Some(Greeting::Admission(admission)) => break admission,
            Some(Greeting::Refusal(refusal)) => return Err(Rejected::Theirs(refusal).into()),
            Some(_) => return Err(ours(RefusalCode::Garbage, 0_u128, 0)),
        }
    };
    if admission.nonce != nonce {
        return Err(ours(RefusalCode::Nonce, admission.nonce, nonce));
    }
    let length = admission.payload_bytes;
    if length > ADMISSION_BYTES_MAX {
        let limit = u128::from(ADMISSION_BYTES_MAX);
        return Err(ours(RefusalCode::Garbage, u128::from(length), limit));
    }
    while bytes.len() < length as usize {
        if stream
            .read_buf(&mut bytes)
            .await
            .map_err(Trouble::Network)?
            == 0
        {
            return Err(Trouble::Eof);
        }
    }
    let payload = bytes.split_to(length as usize).freeze();
    let crc = crc32c::crc32c(&payload);
    if crc != admission.payload_crc {
        let (offered, expected) = (u128::from(crc), u128::from(admission.payload_crc));
        return Err(ours(RefusalCode::Garbage, offered, expected));
    }
    Ok(payload)
}
