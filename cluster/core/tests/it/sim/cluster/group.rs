//! The model of a replicated group: a log on each replica, terms, elections, commits.
//!
//! Simpler than Raft where that hides nothing: a vote or an append with its answer is one step. An
//! entry is committed once it is on the disks of a majority and of the leader's own term.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;

use super::net::Net;

/// How long a leader takes proposals after it has heard a majority.
const LEAD_MS: u64 = 1_500;

/// Entries that one step brings to a follower.
const APPEND_MAX: usize = 20;

pub(crate) struct Group<E> {
    voters: Vec<usize>,
    replicas: BTreeMap<usize, Replica<E>>,
}

struct Entry<E> {
    term: u64,
    /// None of a leader that begins its term.
    what: Option<Arc<E>>,
}

impl<E> Clone for Entry<E> {
    fn clone(&self) -> Self {
        let what = self.what.clone();
        Self {
            term: self.term,
            what,
        }
    }
}

struct Replica<E> {
    log: Vec<Entry<E>>,
    /// On the disk.
    synced: usize,
    /// On the disk at once, as is the vote.
    term: u64,
    voted: Option<usize>,
    committed: usize,
    lead: Option<Lead>,
    /// Whom it takes for the leader of its term.
    leader: Option<usize>,
}

/// What a leader knows, or one that still takes itself for one.
#[derive(Default)]
struct Lead {
    /// What each follower has on its disk, and when it was heard.
    followers: BTreeMap<usize, (usize, u64)>,
    /// The entry that begins the term stands here.
    begins: usize,
}

impl<E> Group<E> {
    /// A group that has these entries, committed, on voters and learners alike.
    pub(crate) fn new(voters: Vec<usize>, learners: &[usize], entries: Vec<E>) -> Self {
        let entries = entries.into_iter().map(|entry| Entry {
            term: 1,
            what: Some(Arc::new(entry)),
        });
        let log: Vec<Entry<E>> = entries.collect();
        let replica = |at: &usize| {
            let replica = Replica {
                synced: log.len(),
                log: log.clone(),
                term: 1,
                voted: None,
                committed: 0,
                lead: None,
                leader: None,
            };
            (*at, replica)
        };
        Self {
            replicas: voters.iter().chain(learners).map(replica).collect(),
            voters,
        }
    }

    pub(crate) fn nodes(&self) -> Vec<usize> {
        self.replicas.keys().copied().collect()
    }

    pub(crate) fn is_voter(&self, at: usize) -> bool {
        self.voters.contains(&at)
    }

    /// The term in which this node takes itself for the leader.
    pub(crate) fn leads(&self, at: usize) -> Option<u64> {
        let replica = self.replicas.get(&at)?;
        replica.lead.as_ref().map(|_| replica.term)
    }

    /// The same, once all that was committed before is known to be.
    pub(crate) fn leads_committed(&self, at: usize) -> Option<u64> {
        let replica = self.replicas.get(&at)?;
        let lead = replica.lead.as_ref()?;
        (replica.committed > lead.begins).then_some(replica.term)
    }

    /// The leader as this replica knows it, and its term.
    pub(crate) fn leader(&self, at: usize) -> Option<(u64, usize)> {
        let replica = self.replicas.get(&at)?;
        replica.leader.map(|leader| (replica.term, leader))
    }

    /// The leader of the highest term.
    pub(crate) fn true_leader(&self) -> Option<usize> {
        let leaders = self.replicas.iter().filter(|(_, r)| r.lead.is_some());
        leaders.max_by_key(|(_, r)| r.term).map(|(at, _)| *at)
    }

    pub(crate) fn committed(&self, at: usize) -> usize {
        self.replicas
            .get(&at)
            .map_or(0, |replica| replica.committed)
    }

    /// The entry at a position, if it says anything.
    pub(crate) fn get(&self, at: usize, position: usize) -> Option<Arc<E>> {
        self.replicas[&at].log[position].what.clone()
    }

    /// Appends to the log of a node that takes itself for the leader; returns how long the log must
    /// be committed for the entry to be, and the term.
    pub(crate) fn append(&mut self, at: usize, what: E) -> Option<(usize, u64)> {
        let replica = self.replicas.get_mut(&at)?;
        replica.lead.as_ref()?;
        let term = replica.term;
        let what = Some(Arc::new(what));
        replica.log.push(Entry { term, what });
        Some((replica.log.len(), term))
    }

    /// Whether a leader has heard a majority lately, as its own clock says.
    pub(crate) fn is_fresh(&self, at: usize, now_ms: u64) -> bool {
        let lead = self.replicas.get(&at).and_then(|r| r.lead.as_ref());
        let Some(lead) = lead else { return false };
        let heard = self.voters.iter().filter(|voter| {
            let follower = lead.followers.get(voter);
            **voter == at || follower.is_some_and(|(_, heard)| now_ms < heard + LEAD_MS)
        });
        self.is_majority(heard.count())
    }

