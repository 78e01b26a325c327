//! A shard that is stored row by row, crashes and is restored is the one that never crashed.

use std::collections::BTreeMap;
use std::sync::Arc;

use mqtt::Templates;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tidewire_session::{
    Answer, Command, Counters, DeliveryStep, Durable, DurableEffect, Limits, MessageId, NodeEpoch,
    QueuePlace, Row, RowKey, WallMs,
};

use crate::commands::Generator;

fn limits(payload_cache_bytes: usize) -> Limits {
    Limits {
        queue_messages: 6,
        queue_bytes: 4_000,
        sent_ahead: 2,
        subscriptions: 3,
        q2_open: 4,
        retained_messages: 3,
        tombstones: 2,
        origins: 3,
        outbox_wills: 3,
        payload_cache_bytes,
        ..Limits::default()
    }
}

fn leading(payload_cache_bytes: usize) -> Durable {
    let mut durable = Durable::with_templates(limits(payload_cache_bytes), templates());
    durable.handle_lead();
    durable
}

fn templates() -> Templates {
    Templates::parse(["t/{client_id}"]).expect("a template")
}

/// A state, and what a disk would hold of it.
struct Stored {
    durable: Durable,
    file: BTreeMap<RowKey, Row>,
    /// What was applied since the file was written.
    log: Vec<Entry>,
    /// File and log before the write that is not known to be durable.
    before: Option<(BTreeMap<RowKey, Row>, Vec<Entry>)>,
    random: SmallRng,
    loads: usize,
}

type Entry = (u64, WallMs, Command);

impl Stored {
    fn new(seed: u64) -> Self {
        Self {
            durable: leading(0),
            file: BTreeMap::new(),
            log: Vec::new(),
            before: None,
            random: SmallRng::seed_from_u64(!seed),
            loads: 0,
        }
    }

    fn apply(&mut self, entry: Entry) -> Answer {
        let answer = self.durable.apply(entry.0, entry.1, &entry.2);
        self.log.push(entry);
        answer
    }

    fn begin_flush(&mut self) {
        if self.before.is_some() {
            return;
        }
        let rows = self.durable.take_rows();
        assert!(rows.is_sorted_by(|a, b| a.0 < b.0), "in order, each once");
        self.before = Some((self.file.clone(), std::mem::take(&mut self.log)));
        store(&mut self.file, rows);
    }

    fn end_flush(&mut self) {
        if self.before.take().is_some() {
            self.durable.handle_flushed();
            assert!(self.durable.unflushed_bytes() == 0 || !self.log.is_empty());
        }
    }

    fn crash(&mut self) {
        if let Some((file, mut log)) = self.before.take()
            && self.random.random_bool(0.5)
        {
            // Nothing of the write reached the disk.
            self.file = file;
            log.append(&mut self.log);
            self.log = log;
        }
        let rows = self.file.iter();
        // A start does not read the payloads.
        let rows = rows.filter(|(key, _)| !matches!(key, RowKey::Message(_)));
        let mut rows: Vec<Row> = rows.map(|(_, row)| row.clone()).collect();
        rows.shuffle(&mut self.random);
        self.durable = Durable::restore(limits(0), templates(), rows).expect("the rows agree");
        for (index, time, command) in &self.log {
            self.durable.apply(*index, *time, command);
        }
        self.durable.handle_lead();
        self.effects();
    }

    /// All effects; what they need is read from the file, which answers in any order.
    fn effects(&mut self) -> Vec<DurableEffect> {
        let mut effects = Vec::new();
        let mut asked: Vec<MessageId> = Vec::new();
        loop {
            match self.durable.poll_effect() {
                Some(DurableEffect::Load { message }) => {
                    assert!(!asked.contains(&message), "asked for once");
                    asked.push(message);
                    self.loads += 1;
                }
                Some(other) => effects.push(other),
                None if asked.is_empty() => return effects,
                None => {}
            }
            if !asked.is_empty() && self.random.random_bool(0.5) {
                let at = self.random.random_range(0..asked.len());
                let message = asked.swap_remove(at);
                match self.file.get(&RowKey::Message(message)) {
                    Some(Row::Message(_, content)) => {
                        self.durable.handle_loaded(message, Arc::clone(content));
                    }
                    _ => self.durable.handle_not_found(message),
                }
            }
        }
    }
}

fn store(file: &mut BTreeMap<RowKey, Row>, rows: Vec<(RowKey, Option<Row>)>) {
    for (key, row) in rows {
        match row {
            Some(row) => {
                file.insert(key, row);
            }
            None => {
                let deleted = file.remove(&key);
                assert!(deleted.is_some(), "{key:?} is deleted and was never stored");
            }
        }
    }
}

