//! What a test breaks on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cluster::exchange::{ItemsReply, LettersReply, Said, kinds};
use defects::{Defect, Strain};
use session::{Answer, Command, Stamp};

use crate::ids::Owed;

/// Faults that only a [`crate::Environment`] can put into a node, for tests of what holds in
/// spite of them.
#[derive(Clone, Debug, Default)]
pub struct Defects {
    /// A PUBLISH to this topic makes the actor of its connection panic.
    pub panic_on_topic: Option<String>,
    /// A PUBLISH is acknowledged before what it put into the shards' logs is committed.
    pub acknowledge_before_commit: bool,
    /// While it is set, nothing of other nodes' numbered streams is taken: it is to be sent again.
    pub takes_nothing: Arc<AtomicBool>,
    /// The same of letters alone.
    pub takes_no_letters: Arc<AtomicBool>,
}

impl Defects {
    /// Who is told that a command to a shard is committed.
    pub(crate) fn owed(&self, owed: Option<Owed>) -> Option<Owed> {
        let is_early = self.acknowledge_before_commit || defects::is(Defect::AckBeforeCommit);
        owed.filter(|_| !is_early)
    }

    /// What another node is answered instead of having its request taken.
    pub(crate) fn refusal(&self, kind: u16) -> Option<Bytes> {
        let nothing = self.takes_nothing.load(Ordering::SeqCst);
        let no_letters = nothing || self.takes_no_letters.load(Ordering::SeqCst);
        match kind {
            kinds::ITEMS if nothing || defects::happens(Strain::LoseItems) => {
                Some(ItemsReply::Unknown.encode())
            }
            kinds::LETTERS if no_letters => Some(LettersReply::Stranger.encode()),
            _ => None,
        }
    }

    /// Comes before each fan-out.
    pub(crate) fn before_publish(&self, topic: &str) {
        if let Some(panic_on_topic) = &self.panic_on_topic {
            assert!(
                topic != panic_on_topic,
                "a PUBLISH to {topic} panics on purpose"
            );
        }
    }
}

/// What a step of QoS 2 is answered before the shard has it; without a defect, nothing.
pub(crate) fn early_answer(command: &Command) -> Option<Answer> {
    match command {
        Command::Rec { .. } if defects::is(Defect::PubrelBeforeRec) => {
            Some(Answer::Rec { found: true })
        }
        Command::Q2Out { .. } if defects::is(Defect::PubcompBeforeQ2Out) => {
            Some(Answer::Q2Out { found: true })
        }
        _ => None,
    }
}

/// What another node hears of an answer to its items.
pub(crate) fn heard(reply: ItemsReply) -> ItemsReply {
    if defects::happens(Strain::LoseAnswers) {
        ItemsReply::Unknown
    } else {
        reply
    }
}

/// The stamp that a retained message is written with.
pub(crate) fn written(stamp: Stamp) -> Stamp {
    match defects::is(Defect::RetainUnstamped) {
        false => stamp,
        true => Stamp {
            publisher: None,
            ..stamp
        },
    }
}
