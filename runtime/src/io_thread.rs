//! The threads that connections live on.

use std::future::Future;
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use tokio::task::LocalSet;

/// A batch came back because the thread's inbox is full or the thread has ended.
#[derive(Debug)]
pub enum SendRefused<M> {
    /// The inbox is full; try again later. Nothing was taken.
    Full(M),
    /// The thread has ended.
    Ended(M),
}

/// The sending end of an io thread's inbox. What goes through it are batches, never single
/// messages: a hand-off between threads costs more than a whole PUBLISH.
pub struct IoHandle<M> {
    index: usize,
    inbox: mpsc::Sender<M>,
}

impl<M> Clone for IoHandle<M> {
    fn clone(&self) -> Self {
        Self {
            index: self.index,
            inbox: self.inbox.clone(),
        }
    }
}

impl<M> IoHandle<M> {
    /// Number of the thread, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Hands a batch over without waiting.
    ///
    /// # Errors
    /// Gives the batch back when the inbox is full or the thread has ended.
    pub fn try_send(&self, batch: M) -> Result<(), SendRefused<M>> {
        self.inbox.try_send(batch).map_err(|error| match error {
            mpsc::error::TrySendError::Full(batch) => SendRefused::Full(batch),
            mpsc::error::TrySendError::Closed(batch) => SendRefused::Ended(batch),
        })
    }

    /// Hands a batch over and waits for room. Cancel-safe, but the batch is lost with the future.
    ///
    /// # Errors
    /// Gives the batch back when the thread has ended.
    pub async fn send(&self, batch: M) -> Result<(), SendRefused<M>> {
        self.inbox
            .send(batch)
            .await
            .map_err(|error| SendRefused::Ended(error.0))
    }

    /// Hands a batch over from a thread outside tokio and blocks until there is room. The io
    /// threads never wait for anybody, so this ends.
    ///
    /// # Errors
    /// Gives the batch back when the thread has ended.
    pub fn blocking_send(&self, batch: M) -> Result<(), SendRefused<M>> {
        self.inbox
            .blocking_send(batch)
            .map_err(|error| SendRefused::Ended(error.0))
    }
}

/// One operating system thread with a current-thread runtime on which connections live.
pub struct IoThread<M> {
    handle: IoHandle<M>,
    thread: JoinHandle<()>,
}

impl<M: Send + 'static> IoThread<M> {
    /// Starts the thread `io-<index>`. `serve` is called on it, inside a `LocalSet`, with the
    /// receiving end of the inbox, which takes up to `inbox_batches_limit` batches; the thread
    /// ends when the future of `serve` does.
    ///
    /// # Errors
    /// When the operating system gives no thread or no event queue.
    pub fn start<F, S>(index: usize, inbox_batches_limit: usize, serve: S) -> std::io::Result<Self>
    where
        S: FnOnce(mpsc::Receiver<M>) -> F + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let (sender, receiver) = mpsc::channel(inbox_batches_limit);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name(format!("io-{index}"))
            .spawn(move || {
                LocalSet::new().block_on(&runtime, async move { serve(receiver).await });
            })?;
        Ok(Self {
            handle: IoHandle {
                index,
                inbox: sender,
            },
            thread,
        })
    }

    /// The sending end of the thread's inbox.
    pub fn handle(&self) -> IoHandle<M> {
        self.handle.clone()
    }

    /// Waits for the thread's end.
    ///
    /// # Errors
    /// The panic that ended it.
    pub fn join(self) -> std::thread::Result<()> {
        drop(self.handle);
        self.thread.join()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_inbox_gives_the_batch_back() {
        let (go, wait) = std::sync::mpsc::sync_channel::<()>(0);
        let (out, sum) = std::sync::mpsc::sync_channel(1);
        let thread = IoThread::start(0, 1, move |mut inbox: mpsc::Receiver<u32>| async move {
            wait.recv().expect("the test goes on");
            let mut total = 0;
            while let Some(batch) = inbox.recv().await {
                total += batch;
                if batch == 2 {
                    break;
                }
            }
            out.send(total).expect("the test waits");
        })
        .expect("a thread");
        let handle = thread.handle();
        handle.try_send(1).expect("room");
        assert!(matches!(handle.try_send(9), Err(SendRefused::Full(9))));
        go.send(()).expect("the thread waits");
        handle.blocking_send(2).expect("room in the end");
        assert_eq!(sum.recv(), Ok(3));
        thread.join().expect("no panic");
        assert!(matches!(handle.try_send(1), Err(SendRefused::Ended(1))));
    }
}