/// Effects in an order that does not depend on which session's turn it is. Who of a group has
/// what is not replicated, nor is what a membership row replaced.
fn by_session(mut effects: Vec<DurableEffect>) -> Vec<DurableEffect> {
    effects.retain(|effect| !matches!(effect, DurableEffect::DeliverShared(_)));
    for effect in &mut effects {
        if let DurableEffect::Membership(row) = effect {
            row.since = 0;
        }
    }
    effects.sort_by_key(|effect| match effect {
        DurableEffect::Deliver(delivery) => Some(delivery.client.clone()),
        _ => None,
    });
    effects
}

/// Takes out who lost a session.
fn takeovers(effects: &mut Vec<DurableEffect>) -> Vec<DurableEffect> {
    let is_takeover =
        |effect: &mut DurableEffect| matches!(effect, DurableEffect::TakenOver { .. });
    effects.extract_if(.., is_takeover).collect()
}

fn effects(durable: &mut Durable) -> Vec<DurableEffect> {
    std::iter::from_fn(|| durable.poll_effect()).collect()
}

/// What the runs met.
#[derive(Default)]
struct Met {
    counters: Counters,
    loads: usize,
    dups: usize,
    releases: usize,
    held_rows: usize,
    shared: usize,
    shared_rows: usize,
    owned: usize,
    idle_expiries: usize,
    told_again: usize,
}

impl Met {
    fn effects(&mut self, effects: &[DurableEffect]) {
        for effect in effects {
            let delivery = match effect {
                DurableEffect::Deliver(delivery) => delivery,
                DurableEffect::DeliverShared(_) => {
                    self.shared += 1;
                    continue;
                }
                _ => continue,
            };
            match delivery.step {
                DeliveryStep::Publish { dup, .. } => self.dups += usize::from(dup),
                DeliveryStep::Release => self.releases += 1,
            }
        }
    }

    /// Counts subscriptions that need no row.
    fn answer(&mut self, command: &Command, answer: &Answer) {
        if let (Command::Subs(subs), Answer::Subscribed(all)) = (command, answer) {
            let is_own = |filter: &str| filter == format!("t/{}", subs.client);
            for ((filter, _), subscribed) in subs.filters.iter().zip(all) {
                self.owned += usize::from(is_own(filter) && subscribed.version == 0);
            }
        }
    }

    fn file(&mut self, file: &BTreeMap<RowKey, Row>) {
        let held = |key: &&RowKey| matches!(key, RowKey::Queued(_, QueuePlace::Held(_)));
        self.held_rows += file.keys().filter(held).count();
        let shared = |key: &&RowKey| matches!(key, RowKey::GroupQueued(..));
        self.shared_rows += file.keys().filter(shared).count();
    }
}

struct Run {
    seed: u64,
    kept: Durable,
    stored: Stored,
    generator: Generator,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            kept: leading(usize::MAX),
            stored: Stored::new(seed),
            generator: Generator::new(seed),
        }
    }

    /// Applies a command to both, and compares what it answers and what follows.
    fn apply(&mut self, command: &Command, met: &mut Met) {
        let seed = self.seed;
        self.generator.index += 1;
        self.generator.time += self.generator.random.random_range(0..500);
        let (index, time) = (self.generator.index, WallMs(self.generator.time));
        let first = self.kept.apply(index, time, command);
        met.answer(command, &first);
        let repeat = self.kept.answer_repeat(command);
        assert_eq!(repeat, self.kept.answer_repeat(command));
        let second = self.stored.apply((index, time, command.clone()));
        assert_eq!(first, second, "seed {seed}, entry {index}: {command:?}");
        let second = self.stored.durable.answer_repeat(command);
        assert_eq!(repeat, second, "seed {seed}, entry {index}: {command:?}");

        let mut first = effects(&mut self.kept);
        let mut second = self.stored.effects();
        if let Command::NodeGone { .. } = command {
            // After a crash, takeovers are told again; who was restored knows of those since its file was
            // written.
            let (known, restored) = (takeovers(&mut first), takeovers(&mut second));
            assert!(known.ends_with(&restored), "{restored:?} of {known:?}");
            met.told_again += restored.len();
        }
        self.generator.note(&first);
        met.effects(&first);
        let (first, second) = (by_session(first), by_session(second));
        assert_eq!(first, second, "seed {seed}, entry {index}: {command:?}");
        assert_eq!(self.kept.counters(), self.stored.durable.counters());
        assert!(
            self.kept
                .node_epochs()
                .eq(self.stored.durable.node_epochs())
        );
    }

    fn crash(&mut self, met: &mut Met) {
        self.stored.crash();
        let (kept, crashed) = (&self.kept, &self.stored.durable);
        assert_eq!(kept.counters(), crashed.counters());
        assert!(kept.node_epochs().eq(crashed.node_epochs()));
        let state = |d: &Durable| (d.index(), d.time(), d.sessions());
        assert_eq!(state(kept), state(crashed));
        self.kept.handle_lead();
        self.stored.durable.handle_lead();
        // Whoever opens a session now gets everything anew; the sessions that stay connected are
        // told by the end of their node.
        let node_epoch = NodeEpoch(self.generator.node_epoch);
        self.generator.node_epoch += 1;
        self.apply(&Command::NodeGone { node_epoch }, met);
    }

    /// Compares what time makes due, and applies it.
    fn due(&mut self, met: &mut Met) {
        self.generator.time += 4_000;
        let now = WallMs(self.generator.time);
        let due = self.kept.due(now, usize::MAX);
        let after = self.stored.durable.due(now, usize::MAX);
        assert!(after.iter().all(|command| due.contains(command)));
        for command in due {
            let idle = !after.contains(&command);
            let before = self.kept.counters();
            self.apply(&command, met);
            if idle {
                // A queue remembers a bound of its expiries; a restored one knows them.
                assert!(matches!(
                    command,
                    Command::ExpireMessages { .. } | Command::ExpireGroup { .. }
                ));
                assert_eq!(self.kept.counters(), before, "it found nothing");
                met.idle_expiries += 1;
            }
        }
    }

    fn end(mut self, met: &mut Met) {
        met.counters = met.counters + self.kept.counters();
        met.loads += self.stored.loads;
        self.stored.end_flush();
        self.stored.begin_flush();
        let mut whole = BTreeMap::new();
        store(&mut whole, self.kept.take_rows());
        assert_eq!(whole, self.stored.file, "seed {}", self.seed);
    }
}

