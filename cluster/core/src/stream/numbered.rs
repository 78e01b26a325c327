//! The sending end of a numbered stream.

use std::collections::VecDeque;

use crate::share::Shares;
use crate::{ConnectionId, Share, ShareLimits};

/// Numbers items and keeps each until it is answered.
///
/// `T` is cloned for each sending: payloads behind it are shared.
#[derive(Clone, Debug)]
pub struct Numbered<T> {
    shares: Shares,
    slots: VecDeque<Slot<T>>,
    /// Number of the first slot.
    first: u64,
    /// Slots from the first that were handed out since the last error.
    sent: usize,
    attempt: Attempt,
    /// Number of the first slot when that began.
    attempt_first: u64,
    /// Numbers below the first that go once more, as nothing.
    refilled: u64,
    /// Those of them that were handed out since the last error.
    refilled_sent: u64,
    withdrawn: u64,
}

#[derive(Clone, Debug)]
struct Slot<T> {
    item: T,
    owner: Option<ConnectionId>,
    share: Share,
    bytes: u64,
    /// The sending that was under way when it came, or when the oldest came that were before it then.
    since: Attempt,
    /// It went as nothing.
    is_withdrawn: bool,
}

/// Counts how often a stream went back. It travels with an item into the log, so that no item of
/// an earlier sending is taken after one of a later, and comes back with an error: of the many
/// that one gap brings, the first counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt(pub u64);

/// An item on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent<T> {
    /// Its number, from 0.
    pub n: u64,
    /// The sending that it belongs to.
    pub attempt: Attempt,
    /// What it asks for.
    pub body: Body<T>,
}

/// What stands under a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<T> {
    /// To be applied.
    Item(T),
    /// Nothing: the item's connection has ended. Nobody was promised the item, and a late commit
    /// would overtake what its client did elsewhere meanwhile.
    Nop,
}

/// An answered item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed<T> {
    /// Its number.
    pub n: u64,
    /// The item, whether its last sending was a [`Body::Nop`] or not.
    pub item: T,
    /// The connection that may be told.
    pub owner: Option<ConnectionId>,
}

impl<T: Clone> Numbered<T> {
    /// An empty stream.
    pub fn new(limits: ShareLimits) -> Self {
        Self {
            shares: Shares::new(limits),
            slots: VecDeque::new(),
            first: 0,
            sent: 0,
            attempt: Attempt(0),
            attempt_first: 0,
            refilled: 0,
            refilled_sent: 0,
            withdrawn: 0,
        }
    }

    /// Puts an item at the end; returns its number.
    ///
    /// `owner` is the connection without which nobody wants it; `None` for what outlives its
    /// connection: an `Open` (its expected epoch guards it, and its answer is needed to close what
    /// it opened), a `Close`, a will.
    ///
    /// # Errors
    /// The item itself if its share is full; the stream is unchanged and the connection waits.
    pub fn push(
        &mut self,
        item: T,
        owner: Option<ConnectionId>,
        share: Share,
        bytes: u64,
    ) -> Result<u64, T> {
        self.push_since(item, owner, share, bytes, self.since())
    }

    /// As [`Self::push`], for an item that waited outside since [`Self::since`] was this.
    ///
    /// # Errors
    /// As for [`Self::push`].
    pub fn push_since(
        &mut self,
        item: T,
        owner: Option<ConnectionId>,
        share: Share,
        bytes: u64,
        since: Attempt,
    ) -> Result<u64, T> {
        if !self.shares.take(share, bytes) {
            return Err(item);
        }
        let since = since.min(self.since());
        self.slots.push_back(Slot {
            item,
            owner,
            share,
            bytes,
            since,
            is_withdrawn: false,
        });
        Ok(self.first + self.slots.len() as u64 - 1)
    }

    /// Since which sending an item that comes now belongs to the stream: since that of what is before
    /// it. What came before an error, and what came behind that, goes as nothing together, or a
    /// connection's later item would be taken without an earlier one, and its client sends both
    /// again.
    pub fn since(&self) -> Attempt {
        self.slots.back().map_or(self.attempt, |last| last.since)
    }

    /// The next item to send, in order. `is_open` says whether a connection of this node still
    /// lasts.
    ///
    /// What is there since an error, of a connection that has ended, goes as [`Body::Nop`]. Without an
    /// error all goes as itself: a client that publishes and leaves at once is served.
    pub fn poll_item(&mut self, is_open: impl Fn(ConnectionId) -> bool) -> Option<Sent<T>> {
        if self.refilled_sent < self.refilled {
            let n = self.first - self.refilled + self.refilled_sent;
            self.refilled_sent += 1;
            return Some(Sent {
                n,
                attempt: self.attempt,
                body: Body::Nop,
            });
        }
        let slot = self.slots.get_mut(self.sent)?;
        let n = self.first + self.sent as u64;
        self.sent += 1;
        let body = match slot.owner {
            Some(owner) if slot.since < self.attempt && !is_open(owner) => {
                self.withdrawn += u64::from(!std::mem::replace(&mut slot.is_withdrawn, true));
                Body::Nop
            }
            _ => Body::Item(slot.item.clone()),
        };
        Some(Sent {
            n,
            attempt: self.attempt,
            body,
        })
    }

