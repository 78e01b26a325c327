//! When messages expire, by the time of a shard's log and by the wall clock.
//!
//! The two differ by what the wall clock has leapt, for good (`cluster_core::LogClock`). A message
//! in the log expires by the log's time, one on a connection by the wall clock: each compares with
//! its own. So what goes into the log, and what comes out of it, is converted here.

use std::sync::Arc;

use session::{Command, Enqueue, Message, Retain, WallMs};

/// Both times at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    /// Of the shard's log.
    pub(super) log: WallMs,
    /// Of the wall clock.
    pub(super) wall: WallMs,
}

impl Times {
    /// The command as it goes into the log: a message that comes from a client, or is a will,
    /// begins its interval now. That it may have waited before lengthens it; the wall clock, which
    /// may have leapt meanwhile, cannot tell.
    pub(super) fn into_log(self, command: Command) -> Command {
        match command {
            Command::Enqueue(enqueue) => Command::Enqueue(Enqueue {
                message: self.begun(enqueue.message),
                ..enqueue
            }),
            Command::Retain(retain) => Command::Retain(Retain {
                message: retain.message.map(|message| self.begun(message)),
                ..retain
            }),
            // These have waited in other shards.
            Command::Replay(mut replay) => {
                let rows = std::mem::take(&mut replay.rows).into_iter();
                let stored = |row| moved(row, self.wall, self.log);
                replay.rows = rows.map(stored).collect();
                Command::Replay(replay)
            }
            other => other,
        }
    }

    /// The message as it leaves the log: so much is left of its interval as the log says.
    pub(super) fn out_of_log(self, message: Arc<Message>) -> Arc<Message> {
        moved(message, self.log, self.wall)
    }

    fn begun(self, message: Arc<Message>) -> Arc<Message> {
        let received = message.received;
        moved(message, received, self.log)
    }
}

/// The message with its times as they would be had `to` been shown instead of `from`.
fn moved(message: Arc<Message>, from: WallMs, to: WallMs) -> Arc<Message> {
    let Some(expiry) = message.expiry.filter(|_| from != to) else {
        return message;
    };
    let at = |time: WallMs| match time.0.checked_sub(from.0) {
        Some(later) => WallMs(to.0.saturating_add(later)),
        None => WallMs(to.0.saturating_sub(from.0 - time.0)),
    };
    Arc::new(Message {
        received: at(message.received),
        expiry: Some(at(expiry)),
        ..(*message).clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(received: u64, expiry: Option<u64>) -> Arc<Message> {
        Arc::new(Message {
            topic: "a".try_into().expect("a topic"),
            payload: bytes::Bytes::new(),
            qos: mqtt::QoS::AtLeastOnce,
            retain: false,
            properties: None,
            publisher: None,
            received: WallMs(received),
            expiry: expiry.map(WallMs),
        })
    }

    fn queued(times: Times, message: Arc<Message>) -> Arc<Message> {
        let origin = None;
        match times.into_log(Command::Enqueue(Enqueue { message, origin })) {
            Command::Enqueue(enqueue) => enqueue.message,
            other => panic!("{other:?}"),
        }
    }

    /// The log is an hour ahead, or behind.
    fn apart() -> [Times; 2] {
        let (log, wall) = (WallMs(5_000_000), WallMs(8_600_000));
        [
            Times { log, wall },
            Times {
                log: wall,
                wall: log,
            },
        ]
    }

    #[test]
    fn a_message_has_its_whole_interval_in_the_log_and_what_is_left_behind_it() {
        for times in apart() {
            let message = message(times.wall.0 - 700, Some(times.wall.0 - 700 + 60_000));

            let stored = queued(times, message);
            assert_eq!(stored.expiry, Some(WallMs(times.log.0 + 60_000)));
            let later = Times {
                log: WallMs(times.log.0 + 20_000),
                wall: WallMs(times.wall.0 + 20_000),
            };
            let sent = later.out_of_log(stored);
            assert_eq!(sent.expiry_left_s(later.wall), Some(40));
        }
    }

    #[test]
    fn a_clock_that_leapt_while_a_message_waited_takes_nothing_of_its_interval() {
        let times = Times {
            log: WallMs(5_000_000),
            wall: WallMs(8_600_000),
        };
        let before_the_leap = message(5_000_000, Some(5_060_000));
        let stored = queued(times, before_the_leap);
        assert_eq!(stored.expiry, Some(WallMs(5_060_000)));
    }

    #[test]
    fn a_retained_message_keeps_what_is_left_on_its_way_to_another_shard() {
        for times in apart() {
            let row = message(times.wall.0 - 50_000, Some(times.wall.0 + 10_000));
            let replay = Command::Replay(Box::new(session::Replay {
                client: "c".try_into().expect("a client id"),
                epoch: session::Epoch(1),
                filter: "a".try_into().expect("a filter"),
                rows: vec![row],
            }));
            let Command::Replay(replay) = times.into_log(replay) else {
                panic!("it stays one");
            };
            assert_eq!(replay.rows[0].expiry, Some(WallMs(times.log.0 + 10_000)));
        }
    }

    #[test]
    fn what_never_expires_is_not_copied() {
        for times in apart() {
            let message = message(1, None);
            assert!(Arc::ptr_eq(&message, &queued(times, Arc::clone(&message))));
            assert!(Arc::ptr_eq(
                &message,
                &times.out_of_log(Arc::clone(&message))
            ));
        }
    }
}
