//! The mailbox of an actor that lives on one thread.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Which of the two queues of a mailbox a message takes. Control overtakes data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Kicks, answers, timers: few, each owed by somebody, hence bounded by their senders.
    Control,
    /// Deliveries: bounded by the mailbox in bytes.
    Data,
}

/// Room for so many messages is kept by an empty mailbox, so that a busy one does not allocate for
/// each; [`Mailbox::trim`] gives it back.
const KEPT_MESSAGES: usize = 64;

/// A message came back because the data queue is full.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused<T>(pub T);

struct Queues<T> {
    control: VecDeque<T>,
    data: VecDeque<(u32, T)>,
    data_bytes: usize,
    data_bytes_limit: usize,
    control_limit: usize,
    waker: Option<Waker>,
    closed: bool,
}

/// A bounded two-priority queue between tasks of one thread; clones are ends of the same queue.
///
/// The data queue is bounded in bytes (the sizes that its senders state), the control queue in
/// messages. A trimmed empty
/// mailbox holds no heap memory for messages.
pub struct Mailbox<T> {
    queues: Rc<RefCell<Queues<T>>>,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self {
            queues: Rc::clone(&self.queues),
        }
    }
}

impl<T> Mailbox<T> {
    /// An empty mailbox that takes up to `data_bytes_limit` bytes of data messages and
    /// `control_limit` control messages. A data message larger than the limit passes alone.
    pub fn new(data_bytes_limit: usize, control_limit: usize) -> Self {
        let queues = Queues {
            control: VecDeque::new(),
            data: VecDeque::new(),
            data_bytes: 0,
            data_bytes_limit,
            control_limit,
            waker: None,
            closed: false,
        };
        Self {
            queues: Rc::new(RefCell::new(queues)),
        }
    }

    /// Puts a message of `bytes` bytes in and wakes the owner.
    ///
    /// # Errors
    /// Gives the message back when its queue is full or the owner has ended.
    pub fn push(&self, priority: Priority, bytes: u32, message: T) -> Result<(), Refused<T>> {
        let mut queues = self.queues.borrow_mut();
        let full = match priority {
            Priority::Control => queues.control.len() >= queues.control_limit,
            Priority::Data => {
                queues.data_bytes > 0
                    && queues.data_bytes + bytes as usize > queues.data_bytes_limit
            }
        };
        if full || queues.closed {
            return Err(Refused(message));
        }
        match priority {
            Priority::Control => queues.control.push_back(message),
            Priority::Data => {
                queues.data_bytes += bytes as usize;
                queues.data.push_back((bytes, message));
            }
        }
        let waker = queues.waker.take();
        drop(queues);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Takes the next message, control before data.
    pub fn pop(&self) -> Option<T> {
        let mut queues = self.queues.borrow_mut();
        if let Some(message) = queues.control.pop_front() {
            return Some(message);
        }
        let Some((bytes, message)) = queues.data.pop_front() else {
            // Memory of a burst goes back once the burst is over.
            if queues.data.capacity() + queues.control.capacity() > KEPT_MESSAGES {
                queues.data = VecDeque::new();
                queues.control = VecDeque::new();
            }
            return None;
        };
        queues.data_bytes -= bytes as usize;
        Some(message)
    }

    /// Gives back the room that nothing waits in.
    pub fn trim(&self) {
        let mut queues = self.queues.borrow_mut();
        queues.control.shrink_to_fit();
        queues.data.shrink_to_fit();
    }

    /// Ready when a message waits, else registers the owner's waker. Cancel-safe.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut queues = self.queues.borrow_mut();
        if !queues.control.is_empty() || !queues.data.is_empty() {
            return Poll::Ready(());
        }
        if !queues
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(context.waker()))
        {
            queues.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Refuses everything from now on and drops what waits: the owner ends.
    pub fn close(&self) {
        let mut queues = self.queues.borrow_mut();
        queues.closed = true;
        let waiting = (
            std::mem::take(&mut queues.control),
            std::mem::take(&mut queues.data),
        );
        queues.data_bytes = 0;
        drop(queues);
        drop(waiting);
    }

    /// Bytes of data messages that wait.
    pub fn data_bytes(&self) -> usize {
        self.queues.borrow().data_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_overtakes_data_and_each_keeps_its_order() {
        let mailbox = Mailbox::new(100, 10);
        mailbox.push(Priority::Data, 1, "d1").expect("room");
        mailbox.push(Priority::Control, 0, "c1").expect("room");
        mailbox.push(Priority::Data, 1, "d2").expect("room");
        mailbox.push(Priority::Control, 0, "c2").expect("room");
        let order: Vec<_> = std::iter::from_fn(|| mailbox.pop()).collect();
        assert_eq!(order, ["c1", "c2", "d1", "d2"]);
    }

    #[test]
    fn a_full_queue_gives_the_message_back_and_harms_nothing() {
        let mailbox = Mailbox::new(10, 1);
        mailbox.push(Priority::Data, 9, 1).expect("room");
        assert_eq!(mailbox.push(Priority::Data, 2, 2), Err(Refused(2)));
        mailbox.push(Priority::Control, 0, 3).expect("room");
        assert_eq!(mailbox.push(Priority::Control, 0, 4), Err(Refused(4)));
        assert_eq!(
            std::iter::from_fn(|| mailbox.pop()).collect::<Vec<_>>(),
            [3, 1]
        );
        assert_eq!(mailbox.data_bytes(), 0);
    }

    #[test]
    fn a_message_above_the_limit_passes_alone() {
        let mailbox = Mailbox::new(10, 1);
        mailbox.push(Priority::Data, 50, 1).expect("alone");
        assert_eq!(mailbox.push(Priority::Data, 1, 2), Err(Refused(2)));
    }

    #[test]
    fn a_closed_mailbox_takes_nothing() {
        let mailbox = Mailbox::new(10, 1);
        mailbox.push(Priority::Data, 1, 1).expect("room");
        mailbox.close();
        assert_eq!(mailbox.pop(), None);
        assert_eq!(mailbox.push(Priority::Control, 0, 2), Err(Refused(2)));
    }
}
