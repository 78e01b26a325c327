//! What reaches the disk for each entry of the Raft log. Prints figures, so it runs only when asked:
//! `cargo test -p tidewire-storage --test it write_amplification -- --ignored --nocapture`.

use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use tidewire_storage::fs::CountingFs;
use tidewire_storage::raft::{Config, GroupId, LogEntry, LogId, RaftLog};
use tidewire_storage::state::{self, Applied, Changes, StateFile};

use crate::log::DEADLINE;
use crate::raft::{bytes, entry};

const GROUPS: u32 = 32;
const ENTRY_BYTES: usize = 340;
const ROW_BYTES: usize = 300;
/// Entries of a group between two flushes of its state file. In production it is 32 MiB of log,
/// about 95 000 entries; the cost of a flush per entry falls with it.
const FLUSH_ENTRIES: u64 = 3000;

/// One folder with a log and its state files.
struct Node {
    fs: CountingFs,
    log: RaftLog,
    states: Vec<StateFile>,
    next: Vec<u64>,
    flushed: Vec<u64>,
}

#[test]
#[ignore = "prints figures"]
fn bytes_written_for_each_entry() {
    println!(
        "{GROUPS} groups, entries of {ENTRY_BYTES} B that do not compress; each entry puts a row of \
         {ROW_BYTES} B over one before; a flush and a purge every {FLUSH_ENTRIES} entries of a group"
    );
    for (commit, entries) in [(1, 6_000), (32, 200_000), (1000, 400_000)] {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let mut node = Node::open(scratch.path());
        let mut done = 0;
        while done < entries {
            node.commit(commit);
            done += commit;
        }
        node.print(commit, done);
        node.log.close();
    }
}

impl Node {
    fn open(folder: &Path) -> Self {
        let fs = CountingFs::default();
        let counting = || Arc::new(fs.clone());
        let log_folder = folder.join("raft");
        let log = RaftLog::open(counting(), &log_folder, &Config::default(), |fatal| {
            panic!("{fatal}");
        });
        let states = (0..GROUPS).map(|group| {
            let path = folder.join(format!("shards/{group}.redb"));
            StateFile::open(counting(), &path, state::Config::new(1)).expect("it opens")
        });
        Self {
            states: states.collect(),
            log: log.expect("it opens"),
            fs,
            next: vec![0; GROUPS as usize],
            flushed: vec![0; GROUPS as usize],
        }
    }

    /// Entries spread over the groups, under one fsync.
    fn commit(&mut self, entries: u64) {
        let (entered, inside) = mpsc::sync_channel(1);
        let (open_gate, gate) = mpsc::sync_channel::<()>(1);
        self.log
            .flush(move |_| {
                entered.send(()).expect("the bench listens");
                gate.recv_timeout(DEADLINE).expect("the gate opens");
            })
            .expect("open");
        inside.recv_timeout(DEADLINE).expect("the writer runs");
        let groups = entries.min(u64::from(GROUPS));
        let start = self.next.iter().sum::<u64>() / entries % u64::from(GROUPS);
        for nth in 0..groups {
            let group = ((start + nth) % u64::from(GROUPS)) as usize;
            let share = entries / groups + u64::from(nth < entries % groups);
            let sent: Vec<LogEntry> = (self.next[group]..self.next[group] + share)
                .map(|index| entry(group as u64 + 1, index, ENTRY_BYTES))
                .collect();
            let room = self.log.reserve(bytes(&sent)).expect("room");
            self.log
                .append(room, GroupId(group as u32), &sent, |result| {
                    result.expect("fsynced");
                })
                .expect("taken");
            self.apply(group, &sent);
            self.next[group] += share;
        }
        let (done, completion) = mpsc::sync_channel(1);
        self.log
            .flush(move |_| done.send(()).expect("the bench listens"))
            .expect("open");
        open_gate.send(()).expect("the writer waits");
        completion.recv_timeout(DEADLINE).expect("completed");
    }

    fn apply(&mut self, group: usize, entries: &[LogEntry]) {
        let mut changes = Changes::default();
        for entry in entries {
            let key = (entry.id.index * 7919 % 2048).to_be_bytes();
            changes.put(1, &key, &entry.payload[..ROW_BYTES]);
        }
        let id: LogId = entries.last().expect("an entry").id;
        let applied = Applied {
            id,
            opaque: Bytes::new(),
        };
        self.states[group]
            .apply(&changes, &applied)
            .expect("possible");
        if id.index >= self.flushed[group] + FLUSH_ENTRIES {
            self.flushed[group] = id.index;
            self.states[group].flush().expect("possible");
            self.log.purge(GroupId(group as u32), id).expect("open");
        }
    }

    fn print(&self, commit: u64, entries: u64) {
        let counters = self.log.counters();
        println!(
            "{commit:>5} entries a commit: log {:>6} B, state {:>6} B an entry; {} groups fsynced for {} \
             entries, {} segments, {} entries copied",
            self.fs.others().bytes / entries,
            self.fs.databases().bytes / entries,
            counters.journal.groups,
            entries,
            counters.segments,
            counters.copied_entries,
        );
    }
}
