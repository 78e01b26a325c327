//! The store as a group of Kafka's: where partitions end is asked, for questions that wait until the store
//! is there, and how far it is is told, for the tools that show the lag of groups.
//!
//! Reading has a client of its own, which commits nothing: librdkafka begins to read an assignment, and ends
//! a client, only when no commit is under way, and one that finds no coordinator waits for 45 s.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::oneshot;

use super::brokers::{COUNT_INTERVAL_MS, Counted};
use super::settings::Settings;
use super::watch::Watch;
use crate::buckets::Answering;

/// Questions that wait while Kafka is asked; further ones are told so.
const WAITING_MAX: usize = 1_024;
/// Longest wait for Kafka's answer: half of what a query waits by default.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// Pause between two looks at what the client reports while nobody asks.
const IDLE: Duration = Duration::from_secs(1);
/// What the client reports that one look passes over.
const REPORTS_MAX: u32 = 1_000;

struct Question {
    partition: u16,
    answer: oneshot::Sender<Result<(), String>>,
}

/// Asks Kafka where partitions end, all waiting questions with one request, and tells it within a second
/// what the [`Watch`] knows of the store. Its thread ends with it.
pub(crate) struct Group {
    questions: Sender<Question>,
}

impl Group {
    /// Starts the thread; Kafka need not be there.
    ///
    /// # Errors
    /// The machine gives no thread.
    pub(crate) fn start(
        settings: &Settings,
        topic: &str,
        node: u32,
        watch: Arc<Watch>,
    ) -> std::io::Result<Self> {
        let (questions, waiting) = crossbeam_channel::bounded(WAITING_MAX);
        let member = Member {
            settings: settings.clone(),
            topic: topic.to_owned(),
            node,
            watch,
            client: None,
        };
        std::thread::Builder::new()
            .name("kafka-group".to_owned())
            .spawn(move || member.run(&waiting))?;
        Ok(Self { questions })
    }

    /// Has the [`Watch`] know where a partition ends, as of now.
    pub(crate) fn learn(&self, partition: u16) -> Answering<()> {
        let (answer, answered) = oneshot::channel();
        let asked = self.questions.try_send(Question { partition, answer });
        Box::pin(async move {
            match asked {
                Ok(()) => answered
                    .await
                    .unwrap_or_else(|_| Err("the node is stopping".to_owned())),
                Err(TrySendError::Full(_)) => Err(format!(
                    "{WAITING_MAX} questions wait to hear from Kafka where the topic ends"
                )),
                Err(TrySendError::Disconnected(_)) => Err("the node is stopping".to_owned()),
            }
        })
    }
}

/// Is a group's name in Kafka: each node's store is one, since it has its own offsets.
pub(super) fn name_of(node: u32) -> String {
    format!("tidewire-store-{node}")
}

struct Member {
    settings: Settings,
    topic: String,
    node: u32,
    watch: Arc<Watch>,
    /// None until there is something to ask or to tell.
    client: Option<BaseConsumer<Counted>>,
}

impl Member {
    fn run(mut self, waiting: &Receiver<Question>) {
        loop {
            match waiting.recv_timeout(IDLE) {
                Ok(first) => {
                    let mut questions: Vec<Question> = vec![first];
                    questions.extend(waiting.try_iter().take(WAITING_MAX));
                    questions.retain(|question| !question.answer.is_closed());
                    let partitions = questions.iter().map(|question| question.partition);
                    let asked = self.ask(&partitions.collect());
                    for Question { answer, .. } in questions {
                        // Whoever does not wait any more needs it no more.
                        drop(answer.send(asked.clone()));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if let Err(error) = self.tell() {
                tracing::debug!(error, "how far the store is was not told to Kafka");
            }
            self.pass_over();
        }
    }

    fn client(&mut self) -> Result<&BaseConsumer<Counted>, String> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let mut config = self.settings.client();
                config
                    .set("group.id", name_of(self.node))
                    .set("enable.auto.commit", "false")
                    .set("allow.auto.create.topics", "false")
                    .set("statistics.interval.ms", COUNT_INTERVAL_MS);
                let made = config.create_with_context(Counted::default());
                made.map_err(|error| error.to_string())?
            }
        };
        Ok(self.client.insert(client))
    }

    /// Tells Kafka how far the store is, if that is news; nothing rests on it.
    fn tell(&mut self) -> Result<(), String> {
        let Some(offsets) = self.watch.take_release() else {
            return Ok(());
        };
        let topic = self.topic.clone();
        let client = self.client()?;
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, offset) in offsets {
            let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
            list.add_partition_offset(&topic, i32::from(partition), offset)
                .map_err(|error| error.to_string())?;
        }
        let committed = client.commit(&list, CommitMode::Async);
        committed.map_err(|error| error.to_string())
    }

    /// Asks for the ends of these partitions.
    fn ask(&mut self, partitions: &BTreeSet<u16>) -> Result<(), String> {
        let topic = self.topic.clone();
        let unknown =
            |why: &dyn std::fmt::Display| format!("where {topic} ends is not known: {why}");
        if partitions.is_empty() {
            return Ok(());
        }
        let client = self.client().map_err(|error| unknown(&error))?;
        let mut asked = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            let place = i32::from(*partition);
            let added = asked.add_partition_offset(&topic, place, Offset::End);
            added.map_err(|error| unknown(&error))?;
        }
        let found = client.offsets_for_times(asked, ANSWER_WAIT);
        let found = found.map_err(|error| unknown(&error))?;
        for one in found.elements() {
            one.error().map_err(|error| unknown(&error))?;
            let (Ok(partition), Offset::Offset(end)) =
                (u16::try_from(one.partition()), one.offset())
            else {
                return Err(unknown(&format!(
                    "partition {}: {:?}",
                    one.partition(),
                    one.offset()
                )));
            };
            self.watch.note_end(partition, end.unsigned_abs());
        }
        Ok(())
    }

    /// Takes what the client reports of outages, which would pile up. One that knows no broker is given up.
    fn pass_over(&mut self) {
        let Some(client) = &self.client else { return };
        if client.context().brokers.are_forgotten() {
            tracing::warn!(
                "the client that asks Kafka where topics end has forgotten all brokers; making another one"
            );
            self.client = None;
            return;
        }
        for _ in 0..REPORTS_MAX {
            match client.poll(Duration::ZERO) {
                Some(Err(error)) => tracing::debug!(%error, "kafka"),
                Some(Ok(_)) => {}
                None => return,
            }
        }
    }
}

#[cfg(test)]
#[path = "group_test.rs"]
mod tests;
