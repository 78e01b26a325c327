//! The merge thread: packs small segments while the writer goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Receiver;
use runtime::ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::tsdb::Tsdb;

use crate::line::{Fatal, OnFatal};
use crate::writer::{Ended, panic_text, report};

/// Supervises the merge thread as a ractor actor.
pub(crate) struct Merger {
    pub(crate) tsdb: Tsdb,
    /// Says that something was sealed; ends when the line is dropped.
    pub(crate) sealed: Receiver<()>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) on_fatal: OnFatal,
}

impl Actor for Merger {
    type Msg = Ended;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, me: ActorRef<Ended>, (): ()) -> Result<(), ActorProcessingErr> {
        let (tsdb, sealed) = (self.tsdb.clone(), self.sealed.clone());
        let (stop, on_fatal) = (Arc::clone(&self.stop), Arc::clone(&self.on_fatal));
        std::thread::Builder::new()
            .name("tsdb-merge".to_owned())
            .spawn(move || {
                // A panic here is a broken invariant of the store: it ends the process.
                match catch_unwind(AssertUnwindSafe(|| run(&tsdb, &sealed, &stop))) {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => on_fatal(Fatal(error.to_string())),
                    Err(panic) => {
                        let reason = panic_text(&*panic);
                        on_fatal(Fatal(format!("a broken invariant of the store: {reason}")));
                    }
                }
                drop(tsdb);
                report(&me, Ended::Stopped);
            })?;
        Ok(())
    }

    async fn handle(
        &self,
        me: ActorRef<Ended>,
        _: Ended,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        me.stop(None);
        Ok(())
    }
}

fn run(tsdb: &Tsdb, sealed: &Receiver<()>, stop: &AtomicBool) -> Result<(), storage::tsdb::Error> {
    loop {
        // What an earlier life left unmerged comes first.
        while !stop.load(Ordering::Acquire) && tsdb.merge(stop)? {}
        if stop.load(Ordering::Acquire) || sealed.recv().is_err() {
            return Ok(());
        }
    }
}
