//! What the nodes of a demo say of their cluster: shards, leaders, and who is there.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use admin::client::Client;
use admin::cluster::{ClusterStatus, GroupStatus};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Time between two questions to a node; what it answers is up to 500 ms old by itself.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// Replicas of a shard where there are nodes enough.
const REPLICAS: usize = 3;

/// Asks each node now and then, until it is dropped.
#[derive(Debug)]
pub(super) struct View {
    seen: Vec<watch::Receiver<Option<ClusterStatus>>>,
    _asking: JoinSet<()>,
}

impl View {
    /// Begins to ask the nodes at these admin addresses.
    pub(super) fn of(admins: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut asking = JoinSet::new();
        let seen = admins.into_iter().map(|admin| {
            let (tell, seen) = watch::channel(None);
            asking.spawn(ask(admin, tell));
            seen
        });
        Self {
            seen: seen.collect(),
            _asking: asking,
        }
    }

    /// Returns what each node said last, in their order; `None` of one that does not answer.
    pub(super) fn statuses(&self) -> Vec<Option<ClusterStatus>> {
        let seen = self.seen.iter();
        seen.map(|seen| seen.borrow().clone()).collect()
    }

    /// Returns how the cluster stands, as the first node says that has a lease, or else any.
    pub(super) fn standing(&self) -> Standing {
        let statuses: Vec<ClusterStatus> = self.statuses().into_iter().flatten().collect();
        let with_lease = statuses.iter().find(|status| status.has_lease);
        let status = with_lease.or(statuses.first());
        status.map(Standing::of).unwrap_or_default()
    }
}

async fn ask(admin: SocketAddr, tell: watch::Sender<Option<ClusterStatus>>) {
    let client = Client::new(&admin.to_string());
    while !tell.is_closed() {
        let asked = client.clone();
        let answer = tokio::task::spawn_blocking(move || asked.cluster().ok()).await;
        tell.send_replace(answer.ok().flatten());
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

/// Says how a cluster stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Members, and those of them that serve.
    members: usize,
    serving: usize,
    /// Shards that each member leads, by number.
    leads: BTreeMap<u32, usize>,
    shards: usize,
    unled: usize,
    under_replicated: usize,
    /// Who leads meta.
    meta: Option<u32>,
}

impl Standing {
    fn of(status: &ClusterStatus) -> Self {
        let serving = serving(status);
        let wanted = REPLICAS.min(status.members.len());
        let mut standing = Self {
            members: status.members.len(),
            serving: serving.len(),
            leads: status.members.iter().map(|one| (one.node, 0)).collect(),
            meta: leader_of(status, "meta"),
            ..Self::default()
        };
        for shard in status.groups.iter().filter(|group| is_shard(group)) {
            standing.shards += 1;
            match shard.leader {
                Some(leader) => *standing.leads.entry(leader).or_default() += 1,
                None => standing.unled += 1,
            }
            let replicas = shard.voters.iter().chain(&shard.learners);
            let living = replicas.filter(|node| serving.contains(node)).count();
            standing.under_replicated += usize::from(living < wanted);
        }
        standing
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.members == 0 {
            return write!(f, "no node answers");
        }
        write!(
            f,
            "{} of {} nodes serve; shards led:",
            self.serving, self.members
        )?;
        for (node, shards) in &self.leads {
            write!(f, " node {node} {shards},")?;
        }
        write!(
            f,
            " nobody {}; {} of {} under-replicated; meta led by ",
            self.unled, self.under_replicated, self.shards
        )?;
        match self.meta {
            Some(node) => write!(f, "node {node}"),
            None => write!(f, "nobody"),
        }
    }
}

/// Returns the node that leads a group, as one node knows it.
#[must_use]
pub fn leader_of(status: &ClusterStatus, group: &str) -> Option<u32> {
    let mut groups = status.groups.iter();
    groups.find(|one| one.group == group)?.leader
}

/// Returns true when all of `nodes` are members that serve, see each other, and every group is led
/// and where it is to be.
#[must_use]
pub fn is_whole(status: &ClusterStatus, nodes: usize) -> bool {
    // With two nodes one votes and the other follows.
    let voters = if nodes == 2 { 1 } else { REPLICAS.min(nodes) };
    let is_placed = |group: &GroupStatus| {
        group.leader.is_some() && group.voters.len() == voters && group.moving_to.is_none()
    };
    status.has_lease && serving(status).len() == nodes && status.groups.iter().all(is_placed)
}

/// Returns true when every shard is led, and none by a node that is away.
pub(super) fn is_led_without(status: &ClusterStatus, away: Option<u32>) -> bool {
    let mut shards = status.groups.iter().filter(|group| is_shard(group));
    shards.all(|shard| shard.leader.is_some() && shard.leader != away)
}

/// Returns the members that serve, as one node knows it: an epoch, heard, not suspected.
#[must_use]
pub fn serving(status: &ClusterStatus) -> Vec<u32> {
    let members = status.members.iter();
    let serving = members.filter(|one| one.epoch.is_some() && one.is_heard && !one.is_suspected);
    serving.map(|one| one.node).collect()
}

/// Returns true when the group is a shard's, not that of meta or of the routes.
#[must_use]
pub fn is_shard(group: &GroupStatus) -> bool {
    group.group.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use admin::cluster::MemberStatus;

    fn group(name: &str, leader: Option<u32>) -> GroupStatus {
        GroupStatus {
            group: name.to_owned(),
            leader,
            voters: vec![1, 2, 3],
            ..GroupStatus::default()
        }
    }

    fn status() -> ClusterStatus {
        let member = |node| MemberStatus {
            node,
            epoch: Some(u64::from(node)),
            is_heard: true,
            ..MemberStatus::default()
        };
        ClusterStatus {
            has_lease: true,
            members: (1..=3).map(member).collect(),
            groups: vec![
                group("meta", Some(2)),
                group("routes", Some(1)),
                group("0", Some(1)),
                group("1", Some(3)),
            ],
            ..ClusterStatus::default()
        }
    }

    #[test]
    fn a_line_says_who_leads_how_many_shards_and_who_leads_meta() {
        let text = Standing::of(&status()).to_string();
        assert_eq!(
            text,
            "3 of 3 nodes serve; shards led: node 1 1, node 2 0, node 3 1, nobody 0; \
             0 of 2 under-replicated; meta led by node 2"
        );
        assert!(is_whole(&status(), 3));
        assert!(!is_whole(&status(), 4), "a fourth is missing");
    }

    #[test]
    fn what_a_killed_node_held_is_under_replicated_and_what_it_led_is_not_led() {
        let mut status = status();
        status.members[2].is_heard = false;
        assert!(!is_led_without(&status, Some(3)), "the dead one leads yet");
        assert!(!is_whole(&status, 3));
        status.groups[3].leader = None;
        let text = Standing::of(&status).to_string();
        assert!(text.starts_with("2 of 3 nodes serve"), "{text}");
        assert!(text.contains("nobody 1; 2 of 2 under-replicated"), "{text}");
        status.groups[3].leader = Some(1);
        assert!(is_led_without(&status, Some(3)));
    }

    #[test]
    fn two_nodes_are_whole_with_one_voter_a_shard() {
        let mut status = status();
        status.members.truncate(2);
        for group in &mut status.groups {
            (group.voters, group.learners) = (vec![1], vec![2]);
        }
        assert!(is_whole(&status, 2));
        assert_eq!(Standing::of(&status).under_replicated, 0);
    }
}