fn run(seed: u64, met: &mut Met) {
    let mut run = Run::new(seed);
    for _ in 0..20 + seed % 280 {
        match run.generator.random.random_range(0..40) {
            0..=3 => run.stored.begin_flush(),
            4..=6 => run.stored.end_flush(),
            7 | 8 => run.crash(met),
            9 => run.due(met),
            _ => {}
        }
        met.file(&run.stored.file);
        let command = run.generator.command(&run.kept);
        run.apply(&command, met);
    }
    run.end(met);
}

#[test]
fn a_shard_that_crashed_goes_on_as_if_it_had_not() {
    let mut met = Met::default();
    for seed in 0..400 {
        run(seed, &mut met);
    }
    let Counters {
        queued,
        dropped_full,
        dropped_expired,
        dropped_session_end,
        repeats,
        retained_full,
        replays_missed,
        ..
    } = met.counters;
    let met = [
        ("queued", queued),
        ("dropped full", dropped_full),
        ("dropped expired", dropped_expired),
        ("dropped with the session", dropped_session_end),
        ("repeats", repeats),
        ("retained full", retained_full),
        ("replays missed", replays_missed),
        ("loads", met.loads as u64),
        ("dup", met.dups as u64),
        ("releases", met.releases as u64),
        ("held rows", met.held_rows as u64),
        ("shared", met.shared as u64),
        ("shared rows", met.shared_rows as u64),
        ("owned", met.owned as u64),
        ("idle expiries", met.idle_expiries as u64),
        ("takeovers told again", met.told_again as u64),
    ];
    assert!(met.iter().all(|(_, n)| *n >= 10), "too rare: {met:?}");
}

#[test]
fn what_is_in_memory_decides_nothing() {
    let mut loads = [0; 3];
    for seed in 0..100 {
        let mut generator = Generator::new(seed);
        let caches = [0, 1_000, usize::MAX];
        let mut all = caches.map(|bytes| Stored {
            durable: leading(bytes),
            ..Stored::new(seed + bytes as u64 % 7)
        });
        for _ in 0..200 {
            let is_flush = generator.random.random_bool(0.1);
            let command = generator.command(&all[0].durable);
            generator.index += 1;
            generator.time += generator.random.random_range(0..500);
            let time = WallMs(generator.time);
            let seen = all.each_mut().map(|one| {
                if is_flush {
                    one.begin_flush();
                    one.end_flush();
                }
                let answer = one.apply((generator.index, time, command.clone()));
                let due = one.durable.due(WallMs(generator.time + 2_000), usize::MAX);
                (answer, due, by_session(one.effects()))
            });
            assert_eq!(seen[0], seen[1], "seed {seed}: {command:?}");
            assert_eq!(seen[0], seen[2], "seed {seed}: {command:?}");
            assert_eq!(all[0].file, all[1].file, "seed {seed}");
            assert_eq!(all[0].file, all[2].file, "seed {seed}");
            generator.note(&seen[0].2);
        }
        loads
            .iter_mut()
            .zip(&all)
            .for_each(|(n, one)| *n += one.loads);
    }
    assert!(loads[0] > loads[1] && loads[1] > loads[2], "{loads:?}");
}