    /// The item `n` is applied. Returns it if it is the first unconfirmed; a repeated answer is
    /// ignored, and so is one whose predecessor's was lost: both are sent again after
    /// [`Self::handle_error`] and answered as before.
    pub fn handle_answer(&mut self, n: u64) -> Option<Confirmed<T>> {
        if self.refilled > 0 {
            if n == self.first - self.refilled {
                self.refilled -= 1;
                self.refilled_sent = self.refilled_sent.saturating_sub(1);
            }
            return None;
        }
        if n != self.first {
            return None;
        }
        let slot = self.slots.pop_front()?;
        self.first += 1;
        self.sent = self.sent.saturating_sub(1);
        self.shares.give(slot.share, slot.bytes);
        Some(Confirmed {
            n,
            item: slot.item,
            owner: slot.owner,
        })
    }

    /// Something sent in `attempt` may not have arrived: goes back to the first unconfirmed item,
    /// unless that was done since. Says whether it went back.
    pub fn handle_error(&mut self, attempt: Attempt) -> bool {
        let is_news = attempt == self.attempt;
        if is_news {
            self.attempt.0 += 1;
            self.attempt_first = self.first - self.refilled;
            self.sent = 0;
            self.refilled_sent = 0;
        }
        is_news
    }

    /// As [`Self::handle_error`], for an item of that sending in whose place the receiver wants the
    /// number `next`. Where everything below that sending was answered, and the receiver wants a number
    /// of it, the receiver was recovered with loss: what it has lost goes once more as [`Body::Nop`], a
    /// number each, or nothing would ever be taken again.
    pub fn handle_gap(&mut self, attempt: Attempt, next: u64) -> bool {
        if attempt != self.attempt {
            return false;
        }
        if next < self.attempt_first {
            self.refilled = self.first - next;
        }
        self.handle_error(attempt)
    }

    /// The sending under way, for an error that concerns all of it: a lost link.
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Items without an answer.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether everything is answered.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Items that were sent as nothing, each counted once.
    pub fn withdrawn(&self) -> u64 {
        self.withdrawn
    }

