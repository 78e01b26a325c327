//! The model of Raft: what leaders replicate, who is elected, what a crash leaves.

use super::super::defect::Defect;
use super::{Groups, World};

impl World {
    pub(super) fn sync(&mut self, at: usize) {
        self.groups.meta.sync(at);
        self.groups.routes.sync(at);
        for group in &mut self.groups.shards {
            group.sync(at);
        }
    }

    /// What a node leads comes to another one, and is committed if a majority has it.
    pub(super) fn replicate(&mut self, at: usize, to: usize) {
        let now_ms = self.ctx.boot().0;
        let alone = self.ctx.defect == Defect::MinorityCommits;
        let Groups {
            meta,
            routes,
            shards,
        } = &mut self.groups;
        meta.advance(at, false);
        routes.advance(at, false);
        let mut is_lost = meta.replicate(at, to, now_ms, &self.net);
        is_lost |= routes.replicate(at, to, now_ms, &self.net);
        for group in shards {
            group.advance(at, alone);
            is_lost |= group.replicate(at, to, now_ms, &self.net);
        }
        if is_lost {
            self.ctx
                .violations
                .push("a committed entry is lost".to_owned());
        }
    }

    /// A node stands for elections in the groups of which it sees no leader that works; rarely in
    /// one that has one.
    pub(super) fn elect(&mut self, at: usize) {
        let now_ms = self.ctx.boot().0;
        let Self {
            ctx, net, groups, ..
        } = self;
        let mut is_wanted = |leader: Option<(u64, usize)>, fresh: &dyn Fn(usize) -> bool| {
            let works = |leader: usize| {
                fresh(leader)
                    && (leader == at || (net.reaches(at, leader) && net.reaches(leader, at)))
            };
            !leader.is_some_and(|(_, leader)| works(leader)) || ctx.fails(40)
        };
        if is_wanted(groups.meta.leader(at), &|it| {
            groups.meta.is_fresh(it, now_ms)
        }) {
            groups.meta.campaign(at, net);
        }
        if is_wanted(groups.routes.leader(at), &|it| {
            groups.routes.is_fresh(it, now_ms)
        }) {
            groups.routes.campaign(at, net);
        }
        for group in &mut groups.shards {
            if is_wanted(group.leader(at), &|it| group.is_fresh(it, now_ms)) {
                group.campaign(at, net);
            }
        }
    }

    pub(super) fn crash(&mut self, at: usize) {
        let rng = &mut self.ctx.rng;
        self.groups.meta.crash(at, rng);
        self.groups.routes.crash(at, rng);
        for group in &mut self.groups.shards {
            group.crash(at, rng);
        }
        self.net.lose(at);
    }
}
