//! Which number a group has in the log of a node.

use cluster_core::{Group, SHARDS_MAX, ShardId};
use storage::raft::GroupId;

/// Number of the first shard's group.
const SHARDS_FROM: u32 = 16;

/// The number of a group in the log of every node.
pub fn group_id(group: Group) -> GroupId {
    match group {
        Group::Meta => GroupId(0),
        Group::Routes => GroupId(1),
        Group::Shard(shard) => GroupId(SHARDS_FROM + u32::from(shard.0)),
    }
}

/// The group of a number, if it has one.
pub fn group_of(id: GroupId) -> Option<Group> {
    match id.0 {
        0 => Some(Group::Meta),
        1 => Some(Group::Routes),
        number => {
            let shard = number.checked_sub(SHARDS_FROM)?;
            let shard = u16::try_from(shard).ok()?;
            (shard < SHARDS_MAX).then_some(Group::Shard(ShardId(shard)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_number() {
        let shards = (0..SHARDS_MAX).map(|shard| Group::Shard(ShardId(shard)));
        for group in [Group::Meta, Group::Routes].into_iter().chain(shards) {
            assert_eq!(group_of(group_id(group)), Some(group));
        }
        for number in [2, 15, 16 + 128, u32::MAX] {
            assert_eq!(group_of(GroupId(number)), None);
        }
    }
}
