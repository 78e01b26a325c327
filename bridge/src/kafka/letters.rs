//! Dead letters under Kafka: the topic for what the store cannot take, and this node's own log for
//! what Kafka cannot take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use storage::log::Record;

use super::delivery::{Contact, Poisoned};
use super::sender::{KafkaOutlet, settle_letter};
use crate::counters::{Counters, DeadLetterReason};
use crate::dead_letter::{DeadLetterError, Keep, SharedDeadLetters};
use crate::line::{Fatal, OnFatal};
use crate::log::{
    Append as _, AppendError, Outcome, Port, PortId, Ports, Submission, Ticket, memory_bytes,
};

/// Letters that may wait for this node's disk.
const POISONED_MAX: usize = 1_024;
/// Pause before a full outlet is tried again, and between looks at the stop flag.
const RETRY: Duration = Duration::from_millis(100);

/// Keeps letters in their topic of Kafka, or in its spool while Kafka is away; in this node's own
/// log while Kafka refuses the topic, or the store would wait for an operator.
pub(crate) struct TopicKeep {
    outlet: Arc<KafkaOutlet>,
    port: PortId,
    settled: Receiver<Vec<Ticket>>,
    /// Number of the last group that was submitted; its tickets carry it.
    group: u64,
    own: SharedDeadLetters,
    stop: Arc<AtomicBool>,
}

/// Passes on what was settled.
struct Tell(Sender<Vec<Ticket>>);

impl Port for Tell {
    fn settled(&self, _: Outcome, tickets: Vec<Ticket>) {
        // Its one listener waits, has given up on this group, or the line is ending; late tickets
        // of a group that was kept elsewhere are nothing to wait for.
        if self.0.try_send(tickets).is_err() {
            tracing::debug!("nobody waits for these dead letters");
        }
    }
}

impl TopicKeep {
    pub(crate) fn new(
        outlet: Arc<KafkaOutlet>,
        ports: &Ports,
        own: SharedDeadLetters,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let (told, settled) = crossbeam_channel::bounded(POISONED_MAX);
        Self {
            outlet,
            port: ports.add(Arc::new(Tell(told))),
            settled,
            group: 0,
            own,
            stop,
        }
    }

    fn is_refused(&self) -> bool {
        let state = self.outlet.handle.state();
        let topic = state.topics.get(usize::from(self.outlet.topic));
        topic.is_some_and(|(_, state, _)| matches!(state.contact, Contact::Refused(_)))
    }

    fn keep_here(&self, letters: &[Record]) -> Result<bool, DeadLetterError> {
        let mut own = self
            .own
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        own.put_encoded(letters)?;
        Ok(true)
    }

    fn submit(&self, submission: Submission) -> Result<bool, DeadLetterError> {
        let bytes: u64 = submission.records.iter().map(memory_bytes).sum();
        if !self.outlet.room().reserve(bytes) {
            return Ok(false);
        }
        match self.outlet.append(submission) {
            Ok(()) => Ok(true),
            Err((error, _)) => {
                self.outlet.room().release(bytes);
                match error {
                    AppendError::Closed => Err(DeadLetterError::Stopped),
                    AppendError::Full | AppendError::OverLimit => Ok(false),
                }
            }
        }
    }
}

impl Keep for TopicKeep {
    fn keep(&mut self, letters: &[Record]) -> Result<bool, DeadLetterError> {
        if self.is_refused() {
            return self.keep_here(letters);
        }
        self.group += 1;
        let ticket = Ticket {
            kind: 0,
            words: [self.group, 0],
        };
        let submission = Submission {
            records: letters.to_vec(),
            tickets: vec![Some(ticket); letters.len()],
            port: self.port,
        };
        if !self.submit(submission)? {
            return Ok(false);
        }
        let mut open = letters.len();
        while open > 0 {
            match self.settled.recv_timeout(RETRY) {
                Ok(tickets) => {
                    let own = tickets.iter().filter(|one| one.words[0] == self.group);
                    open = open.saturating_sub(own.count());
                }
                Err(_) if self.stop.load(Ordering::Acquire) => {
                    return Err(DeadLetterError::Stopped);
                }
                // They may come to the topic as well, once somebody has mended it.
                Err(_) if self.is_refused() => return self.keep_here(letters),
                Err(_) => {}
            }
        }
        Ok(true)
    }

    /// Kafka's retention does that.
    fn release(&self, _: i64) {}

    fn close(&self) {}
}

/// Starts the thread that keeps what Kafka will never take and settles it then, and gives the count
/// of what it kept, which the sender takes back to 0. It ends when the
/// sender has. `topics` are the sender's, by number.
///
/// # Errors
/// When the machine gives no thread.
pub(crate) fn start(
    letters: SharedDeadLetters,
    topics: Vec<String>,
    ports: Ports,
    counters: Arc<Counters>,
    on_fatal: OnFatal,
) -> std::io::Result<(Sender<Poisoned>, Arc<AtomicU64>)> {
    let kept_total = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&kept_total);
    let (told, queue) = crossbeam_channel::bounded::<Poisoned>(POISONED_MAX);
    std::thread::Builder::new()
        .name("kafka-letters".to_owned())
        .spawn(move || {
            for poisoned in queue {
                let topic = &topics[usize::from(poisoned.topic)];
                let kept = letters
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .put_refused(topic, &poisoned.record, &poisoned.reason);
                match kept {
                    Ok(()) => {
                        counters.dead_letter(DeadLetterReason::Refused);
                        settle_letter(&ports, poisoned.ticket);
                        counted.fetch_add(1, Ordering::AcqRel);
                    }
                    // Not kept, so not settled: its sender sends it again.
                    Err(DeadLetterError::Stopped) => return,
                    Err(error) => {
                        on_fatal(Fatal(error.to_string()));
                        return;
                    }
                }
            }
        })?;
    Ok((told, kept_total))
}
