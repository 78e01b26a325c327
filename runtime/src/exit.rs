//! How an actor ended, and the wall around it.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

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

/// Runs an actor to its end, drops it, and turns a panic into [`Exit::Panicked`], so that one
/// connection's bug ends one connection.
///
/// A future by hand, awaited by reference: an `async fn` would hold the actor twice, once as its
/// argument and once where it is polled, and the actor is most of an idle connection's memory.
#[derive(Debug)]
pub struct Guarded<A>(Option<A>);

impl<A: Future<Output = Exit> + Unpin> Guarded<A> {
    /// Puts the wall around an actor.
    pub fn new(actor: A) -> Self {
        Self(Some(actor))
    }
}

impl<A: Future<Output = Exit> + Unpin> Future for Guarded<A> {
    type Output = Exit;

    /// # Panics
    /// When polled after its end.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Exit> {
        let actor = self.0.as_mut().expect("polled after its end");
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(actor).poll(context)));
        let exit = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(exit)) => exit,
            Err(panic) => Exit::Panicked(panic_text(&*panic)),
        };
        self.0 = None;
        Poll::Ready(exit)
    }
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
        let actor = Box::pin(async { panic!("slot {} is empty", 3) });
        let exit = Guarded::new(actor).await;
        assert_eq!(exit, Exit::Panicked("slot 3 is empty".into()));
        assert_eq!(
            Guarded::new(Box::pin(async { Exit::Normal })).await,
            Exit::Normal
        );
    }
}
