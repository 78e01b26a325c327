//! A topic of Kafka behind the log trait.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::consumer::KafkaConsumer;
use super::dead_letters::LetterTopic;
use super::group::Group;
use super::sender::{Backlog, Handle, KafkaOutlet};
use super::settings::Settings;
use super::watch::Watch;
use crate::buckets::Answering;
use crate::log::{Append, AppendError, Consume, Log, LogId, Position, ReadError, Submission};
use crate::room::Room;

/// Is the topic that this node's store reads.
pub(crate) struct KafkaLog {
    pub(crate) settings: Settings,
    pub(crate) topic: String,
    pub(crate) node: u32,
    pub(crate) partitions: u16,
    pub(crate) outlet: Arc<KafkaOutlet>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) group: Group,
    pub(crate) threads: Threads,
}

/// Ends what sends to Kafka.
pub(crate) struct Threads {
    pub(crate) handle: Handle,
    pub(crate) closed: Arc<AtomicBool>,
    pub(crate) sender: Mutex<Option<JoinHandle<()>>>,
}

impl Threads {
    /// Takes nothing more, settles what can be settled, and waits until that is done.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.handle.stop();
        let sender = self
            .sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if sender.is_some_and(|sender| sender.join().is_err()) {
            tracing::error!("the sender to Kafka has panicked");
        }
    }
}

impl Append for KafkaLog {
    fn append(&self, submission: Submission) -> Result<(), (AppendError, Submission)> {
        self.outlet.append(submission)
    }

    fn room(&self) -> &Room {
        self.outlet.room()
    }
}

impl Log for KafkaLog {
    fn source(&self) -> &str {
        &self.topic
    }

    fn id(&self) -> LogId {
        LogId::OF_NOBODY
    }

    fn unread(&self) -> Vec<bool> {
        self.watch.ends().into_iter().map(|end| end > 0).collect()
    }

    fn partitions(&self) -> u16 {
        self.partitions
    }

    fn incarnation(&self) -> u64 {
        self.watch.incarnation()
    }

    fn consume(&self, from: &[Option<Position>]) -> Result<Box<dyn Consume>, ReadError> {
        let mut from = from.to_vec();
        from.resize(usize::from(self.partitions), None);
        let watch = Arc::clone(&self.watch);
        let consumer = KafkaConsumer::new(&self.settings, &self.topic, self.node, &from, watch)?;
        Ok(Box::new(consumer))
    }

    fn ends(&self) -> Vec<u64> {
        self.watch.ends()
    }

    fn learn_end(&self, partition: u16) -> Answering<()> {
        self.group.learn(partition)
    }

    fn is_behind(&self, partition: u16) -> bool {
        !self.watch.is_compared() || self.backlog.is_there(partition)
    }

    fn release(&self, offsets: &[(u16, u64)], _: i64) {
        self.watch.note_release(offsets);
    }

    fn unreadable(&self) -> Option<String> {
        self.watch.error()
    }

    fn letter_topic(&self) -> Option<LetterTopic> {
        Some(LetterTopic {
            settings: self.settings.clone(),
            source: self.topic.clone(),
            partitions: self.partitions,
        })
    }

    fn disk_bytes(&self) -> u64 {
        let state = self.threads.handle.state();
        state.topics.iter().map(|(_, _, bytes)| bytes).sum()
    }

    fn close(&self) {
        self.threads.close();
    }
}

/// Is the log of a store that reads no topic.
pub(crate) struct NoLog {
    pub(crate) partitions: u16,
    pub(crate) room: Room,
    pub(crate) threads: Threads,
}

impl Append for NoLog {
    fn append(&self, submission: Submission) -> Result<(), (AppendError, Submission)> {
        Err((AppendError::Closed, submission))
    }

    fn room(&self) -> &Room {
        &self.room
    }
}

impl Log for NoLog {
    fn source(&self) -> &str {
        super::NO_SOURCE
    }

    fn id(&self) -> LogId {
        LogId::OF_NOBODY
    }

    fn unread(&self) -> Vec<bool> {
        vec![false; usize::from(self.partitions)]
    }

    fn partitions(&self) -> u16 {
        self.partitions
    }

    fn incarnation(&self) -> u64 {
        0
    }

    fn consume(&self, _: &[Option<Position>]) -> Result<Box<dyn Consume>, ReadError> {
        Ok(Box::new(Nothing))
    }

    fn ends(&self) -> Vec<u64> {
        vec![0; usize::from(self.partitions)]
    }

    fn is_behind(&self, _: u16) -> bool {
        false
    }

    fn release(&self, _: &[(u16, u64)], _: i64) {}

    fn disk_bytes(&self) -> u64 {
        let state = self.threads.handle.state();
        state.topics.iter().map(|(_, _, bytes)| bytes).sum()
    }

    fn close(&self) {
        self.threads.close();
    }
}

struct Nothing;

impl Consume for Nothing {
    fn poll(
        &mut self,
        _: usize,
        timeout: Duration,
    ) -> Result<Vec<storage::log::StoredRecord>, ReadError> {
        std::thread::park_timeout(timeout);
        Ok(Vec::new())
    }

    fn assign(&mut self, _: &BTreeSet<u16>, _: &BTreeSet<u16>) -> Result<(), ReadError> {
        Ok(())
    }
}