    /// A node asks the others for their votes.
    pub(crate) fn campaign(&mut self, at: usize, net: &Net) {
        if !self.is_voter(at) || !net.is_awake(at) {
            return;
        }
        let candidate = self.replicas.get_mut(&at).expect("a voter has a replica");
        if candidate.lead.is_some() {
            return;
        }
        candidate.term += 1;
        candidate.voted = Some(at);
        candidate.leader = None;
        let (term, last) = (candidate.term, candidate.last());
        let mut votes = 1;
        for &voter in self.voters.iter().filter(|voter| **voter != at) {
            if !net.reaches(at, voter) {
                continue;
            }
            let replica = self.replicas.get_mut(&voter).expect("a voter");
            replica.see(term);
            let is_free = replica.voted.is_none_or(|voted| voted == at);
            if replica.term == term && is_free && last >= replica.last() {
                replica.voted = Some(at);
                votes += usize::from(net.reaches(voter, at));
            }
        }
        if self.is_majority(votes) {
            let leader = self.replicas.get_mut(&at).expect("a voter");
            leader.lead = Some(Lead {
                followers: BTreeMap::new(),
                begins: leader.log.len(),
            });
            leader.leader = Some(at);
            leader.log.push(Entry { term, what: None });
        }
    }

    /// A leader brings a follower some entries; its answer may be lost. Returns whether something
    /// committed was overwritten, which must not be.
    pub(crate) fn replicate(&mut self, from: usize, to: usize, now_ms: u64, net: &Net) -> bool {
        if from == to || !net.reaches(from, to) {
            return false;
        }
        let Some(leader) = self.replicas.get(&from).filter(|r| r.lead.is_some()) else {
            return false;
        };
        let Some(follower) = self.replicas.get(&to) else {
            return false;
        };
        let answers = net.reaches(to, from);
        if follower.term > leader.term {
            if answers {
                let term = follower.term;
                self.replicas.get_mut(&from).expect("found above").see(term);
            }
            return false;
        }
        // What it is known to have on its disk is the same.
        let lead = leader.lead.as_ref().expect("it leads");
        let known = lead.followers.get(&to).map_or(0, |(synced, _)| *synced);
        let same = leader.log[known..].iter().zip(&follower.log[known..]);
        let mut common = known + same.take_while(|(a, b)| a.term == b.term).count();
        let (term, committed) = (leader.term, leader.committed);
        let more: Vec<Entry<E>> = leader.log[common..]
            .iter()
            .take(APPEND_MAX)
            .cloned()
            .collect();
        let follower = self.replicas.get_mut(&to).expect("found above");
        let is_lost = common < follower.committed;
        follower.see(term);
        follower.lead = None;
        follower.leader = Some(from);
        if common < follower.log.len() && !more.is_empty() {
            follower.log.truncate(common);
            follower.synced = follower.synced.min(common);
        }
        common += more.len();
        follower.log.extend(more);
        follower.committed = follower.committed.max(committed.min(common));
        let synced = follower.synced.min(common);
        if answers {
            let leader = self.replicas.get_mut(&from).expect("found above");
            let lead = leader.lead.as_mut().expect("it leads");
            let known = lead.followers.entry(to).or_default();
            *known = (synced.max(known.0), now_ms);
        }
        is_lost
    }

    /// A leader learns what is committed; `alone` of a defect needs no others.
    pub(crate) fn advance(&mut self, at: usize, alone: bool) {
        let Some(replica) = self.replicas.get(&at) else {
            return;
        };
        let Some(lead) = &replica.lead else { return };
        let has = |voter: &usize| match *voter == at {
            true => replica.synced,
            false => lead.followers.get(voter).map_or(0, |(synced, _)| *synced),
        };
        let mut synced: Vec<usize> = self.voters.iter().map(has).collect();
        synced.sort_unstable();
        let majority = match alone {
            true => replica.synced,
            false => synced[(synced.len() - 1) / 2],
        };
        let is_own = |end: usize| end > 0 && replica.log[end - 1].term == replica.term;
        if majority > replica.committed && is_own(majority) {
            self.replicas.get_mut(&at).expect("found above").committed = majority;
        }
    }

    /// Whether a majority says that this node leads (ReadIndex).
    pub(crate) fn is_confirmed(&mut self, at: usize, net: &Net) -> bool {
        let Some(term) = self.leads_committed(at) else {
            return false;
        };
        let reached = |voter: &&usize| net.reaches(at, **voter) && net.reaches(**voter, at);
        let reached: Vec<usize> = self.voters.iter().filter(reached).copied().collect();
        let terms = reached.iter().map(|voter| self.replicas[voter].term);
        let highest = terms.max().unwrap_or(0);
        if highest > term {
            self.replicas.get_mut(&at).expect("it leads").see(highest);
            return false;
        }
        for voter in &reached {
            self.replicas.get_mut(voter).expect("a voter").see(term);
        }
        let others = reached.iter().filter(|voter| **voter != at).count();
        self.is_majority(others + 1)
    }

    pub(crate) fn sync(&mut self, at: usize) {
        if let Some(replica) = self.replicas.get_mut(&at) {
            replica.synced = replica.log.len();
        }
    }

    /// The process dies: of what is not synced, a beginning may be there all the same.
    pub(crate) fn crash(&mut self, at: usize, rng: &mut StdRng) {
        if let Some(replica) = self.replicas.get_mut(&at) {
            let kept = rng.random_range(replica.synced..=replica.log.len());
            replica.log.truncate(kept);
            replica.synced = kept;
            replica.committed = 0;
            replica.lead = None;
            replica.leader = None;
        }
    }

    fn is_majority(&self, count: usize) -> bool {
        2 * count > self.voters.len()
    }
}

impl<E> Replica<E> {
    /// How far the log is, to be compared.
    fn last(&self) -> (u64, usize) {
        (
            self.log.last().map_or(0, |entry| entry.term),
            self.log.len(),
        )
    }

    /// Hears of a term.
    fn see(&mut self, term: u64) {
        if term > self.term {
            self.term = term;
            self.voted = None;
            self.lead = None;
            self.leader = None;
        }
    }
}
