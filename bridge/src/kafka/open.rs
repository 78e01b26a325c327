//! Opens the Kafka side of a line: spools, sender, contact.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use runtime::Clock;
use storage::fs::Fs;

use super::contact::check_topic;
use super::delivery::{Contact, Policy};
use super::group::Group;
use super::letters::{self, TopicKeep};
use super::log::{KafkaLog, NoLog, Threads};
use super::producer::RECORD_OVERHEAD_BYTES;
use super::sender::{self, Backlog, Cargo, Handle, KafkaOutlet, TopicSpec};
use super::settings::Settings;
use super::spool::{Spool, SpoolConfig};
use super::watch::{Watch, incarnation_of};
use crate::counters::Counters;
use crate::dead_letter::{DeadLetters, SharedDeadLetters};
use crate::ingest::OutletId;
use crate::line::{Fatal, OnFatal};
use crate::log::{Append, Log, Ports};
use crate::room::Room;
use crate::stream::{DEAD_LETTER_SUFFIX, Mode, Outlet, StreamId, Streams};

/// Longest wait for one answer about a topic.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// Pause between two looks at what is still to be asked.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// Looks between two questions about a topic that was refused: an operator may have mended it.
const REFUSED_LOOKS: u32 = 30;

/// Is what the Kafka side needs of the line.
pub(crate) struct Opening {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) settings: Settings,
    pub(crate) streams: Streams,
    pub(crate) buckets: u16,
    pub(crate) node: u32,
    /// Largest payload of a message.
    pub(crate) payload_bytes_max: u32,
    pub(crate) inflight_bytes_limit: u64,
    pub(crate) ports: Ports,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) on_fatal: OnFatal,
    pub(crate) stop: Arc<AtomicBool>,
    /// This node's own log of dead letters.
    pub(crate) letters: SharedDeadLetters,
}

/// Is the Kafka side of a line.
pub(crate) struct KafkaSide {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) outlets: Vec<Arc<dyn Append>>,
    pub(crate) by_stream: Vec<OutletId>,
    /// Dead letters of the store's topic; none when the store reads no topic.
    pub(crate) dead_letters: Option<DeadLetters>,
    pub(crate) handle: Handle,
}

/// Opens the spools below `folder` and starts the threads. Kafka need not be there.
///
/// # Errors
/// When a spool cannot be opened, or the machine gives no thread; nothing runs then.
pub(crate) fn open(opening: Opening, folder: &Path) -> Result<KafkaSide, String> {
    let outlets: Vec<Outlet> = opening.streams.outlets().to_vec();
    let mut plan = Plan {
        opening,
        topics: Vec::new(),
    };
    for outlet in &outlets {
        plan.add(
            folder,
            &outlet.topic,
            policy_of(outlet.mode),
            Cargo::Telemetry,
        )?;
    }
    let stored = outlets.iter().position(|outlet| outlet.store);
    let mut dlq = None;
    if let Some(stored) = stored {
        let topic = format!("{}{DEAD_LETTER_SUFFIX}", outlets[stored].topic);
        dlq = Some(plan.topics.len());
        plan.add(folder, &topic, policy_of(Mode::Log), Cargo::DeadLetters)?;
    }
    plan.add_left_behind(folder)?;
    plan.start(&outlets, stored, dlq)
}

fn policy_of(mode: Mode) -> Policy {
    Policy {
        spools: matches!(mode, Mode::Log | Mode::Disk),
        spools_always: mode == Mode::Disk,
        settles_at_once: mode == Mode::Memory,
    }
}

struct Plan {
    opening: Opening,
    topics: Vec<TopicSpec>,
}

impl Plan {
    fn add(
        &mut self,
        folder: &Path,
        topic: &str,
        policy: Policy,
        cargo: Cargo,
    ) -> Result<(), String> {
        let opening = &self.opening;
        let place = folder.join(topic);
        let exists = opening.fs.exists(&place).map_err(|e| e.to_string())?;
        // A mode that spools no more still sends what an earlier one left.
        let spool = if policy.spools || exists {
            Some(self.open_spool(&place)?)
        } else {
            None
        };
        let opening = &self.opening;
        let watch = (cargo == Cargo::Telemetry).then(|| Arc::new(Watch::new(opening.buckets)));
        self.topics.push(TopicSpec {
            name: topic.to_owned(),
            policy,
            cargo,
            partitions: opening.buckets,
            spool,
            room: Arc::new(Room::new(opening.inflight_bytes_limit)),
            watch,
        });
        Ok(())
    }

