//! The log's side of the journal's writer thread: numbers records, writes and reads preambles, shows
//! readers what is fsynced.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Incarnation;
use super::state::Readable;
use crate::journal::{Frame, Layout, SegmentStart};

const PREAMBLE_VERSION: u8 = 1;

/// The log's side of the journal's writer thread.
pub(super) struct LogLayout {
    readable: Arc<Readable>,
    /// The next offset of each partition: ahead of the readable ends while a group is written.
    next: Vec<u64>,
    incarnation: u64,
    /// The ends at which the current incarnation began.
    began: Vec<u64>,
}

impl LogLayout {
    pub(super) fn new(readable: Arc<Readable>, partitions: u16) -> Self {
        let zeros = vec![0; usize::from(partitions)];
        Self {
            readable,
            next: zeros.clone(),
            incarnation: 0,
            began: zeros,
        }
    }

    fn read_preamble(&mut self, preamble: &[u8]) -> Result<(Vec<u64>, Vec<u64>), String> {
        let partitions = self.next.len();
        let Some((head, rest)) = preamble.split_first_chunk::<8>() else {
            return Err("the segment's preamble is cut short".to_owned());
        };
        if head[0] != PREAMBLE_VERSION {
            return Err(format!(
                "version {} of the segment's preamble is not known to this release",
                head[0]
            ));
        }
        let found = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if found != partitions {
            return Err(format!(
                "the log has {found} partitions, not {partitions}: the number is fixed when the folder is created"
            ));
        }
        let (words, rest) = rest.as_chunks::<8>();
        if words.len() != 2 * partitions || !rest.is_empty() {
            return Err("the segment's preamble has a wrong length".to_owned());
        }
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let (bases, began) = words.split_at(partitions);
        Ok((bases.to_vec(), began.to_vec()))
    }
}

impl Layout for LogLayout {
    fn recover_segment(&mut self, start: &SegmentStart, preamble: &[u8]) -> Result<(), String> {
        let (bases, began) = self.read_preamble(preamble)?;
        let mut state = self.readable.state();
        if state.segments.is_empty() {
            state.ends.clone_from(&bases);
            state.read.clone_from(&bases);
        }
        if state.ends != bases {
            return Err("the segment does not go on where the one before ends".to_owned());
        }
        let incarnation = Incarnation::new(start.incarnation);
        if state.incarnation != incarnation {
            state.incarnation = incarnation;
            state.begins.push((incarnation, began.clone()));
        }
        state.start_segment(start);
        self.next = bases;
        self.began = began;
        self.incarnation = start.incarnation;
        Ok(())
    }

    fn recover_frame(&mut self, frame: &Frame) -> Result<(), String> {
        let mut state = self.readable.state();
        state.add_frame(frame)?;
        self.next.clone_from(&state.ends);
        Ok(())
    }

    fn preamble(&mut self, incarnation: u64, out: &mut Vec<u8>) {
        if incarnation != self.incarnation {
            self.incarnation = incarnation;
            self.began.clone_from(&self.next);
        }
        let partitions = u16::try_from(self.next.len()).expect("made from a u16");
        out.extend_from_slice(&[PREAMBLE_VERSION, 0]);
        out.extend_from_slice(&partitions.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for offset in self.next.iter().chain(&self.began) {
            out.extend_from_slice(&offset.to_le_bytes());
        }
    }

    fn segment_started(&mut self, start: &SegmentStart) {
        let mut state = self.readable.state();
        assert_eq!(
            state.ends, self.next,
            "a segment begins when the one before is fsynced"
        );
        state.start_segment(start);
        let disk_bytes = state.disk_bytes();
        self.readable
            .disk_bytes
            .store(disk_bytes, Ordering::Release);
    }

    fn number(&mut self, tag: u32) -> u64 {
        let next = &mut self.next[tag as usize];
        let number = *next;
        *next += 1;
        number
    }

    fn synced(&mut self, frames: Vec<Arc<Frame>>) {
        let mut state = self.readable.state();
        for frame in frames {
            self.readable
                .disk_bytes
                .fetch_add(frame.next.offset - frame.position.offset, Ordering::AcqRel);
            state
                .add_frame(&frame)
                .expect("this thread has laid the frame out");
            state.cache.push(frame);
        }
        drop(state);
        self.readable.wake();
    }

    fn closed(&mut self) {
        self.readable.state().closed = true;
        self.readable.wake();
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn layout() -> LogLayout {
        LogLayout::new(Readable::new(2, 0), 2)
    }

    #[test]
    fn the_preamble_of_a_segment_has_these_bytes() {
        let mut layout = layout();
        assert_eq!([layout.number(1), layout.number(1)], [0, 1]);
        let mut begun = Vec::new();
        layout.preamble(1 << 32 | 1, &mut begun);
        assert_eq!(layout.number(0), 0);

        let mut preamble = Vec::new();
        layout.preamble(1 << 32 | 1, &mut preamble);

        let expected: &[u8] = b"\x01\x00\x02\x00\x00\x00\x00\x00\
            \x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\
            \x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00";
        assert_eq!(preamble, expected);
        assert_eq!(
            layout.read_preamble(&preamble),
            Ok((vec![1, 2], vec![0, 2]))
        );
    }

    #[test]
    fn a_preamble_of_another_length_or_version_is_refused() {
        let mut layout = layout();
        let mut preamble = Vec::new();
        layout.preamble(1, &mut preamble);
        for len in 0..preamble.len() {
            assert!(layout.read_preamble(&preamble[..len]).is_err(), "{len}");
        }
        preamble[0] = 2;
        assert_eq!(
            layout.read_preamble(&preamble),
            Err("version 2 of the segment's preamble is not known to this release".to_owned())
        );
    }

    #[test]
    fn a_segment_whose_offsets_do_not_go_on_is_refused() {
        let readable = Readable::new(2, 0);
        let mut layout = LogLayout::new(Arc::clone(&readable), 2);
        let start = SegmentStart {
            sequence: 1,
            incarnation: 1,
            first_offset: 100,
            previous_end: 0,
        };
        let mut preamble = Vec::new();
        layout.preamble(1, &mut preamble);
        layout
            .recover_segment(&start, &preamble)
            .expect("its own preamble");

        let later = SegmentStart {
            sequence: 2,
            ..start
        };
        preamble[8] = 5;
        let refused = layout.recover_segment(&later, &preamble);

        assert_eq!(
            refused,
            Err("the segment does not go on where the one before ends".to_owned())
        );
    }
}