    /// Bytes of a share that wait for their answers.
    pub fn bytes(&self, share: Share) -> u64 {
        self.shares.taken(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnectionId = ConnectionId(1);
    const B: ConnectionId = ConnectionId(2);

    fn of_three() -> Numbered<char> {
        let mut stream = Numbered::new(ShareLimits::default());
        for (item, owner) in [('a', Some(A)), ('b', Some(B)), ('c', None)] {
            stream.push(item, owner, Share::Enqueue, 1).unwrap();
        }
        stream
    }

    fn sent(stream: &mut Numbered<char>, open: &[ConnectionId]) -> Vec<(u64, Body<char>)> {
        std::iter::from_fn(|| stream.poll_item(|c| open.contains(&c)))
            .map(|sent| (sent.n, sent.body))
            .collect()
    }

    #[test]
    fn after_an_error_the_first_unconfirmed_item_goes_first() {
        let mut stream = of_three();
        sent(&mut stream, &[A, B]);
        assert_eq!(stream.handle_answer(0).map(|c| c.item), Some('a'));

        stream.handle_error(Attempt(0));

        let again = sent(&mut stream, &[A, B]);
        assert_eq!(again, [(1, Body::Item('b')), (2, Body::Item('c'))]);
    }

    #[test]
    fn an_item_whose_connection_ended_is_sent_again_as_nop_under_its_number() {
        let mut stream = of_three();
        sent(&mut stream, &[A, B]);

        stream.handle_error(Attempt(0));

        let expected = [(0, Body::Item('a')), (1, Body::Nop), (2, Body::Item('c'))];
        assert_eq!(sent(&mut stream, &[A]), expected);
        stream.handle_error(stream.attempt());
        assert_eq!(sent(&mut stream, &[A]), expected);
        assert_eq!(stream.withdrawn(), 1);
    }

    #[test]
    fn an_item_of_the_sending_under_way_is_sent_as_itself_whoever_has_ended() {
        let mut stream = of_three();
        let items = ['a', 'b', 'c'].map(Body::Item);
        let expected: Vec<_> = (0..).zip(items).collect();
        assert_eq!(sent(&mut stream, &[]), expected);

        stream.handle_error(Attempt(0));
        (0..3).for_each(|n| assert!(stream.handle_answer(n).is_some()));
        stream.push('d', Some(A), Share::Enqueue, 1).unwrap();

        assert_eq!(sent(&mut stream, &[]), [(3, Body::Item('d'))]);
    }

    /// Its client sends both again: the later one would be there before the earlier one.
    #[test]
    fn no_item_of_an_ended_connection_is_taken_behind_one_that_goes_as_nothing() {
        let mut stream = of_three();
        stream.handle_error(Attempt(0));
        stream.push('d', Some(A), Share::Enqueue, 1).unwrap();

        let again = sent(&mut stream, &[B]);

        assert_eq!((&again[0].1, &again[3].1), (&Body::Nop, &Body::Nop));
        stream.push('e', Some(A), Share::Enqueue, 1).unwrap();
        assert_eq!(sent(&mut stream, &[B]), [(4, Body::Nop)]);
    }

    #[test]
    fn an_item_that_was_never_sent_is_nothing_once_the_stream_went_back() {
        let mut stream = of_three();
        stream.handle_error(Attempt(0));

        let expected = [(0, Body::Nop), (1, Body::Nop), (2, Body::Item('c'))];
        assert_eq!(sent(&mut stream, &[]), expected);
    }

    #[test]
    fn the_errors_of_an_earlier_sending_send_nothing_again() {
        let mut stream = of_three();
        sent(&mut stream, &[A, B]);
        assert!(stream.handle_error(Attempt(0)));
        sent(&mut stream, &[A, B]);

        assert!(!stream.handle_error(Attempt(0)));

        assert_eq!(sent(&mut stream, &[A, B]), []);
        assert!(stream.handle_error(stream.attempt()));
        assert_eq!(sent(&mut stream, &[A, B]).len(), 3);
    }

    /// The receiver's end of the stream, as a shard has it that has lost what it had answered last.
    #[test]
    fn what_a_recovered_receiver_has_lost_goes_once_more_as_nothing() {
        let mut stream = of_three();
        sent(&mut stream, &[A, B]);
        stream.handle_answer(0);
        stream.handle_answer(1);
        stream.handle_error(stream.attempt());
        let epoch = crate::NodeEpoch(1);
        let mut receiver = crate::Receiver::default();
        let only = stream.poll_item(|_| true).unwrap();
        let refused = receiver.admit(epoch, only.attempt, only.n);
        assert_eq!(refused, crate::Admission::Gap { next: 0 });

        assert!(stream.handle_gap(only.attempt, 0));

        let again = std::iter::from_fn(|| stream.poll_item(|_| true)).collect::<Vec<_>>();
        let bodies: Vec<_> = again
            .iter()
            .map(|sent| (sent.n, sent.body.clone()))
            .collect();
        let expected = [(0, Body::Nop), (1, Body::Nop), (2, Body::Item('c'))];
        assert_eq!(bodies, expected);
        for sent in again {
            let admitted = receiver.admit(epoch, sent.attempt, sent.n);
            assert_eq!(admitted, crate::Admission::New);
        }
        assert_eq!(
            (stream.handle_answer(0), stream.handle_answer(1)),
            (None, None)
        );
        assert_eq!(stream.handle_answer(2).map(|c| c.item), Some('c'));
        assert!(stream.is_empty());
    }

    #[test]
    fn a_gap_of_what_was_never_answered_fills_nothing_in() {
        let mut stream = of_three();
        sent(&mut stream, &[A, B]);
        assert!(stream.handle_gap(Attempt(0), 0));
        assert!(!stream.handle_gap(Attempt(0), 0), "of an earlier sending");
        assert_eq!(sent(&mut stream, &[A, B]).len(), 3);
        // Answered in the sending under way: the gap may be older than the answer.
        stream.handle_answer(0);
        assert!(stream.handle_gap(stream.attempt(), 0));

        let expected = [(1, Body::Item('b')), (2, Body::Item('c'))];
        assert_eq!(sent(&mut stream, &[A, B]), expected);
    }

    #[test]
    fn only_the_first_unconfirmed_item_can_be_answered() {
        let mut stream = of_three();
        sent(&mut stream, &[A, B]);

        assert_eq!(stream.handle_answer(1), None);
        assert!(stream.handle_answer(0).is_some());
        assert_eq!(stream.handle_answer(0), None);
        assert_eq!(stream.len(), 2);
    }

    #[test]
    fn an_answer_that_comes_after_going_back_counts() {
        let mut stream = of_three();
        sent(&mut stream, &[A, B]);
        stream.handle_error(Attempt(0));

        assert!(stream.handle_answer(0).is_some());

        assert_eq!(sent(&mut stream, &[A, B])[0], (1, Body::Item('b')));
    }

    #[test]
    fn a_full_share_gives_the_item_back_and_numbers_nothing() {
        let mut stream = Numbered::new(ShareLimits {
            enqueue_bytes: 1,
            ..ShareLimits::default()
        });
        stream.push('a', None, Share::Enqueue, 1).unwrap();

        assert_eq!(stream.push('b', None, Share::Enqueue, 1), Err('b'));
        assert_eq!(stream.push('c', None, Share::Open, 1), Ok(1));
        stream.handle_answer(0);
        assert_eq!(stream.push('b', None, Share::Enqueue, 1), Ok(2));
    }
}
