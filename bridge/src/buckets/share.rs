//! What a store is to do with buckets, by the table and by how they stand in it.

use std::collections::{BTreeMap, BTreeSet};

use storage::tsdb::{BucketMark, Standing};

use super::Table;

/// Is what a node's store has to do with buckets that hold rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Those whose records it takes.
    pub(crate) taken: BTreeSet<u16>,
    /// Those that it is to freeze, under these epochs: another node is about to copy them.
    pub(crate) frozen: Vec<(u16, u64)>,
    /// Those that it is to drop, under these epochs: another node has them, or a copy of them came
    /// to nothing.
    pub(crate) dropped: Vec<(u16, u64)>,
    /// Those that are its own and of which it has nothing: no move leads there.
    pub(crate) missing: Vec<u16>,
}

impl Share {
    /// What the table says counts only above the epoch under which a bucket was marked: a node may
    /// know less of the table after a restart than before.
    pub(crate) fn of(table: &Table, node: u32, marks: &BTreeMap<u16, BucketMark>) -> Self {
        let mut share = Self::default();
        for (bucket, row) in (0..).zip(table.rows.iter().copied()) {
            let mark = marks.get(&bucket);
            let is_newer = mark.is_none_or(|mark| row.epoch > mark.epoch);
            if !row.holds_rows || !is_newer {
                continue;
            }
            let has_it = mark.is_none_or(|mark| mark.standing != Standing::Dropped);
            match (row.owner == node, row.moving_to.is_some()) {
                (true, _) if !has_it => share.missing.push(bucket),
                (true, true) => share.frozen.push((bucket, row.epoch)),
                (true, false) => {
                    share.taken.insert(bucket);
                }
                (false, _) if mark.is_some() && has_it => share.dropped.push((bucket, row.epoch)),
                (false, _) => {}
            }
        }
        share
    }

    /// Whether it takes a bucket that has changed hands and was not taken so far: it is to be read
    /// from where the store says.
    pub(crate) fn has_come(
        &self,
        so_far: &BTreeSet<u16>,
        marks: &BTreeMap<u16, BucketMark>,
    ) -> bool {
        let mut come = self.taken.difference(so_far);
        come.any(|bucket| marks.contains_key(bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::super::TableRow;
    use super::*;

    fn share(row: TableRow, mark: Option<(Standing, u64)>) -> Share {
        let table = Table {
            rows: vec![row],
            members: [1, 2, 3].into(),
        };
        let mark = mark.map(|(standing, epoch)| (0, BucketMark { standing, epoch }));
        Share::of(&table, 1, &mark.into_iter().collect())
    }

    fn row(owner: u32, epoch: u64, moving_to: Option<u32>) -> TableRow {
        TableRow {
            owner,
            epoch,
            holds_rows: true,
            moving_to,
        }
    }

    fn taken() -> Share {
        Share {
            taken: [0].into(),
            ..Share::default()
        }
    }

    #[test]
    fn a_bucket_that_moves_is_frozen_and_taken_again_under_a_later_epoch_alone() {
        let frozen = Share {
            frozen: vec![(0, 5)],
            ..Share::default()
        };
        let mark = Some((Standing::Frozen, 5));
        assert_eq!(share(row(1, 4, None), None), taken());
        assert_eq!(share(row(1, 5, Some(2)), None), frozen);
        assert_eq!(
            share(row(1, 5, Some(2)), Some((Standing::Frozen, 3))),
            frozen
        );
        assert_eq!(share(row(1, 5, Some(2)), mark), Share::default());
        // What it knew before a restart.
        assert_eq!(share(row(1, 4, None), mark), Share::default());
        assert_eq!(share(row(1, 6, None), mark), taken());
    }

    #[test]
    fn a_bucket_that_another_node_has_is_dropped_once() {
        let dropped = Share {
            dropped: vec![(0, 6)],
            ..Share::default()
        };
        assert_eq!(share(row(2, 6, None), Some((Standing::Frozen, 5))), dropped);
        assert_eq!(
            share(row(2, 6, None), Some((Standing::Adopted, 5))),
            dropped
        );
        assert_eq!(
            share(row(2, 6, None), Some((Standing::Dropped, 5))),
            Share::default()
        );
        // It has not moved yet, and another owner may have had it before.
        let adopted = Some((Standing::Adopted, 6));
        assert_eq!(share(row(2, 6, Some(1)), adopted), Share::default());
        assert_eq!(share(row(2, 4, None), adopted), Share::default());
        assert_eq!(share(row(2, 4, None), None), Share::default());
    }

    #[test]
    fn what_was_adopted_is_taken_once_the_table_says_so_and_nothing_is_made_up() {
        let adopted = Some((Standing::Adopted, 5));
        let mark = BucketMark {
            standing: Standing::Adopted,
            epoch: 5,
        };
        let share_of_it = share(row(1, 6, None), adopted);
        assert_eq!(share_of_it, taken());
        assert!(share_of_it.has_come(&BTreeSet::new(), &[(0, mark)].into()));
        assert!(!share_of_it.has_come(&[0].into(), &[(0, mark)].into()));
        assert!(!share_of_it.has_come(&BTreeSet::new(), &BTreeMap::new()));
        let missing = Share {
            missing: vec![0],
            ..Share::default()
        };
        assert_eq!(
            share(row(1, 6, None), Some((Standing::Dropped, 5))),
            missing
        );
    }
}
