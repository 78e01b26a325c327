//! How an actor ended, and the wall around it.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// How a connection actor ended, as its supervisor hears it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The peer closed the connection or said DISCONNECT.
    Normal,
    /// Another connection of the same client, an operator or a stop ended it.
    Kicked,
    /// The peer broke the protocol; the clause or rule.
    ProtocolError(String),
    /// The peer was silent for 1.5 times its keep alive, or sent no CONNECT in time.
    TimedOut,
    /// The socket failed.
    Io(std::io::ErrorKind),
    /// Our own code failed: a bug.
    Panicked(String),
}

impl Exit {
    /// A bounded label for counters.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Kicked => "kicked",
            Self::ProtocolError(_) => "protocol_error",
            Self::TimedOut => "timed_out",
            Self::Io(_) => "io",
            Self::Panicked(_) => "panicked",
        }
    }
}

/// Runs an actor's future to its end and turns a panic into [`Exit::Panicked`], so that one
/// connection's bug ends one connection.
pub async fn guarded(actor: impl Future<Output = Exit>) -> Exit {
    let mut actor = pin!(actor);
    std::future::poll_fn(move |context| {
        match catch_unwind(AssertUnwindSafe(|| actor.as_mut().poll(context))) {
            Ok(poll) => poll,
            Err(panic) => Poll::Ready(Exit::Panicked(panic_text(&*panic))),
        }
    })
    .await
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without text".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_exit() {
        let exit = guarded(async { panic!("slot {} is empty", 3) }).await;
        assert_eq!(exit, Exit::Panicked("slot 3 is empty".into()));
        assert_eq!(guarded(async { Exit::Normal }).await, Exit::Normal);
    }
}
