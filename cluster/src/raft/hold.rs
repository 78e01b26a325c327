//! How far the log of a group may be purged: what a member lacks is kept for it, within bounds.

use std::collections::VecDeque;
use std::time::Duration;

/// Flushes that are remembered; older ones are merged, so that a hold ends a little later.
const MARKS_MAX: usize = 64;

/// How much log is kept for members that are behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldLimits {
    /// Bytes of log of one group.
    pub bytes: u64,
    /// How long after an entry was flushed here.
    pub age: Duration,
}

impl Default for HoldLimits {
    fn default() -> Self {
        Self {
            bytes: 1 << 30,
            age: Duration::from_mins(10),
        }
    }
}

/// What the log of a group is kept for.
#[derive(Debug)]
pub(super) struct Hold {
    limits: HoldLimits,
    /// Of flushes whose entries may be in the log still, oldest first.
    marks: VecDeque<Mark>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    /// The last entry that was flushed.
    index: u64,
    /// Bytes of log that were applied until then, since the start.
    bytes: u64,
    at: Duration,
}

/// Who needs the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// This replica leads. The first entry that a member or a copy under way may still lack; none
    /// if nobody lacks any.
    From(Option<u64>),
    /// It does not lead, and does not know what others lack.
    Unknown,
}

impl Hold {
    pub(super) fn new(limits: HoldLimits) -> Self {
        Self {
            limits,
            marks: VecDeque::new(),
        }
    }

    /// Takes note of a flush, and gives the last entry that may be purged.
    pub(super) fn handle_flushed(
        &mut self,
        index: u64,
        bytes: u64,
        now: Duration,
        needs: Needs,
    ) -> Option<u64> {
        let before = self.marks.back().map(|mark| mark.index);
        if before.is_none_or(|before| before < index) {
            if self.marks.len() == MARKS_MAX {
                // Its entries count as flushed when the next ones were.
                self.marks.pop_front();
            }
            let at = now;
            self.marks.push_back(Mark { index, bytes, at });
        }
        self.upto(bytes, now, needs)
    }

    /// The last entry that may be purged now.
    pub(super) fn upto(&mut self, bytes: u64, now: Duration, needs: Needs) -> Option<u64> {
        let last = self.marks.back()?.index;
        let unneeded = match needs {
            Needs::From(None) => Some(last),
            Needs::From(Some(first)) => first.checked_sub(1).map(|upto| upto.min(last)),
            // What was flushed before the last time: a member that is not far behind finds its
            // entries here, should this replica be elected.
            Needs::Unknown => {
                let others = self.marks.iter().rev().skip(1);
                others.map(|mark| mark.index).next()
            }
        };
        let is_over = |mark: &&Mark| {
            bytes.saturating_sub(mark.bytes) > self.limits.bytes
                || now.saturating_sub(mark.at) > self.limits.age
        };
        let over = self.marks.iter().filter(is_over).map(|mark| mark.index);
        let upto = unneeded.max(over.max())?;
        let kept = self.marks.iter().filter(|mark| mark.index > upto).count();
        // The last one tells the next flush from this.
        self.marks.drain(..self.marks.len() - kept.max(1));
        Some(upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HoldLimits = HoldLimits {
        bytes: 1000,
        age: Duration::from_secs(60),
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_flushed_goes_unless_somebody_lacks_it() {
        let mut hold = Hold::new(LIMITS);
        assert_eq!(hold.upto(0, at(0), Needs::From(None)), None, "no flush yet");
        let upto = hold.handle_flushed(9, 100, at(1), Needs::From(None));
        assert_eq!(upto, Some(9));
        let upto = hold.handle_flushed(19, 200, at(2), Needs::From(Some(15)));
        assert_eq!(upto, Some(14));
        let upto = hold.upto(200, at(2), Needs::From(Some(30)));
        assert_eq!(upto, Some(19), "never beyond what is flushed");
        let mut hold = Hold::new(LIMITS);
        let upto = hold.handle_flushed(9, 100, at(1), Needs::From(Some(0)));
        assert_eq!(upto, None, "a new member lacks all");
    }

    #[test]
    fn a_hold_ends_by_bytes_and_by_age() {
        let lacks_all = Needs::From(Some(0));
        let mut hold = Hold::new(LIMITS);
        hold.handle_flushed(9, 100, at(1), lacks_all);
        hold.handle_flushed(19, 900, at(2), lacks_all);
        assert_eq!(hold.upto(1_100, at(3), lacks_all), None);
        assert_eq!(hold.upto(1_101, at(3), lacks_all), Some(9));
        assert_eq!(hold.upto(1_901, at(3), lacks_all), Some(19));

        let mut hold = Hold::new(LIMITS);
        hold.handle_flushed(9, 0, at(1), lacks_all);
        hold.handle_flushed(19, 0, at(50), lacks_all);
        assert_eq!(hold.upto(0, at(61), lacks_all), None);
        assert_eq!(hold.upto(0, at(62), lacks_all), Some(9));
        assert_eq!(hold.upto(0, at(111), lacks_all), Some(19));
    }

    #[test]
    fn a_follower_keeps_what_it_flushed_last() {
        let mut hold = Hold::new(LIMITS);
        assert_eq!(hold.handle_flushed(9, 0, at(1), Needs::Unknown), None);
        assert_eq!(hold.handle_flushed(9, 0, at(2), Needs::Unknown), None);
        assert_eq!(hold.handle_flushed(19, 0, at(3), Needs::Unknown), Some(9));
        assert_eq!(hold.handle_flushed(29, 0, at(4), Needs::Unknown), Some(19));
    }

    #[test]
    fn many_flushes_during_a_hold_take_little_memory() {
        let lacks_all = Needs::From(Some(0));
        let mut hold = Hold::new(LIMITS);
        for index in 0..10_000 {
            hold.handle_flushed(index, 0, at(1), lacks_all);
        }
        assert_eq!(hold.marks.len(), MARKS_MAX);
        assert_eq!(hold.upto(0, at(62), lacks_all), Some(9_999));
    }
}
