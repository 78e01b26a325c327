//! A log of meta that tests write.

use std::num::NonZeroU16;

use super::*;
use crate::plan;

/// Plans after which something goes round in circles.
const PLANS_MAX: usize = 1_000;

pub(super) struct Log {
    pub(super) meta: Meta,
    pub(super) index: u64,
}

impl Log {
    /// So many nodes that share eight shards, and nothing moves.
    pub(super) fn of(nodes: u32) -> Self {
        let mut log = Self {
            meta: Meta::default(),
            index: 0,
        };
        log.apply(&MetaCommand::Found(Found {
            node: NodeId(1),
            folder: FolderId(1),
            shards: NonZeroU16::new(8).unwrap(),
            buckets: NonZeroU16::MIN,
            level: FeatureLevel(1),
        }));
        for node in 2..=nodes {
            log.apply(&MetaCommand::Join(Join {
                node: Some(NodeId(node)),
                folder: FolderId(node.into()),
                level: FeatureLevel(1),
            }));
        }
        (1..=nodes).for_each(|node| log.begin(NodeId(node)));
        log.settle();
        log
    }

    pub(super) fn apply(&mut self, command: &MetaCommand) -> MetaAnswer {
        self.index += 1;
        self.meta.apply(self.index, WallMs(0), command)
    }

    pub(super) fn begin(&mut self, node: NodeId) {
        let begun = self.apply(&MetaCommand::Begin(Begin {
            node,
            folder: FolderId(node.0.into()),
            start: StartCount(self.index),
            address: String::new(),
            level: FeatureLevel(1),
        }));
        assert!(matches!(begun, MetaAnswer::Begun { .. }));
    }

    pub(super) fn end(&mut self, node: NodeId) {
        let epoch = self.meta.member(node).unwrap().epoch.unwrap();
        let reason = EndReason::Dead;
        self.apply(&MetaCommand::End { epoch, reason });
    }

    /// Moves as the planner wants, until it wants nothing; how many moves of shards that were.
    pub(super) fn settle(&mut self) -> usize {
        let mut ended = 0;
        for _ in 0..PLANS_MAX {
            let commands = plan(&self.meta);
            if commands.is_empty() && self.meta.layout().moves.is_empty() {
                return ended;
            }
            for command in commands {
                assert_eq!(self.apply(&command), MetaAnswer::Done, "{command:?}");
            }
            let moves = self.meta.layout().moves.iter();
            let moves: Vec<_> = moves.map(|(group, row)| (*group, row.version)).collect();
            for (group, expected) in moves {
                ended += usize::from(matches!(group, Group::Shard(_)));
                self.apply(&MetaCommand::EndMove { group, expected });
            }
        }
        panic!("the planner finds no end");
    }
}