    fn open_spool(&self, place: &Path) -> Result<(Spool, Vec<(u64, u64)>), String> {
        let opening = &self.opening;
        let config = SpoolConfig {
            partitions: opening.buckets,
            segment_bytes: opening.settings.spool_segment_bytes,
            bytes_limit: opening.settings.spool_bytes_limit,
        };
        let on_fatal = Arc::clone(&opening.on_fatal);
        let failed = move |fatal: storage::log::Fatal| on_fatal(Fatal(format!("spool: {fatal}")));
        let failed_at = |error: String| format!("{}: {error}", place.display());
        Spool::open(Arc::clone(&opening.fs), place, config, failed).map_err(failed_at)
    }

    /// Spools of topics that no stream names any more: what they hold was acknowledged and is sent.
    fn add_left_behind(&mut self, folder: &Path) -> Result<(), String> {
        let fs = Arc::clone(&self.opening.fs);
        if !fs.exists(folder).map_err(|e| e.to_string())? {
            return Ok(());
        }
        for name in fs.list(folder).map_err(|e| e.to_string())? {
            if self.topics.iter().any(|topic| topic.name == name) {
                continue;
            }
            let cargo = if name.ends_with(DEAD_LETTER_SUFFIX) {
                Cargo::DeadLetters
            } else {
                Cargo::Telemetry
            };
            tracing::warn!(
                topic = name,
                "no stream names this topic; its spool is sent"
            );
            self.add(folder, &name, policy_of(Mode::Log), cargo)?;
        }
        Ok(())
    }

    fn start(
        self,
        outlets: &[Outlet],
        stored: Option<usize>,
        dlq: Option<usize>,
    ) -> Result<KafkaSide, String> {
        let Self { opening, topics } = self;
        let failed = |error: std::io::Error| format!("a thread of the Kafka side: {error}");
        let message_bytes_max = opening
            .payload_bytes_max
            .saturating_add(RECORD_OVERHEAD_BYTES);
        let backlog = Arc::new(Backlog::new(opening.buckets));
        let rooms: Vec<Arc<Room>> = topics.iter().map(|topic| Arc::clone(&topic.room)).collect();
        let watches: Vec<_> = topics.iter().map(|topic| topic.watch.clone()).collect();
        let names: Vec<String> = topics.iter().map(|topic| topic.name.clone()).collect();
        let own_letters = Arc::clone(&opening.letters);
        let (letters, kept) = letters::start(
            opening.letters,
            names.clone(),
            opening.ports.clone(),
            opening.counters,
            Arc::clone(&opening.on_fatal),
        )
        .map_err(failed)?;
        let start = sender::Start {
            settings: opening.settings.clone(),
            message_bytes_max,
            topics,
            ports: opening.ports.clone(),
            clock: opening.clock,
            on_fatal: opening.on_fatal,
            letters,
            kept,
        };
        let stored_backlog = stored.map(|stored| (stored as u16, Arc::clone(&backlog)));
        let (handle, thread) = sender::start(start, stored_backlog).map_err(failed)?;
        let closed = Arc::new(AtomicBool::new(false));
        let asking = Asking {
            settings: opening.settings.clone(),
            handle: handle.clone(),
            topics: names.into_iter().zip(watches.clone()).collect(),
            partitions: opening.buckets,
            message_bytes_max,
            closed: Arc::clone(&closed),
        };
        std::thread::Builder::new()
            .name("kafka-contact".to_owned())
            .spawn(move || asking.run())
            .map_err(failed)?;
        let outlet_of = |topic: usize| {
            Arc::new(KafkaOutlet {
                topic: topic as u16,
                room: Arc::clone(&rooms[topic]),
                handle: handle.clone(),
                closed: Arc::clone(&closed),
            })
        };
        let threads = Threads {
            handle: handle.clone(),
            closed: Arc::clone(&closed),
            sender: Mutex::new(Some(thread)),
        };
        let log: Arc<dyn Log> = match stored {
            Some(stored) => {
                let topic = outlets[stored].topic.clone();
                let watch = watches[stored].clone().expect("telemetry has a watch");
                let (node, shared) = (opening.node, Arc::clone(&watch));
                let group = Group::start(&opening.settings, &topic, node, shared);
                Arc::new(KafkaLog {
                    settings: opening.settings,
                    topic,
                    node,
                    partitions: opening.buckets,
                    outlet: outlet_of(stored),
                    watch,
                    backlog,
                    group: group.map_err(failed)?,
                    threads,
                })
            }
            None => Arc::new(NoLog {
                partitions: opening.buckets,
                room: Room::new(0),
                threads,
            }),
        };
        let streams = opening.streams.rules().count();
        let place = |stream| OutletId(opening.streams.outlet_of(StreamId(stream as u16)) as u16);
        let keep = |dlq| {
            let (own, stop) = (Arc::clone(&own_letters), Arc::clone(&opening.stop));
            TopicKeep::new(outlet_of(dlq), &opening.ports, own, stop)
        };
        let dead_letters = dlq.map(|dlq| {
            let stop = Arc::clone(&opening.stop);
            DeadLetters::elsewhere(Box::new(keep(dlq)), stop)
        });
        let appends = (0..outlets.len()).map(|topic| outlet_of(topic) as Arc<dyn Append>);
        Ok(KafkaSide {
            log,
            outlets: appends.collect(),
            by_stream: (0..streams).map(place).collect(),
            dead_letters,
            handle,
        })
    }
}

