//! Where the durable entries of one group lie on disk.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::journal::Position;

/// The frame that holds a run of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) position: Position,
    /// Bytes of the frame on disk.
    pub(super) bytes: u32,
}

/// Entries that lie in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) first: u64,
    pub(super) count: u32,
    pub(super) place: Place,
}

impl Stretch {
    pub(super) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// The index of one group: per frame one element of about 40 bytes, not per entry.
#[derive(Debug, Default)]
pub(super) struct Index {
    stretches: BTreeMap<u64, (u32, Place)>,
    entries: u64,
    /// How many entries each segment holds.
    segments: BTreeMap<u64, u64>,
}

impl Index {
    /// Entries lie here from now on, wherever they lay before.
    pub(super) fn put(&mut self, stretch: Stretch) {
        self.remove(stretch.first..stretch.end());
        self.insert(stretch);
    }

    /// Entries of this range lie nowhere from now on.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        let before = self.stretches.range(..range.start).next_back();
        let reaches = before.and_then(|(first, held)| {
            let stretch = Stretch::of(*first, *held);
            (stretch.end() > range.start).then_some(stretch)
        });
        if let Some(stretch) = reaches {
            self.take_out(stretch);
            self.insert_part(stretch, stretch.first..range.start);
            self.insert_part(stretch, range.end..stretch.end());
        }
        while let Some((first, held)) = self.stretches.range(range.clone()).next() {
            let stretch = Stretch::of(*first, *held);
            self.take_out(stretch);
            self.insert_part(stretch, range.end..stretch.end());
        }
    }

    fn insert(&mut self, stretch: Stretch) {
        let held = (stretch.count, stretch.place);
        let replaced = self.stretches.insert(stretch.first, held);
        debug_assert!(replaced.is_none(), "its range was removed before");
        self.entries += u64::from(stretch.count);
        let segment = stretch.place.position.segment;
        *self.segments.entry(segment).or_default() += u64::from(stretch.count);
    }

    fn insert_part(&mut self, of: Stretch, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.insert(Stretch {
            first: range.start,
            count: u32::try_from(range.end - range.start).expect("a part of the stretch"),
            place: of.place,
        });
    }

    fn take_out(&mut self, stretch: Stretch) {
        self.stretches.remove(&stretch.first);
        let count = u64::from(stretch.count);
        self.entries -= count;
        let segment = stretch.place.position.segment;
        let held = self
            .segments
            .get_mut(&segment)
            .expect("a stretch is counted in its segment");
        *held -= count;
        if *held == 0 {
            self.segments.remove(&segment);
        }
    }

    /// The stretch that holds this entry.
    pub(super) fn at(&self, index: u64) -> Option<Stretch> {
        let (first, held) = self.stretches.range(..=index).next_back()?;
        let stretch = Stretch::of(*first, *held);
        (stretch.end() > index).then_some(stretch)
    }

    /// Number of entries that lie somewhere.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// The first entry of this range that lies nowhere.
    pub(super) fn hole(&self, range: Range<u64>) -> Option<u64> {
        let mut next = range.start;
        while next < range.end {
            match self.at(next) {
                Some(stretch) => next = stretch.end(),
                None => return Some(next),
            }
        }
        None
    }

    /// The oldest segment that holds an entry, and how many it holds.
    pub(super) fn oldest(&self) -> Option<(u64, u64)> {
        self.segments
            .first_key_value()
            .map(|(segment, entries)| (*segment, *entries))
    }

    /// The stretches that lie in this segment.
    pub(super) fn in_segment(&self, segment: u64) -> Vec<Stretch> {
        self.stretches
            .iter()
            .filter(|(_, (_, place))| place.position.segment == segment)
            .map(|(first, held)| Stretch::of(*first, *held))
            .collect()
    }
}

impl Stretch {
    fn of(first: u64, (count, place): (u32, Place)) -> Self {
        Self {
            first,
            count,
            place,
        }
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    fn place(segment: u64) -> Place {
        Place {
            position: Position { segment, offset: 0 },
            bytes: 1,
        }
    }

    proptest! {
        #[test]
        fn it_knows_what_a_map_of_every_entry_knows(
            steps in proptest::collection::vec((any::<bool>(), 0_u64..60, 1_u32..20, 0_u64..6), 0..60),
        ) {
            let (mut index, mut model) = (Index::default(), BTreeMap::new());
            for (put, first, count, segment) in steps {
                let range = first..first + u64::from(count);
                if put {
                    index.put(Stretch { first, count, place: place(segment) });
                    model.extend(range.map(|at| (at, segment)));
                } else {
                    index.remove(range.clone());
                    model.retain(|at, _| !range.contains(at));
                }
                let mut segments = BTreeMap::<u64, u64>::new();
                for segment in model.values() {
                    *segments.entry(*segment).or_default() += 1;
                }
                for at in 0..90 {
                    let found = index.at(at).map(|stretch| stretch.place.position.segment);
                    prop_assert_eq!(found, model.get(&at).copied(), "{}", at);
                }
                prop_assert_eq!(index.entries(), model.len() as u64);
                prop_assert_eq!(&index.segments, &segments);
                prop_assert_eq!(index.hole(5..30), (5..30).find(|at| !model.contains_key(at)));
                for (segment, held) in segments {
                    let listed: u64 = index
                        .in_segment(segment)
                        .iter()
                        .map(|stretch| u64::from(stretch.count))
                        .sum();
                    prop_assert_eq!(listed, held);
                }
            }
        }
    }
}