/// Asks Kafka about topics until each is good, and again when the sender doubts one.
struct Asking {
    settings: Settings,
    handle: Handle,
    topics: Vec<(String, Option<Arc<Watch>>)>,
    partitions: u16,
    message_bytes_max: u32,
    closed: Arc<AtomicBool>,
}

impl Asking {
    fn run(&self) {
        let mut looks = 0_u32;
        while !self.closed.load(Ordering::Acquire) {
            let known = self.handle.state();
            for (place, (topic, watch)) in (0_u16..).zip(&self.topics) {
                let contact = known
                    .topics
                    .get(usize::from(place))
                    .map_or(&Contact::Unknown, |(_, state, _)| &state.contact);
                let is_due = match contact {
                    Contact::Unknown => true,
                    Contact::Good => false,
                    Contact::Refused(_) => looks.is_multiple_of(REFUSED_LOOKS),
                };
                if is_due && !self.closed.load(Ordering::Acquire) {
                    self.ask(place, topic, watch.as_deref(), contact);
                }
            }
            looks = looks.wrapping_add(1);
            std::thread::park_timeout(LOOK_INTERVAL);
        }
    }

    fn ask(&self, place: u16, topic: &str, watch: Option<&Watch>, before: &Contact) {
        // Dead letters carry the payload and their reason.
        let bytes_max = if topic.ends_with(DEAD_LETTER_SUFFIX) {
            self.message_bytes_max.saturating_add(RECORD_OVERHEAD_BYTES)
        } else {
            self.message_bytes_max
        };
        let partitions = self.partitions;
        match check_topic(&self.settings, topic, partitions, bytes_max, ANSWER_WAIT) {
            Ok(contacted) => {
                if let Some(watch) = watch {
                    watch.note_incarnation(incarnation_of(&contacted.cluster_id, topic));
                }
                tracing::info!(topic, partitions, "Kafka takes the stream");
                self.handle.contact(place, Contact::Good);
            }
            Err(error) if error.is_refusal() => {
                let contact = Contact::Refused(error.to_string());
                if contact != *before {
                    tracing::error!(topic, %error, "Kafka does not take the stream");
                }
                self.handle.contact(place, contact);
            }
            Err(error) => tracing::debug!(topic, %error, "no contact"),
        }
    }
}
