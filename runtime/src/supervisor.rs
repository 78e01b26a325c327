//! The supervision tree of the long-lived actors.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};

/// What a supervisor does when a child ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Starts it again, whatever ended it.
    Always,
    /// Starts it again after a panic or an error; a clean end is an end.
    OnFailure,
    /// The whole process ends: a broken invariant of storage or Raft must not be built upon.
    EndProcess,
}

type SpawnFuture = Pin<Box<dyn Future<Output = Result<ActorCell, SpawnErr>> + Send>>;

/// How a child is made, again and again.
pub struct ChildSpec {
    /// Name for logs and counters.
    pub name: String,
    /// What happens when it ends.
    pub restart: Restart,
    /// Spawns the actor linked to the supervisor that is handed in.
    pub spawn: Box<dyn Fn(ActorCell) -> SpawnFuture + Send>,
}

impl std::fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChildSpec")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A supervisor: starts its children in order and restarts each by its own rule (one-for-one).
///
/// More than `restarts_max` restarts within `window_ms` fail the supervisor itself, so that its
/// own supervisor decides; the root ends the process.
#[derive(Debug)]
pub struct Supervisor {
    /// Name for logs.
    pub name: &'static str,
    /// Restarts allowed within the window.
    pub restarts_max: usize,
    /// The window in milliseconds.
    pub window_ms: u64,
    /// Where restarts are counted.
    pub restarts: Restarts,
}

/// What a supervisor can be told.
#[derive(Debug)]
pub enum SupervisorMessage {
    /// Start one more child.
    Start(ChildSpec),
}

impl ractor::Message for SupervisorMessage {}

/// An actor that ended and is started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restarted {
    /// Who started it again.
    pub supervisor: &'static str,
    /// The name of its [`ChildSpec`].
    pub child: String,
    /// Its panic or error, or `normal`.
    pub reason: String,
}

/// What the supervisors of a node had to start again; cheap to clone.
#[derive(Clone, Default)]
pub struct Restarts(Arc<RestartsInner>);

type Listener = Box<dyn Fn(&Restarted) + Send + Sync>;

#[derive(Default)]
struct RestartsInner {
    total: AtomicU64,
    last: Mutex<Option<Restarted>>,
    listener: OnceLock<Listener>,
}

impl Restarts {
    /// How many there were.
    pub fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    /// The latest.
    pub fn last(&self) -> Option<Restarted> {
        self.0
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Has each one told from now on. It must return at once; only the first listener counts.
    pub fn listen(&self, listener: impl Fn(&Restarted) + Send + Sync + 'static) {
        let _taken = self.0.listener.set(Box::new(listener));
    }

    fn record(&self, restarted: Restarted) {
        self.0.total.fetch_add(1, Ordering::Relaxed);
        if let Some(listener) = self.0.listener.get() {
            listener(&restarted);
        }
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(restarted);
    }
}

impl std::fmt::Debug for Restarts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restarts")
            .field("total", &self.total())
            .finish_non_exhaustive()
    }
}

#[cfg_attr(test, derive(Debug))]
/// A supervisor's state.
pub struct Children {
    running: HashMap<ActorId, ChildSpec>,
    restarted_at_ms: VecDeque<u64>,
    clock: crate::SystemClock,
    stopping: bool,
}

impl Supervisor {
    async fn start(
        me: &ActorRef<SupervisorMessage>,
        children: &mut Children,
        spec: ChildSpec,
    ) -> Result<(), ActorProcessingErr> {
        let child = (spec.spawn)(me.get_cell()).await?;
        children.running.insert(child.get_id(), spec);
        Ok(())
    }

    /// Decides about a child that ended; `failure` is its panic or error.
    async fn ended(
        &self,
        me: &ActorRef<SupervisorMessage>,
        children: &mut Children,
        child: ActorId,
        failure: Option<String>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(spec) = children.running.remove(&child) else {
            return Ok(());
        };
        let reason = failure.as_deref().unwrap_or("normal");
        if children.stopping || (failure.is_none() && spec.restart == Restart::OnFailure) {
            return Ok(());
        }
        if spec.restart == Restart::EndProcess {
            tracing::error!(
                child = spec.name,
                reason,
                "a broken invariant ends the process"
            );
            std::process::abort();
        }
        let now_ms = crate::Clock::mono_ms(&children.clock);
        children.restarted_at_ms.push_back(now_ms);
        while children
            .restarted_at_ms
            .front()
            .is_some_and(|at| at + self.window_ms < now_ms)
        {
            children.restarted_at_ms.pop_front();
        }
        if children.restarted_at_ms.len() > self.restarts_max {
            return Err(format!(
                "{}: {} restarts within {} ms, the last of {}: {reason}",
                self.name,
                children.restarted_at_ms.len(),
                self.window_ms,
                spec.name
            )
            .into());
        }
        tracing::warn!(child = spec.name, reason, "restarting");
        self.restarts.record(Restarted {
            supervisor: self.name,
            child: spec.name.clone(),
            reason: reason.to_owned(),
        });
        Self::start(me, children, spec).await
    }
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = Children;
    type Arguments = Vec<ChildSpec>;

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        specs: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let mut children = Children {
            running: HashMap::new(),
            restarted_at_ms: VecDeque::new(),
            clock: crate::SystemClock::default(),
            stopping: false,
        };
        for spec in specs {
            Self::start(&me, &mut children, spec).await?;
        }
        Ok(children)
    }

    async fn handle(
        &self,
        me: ActorRef<Self::Msg>,
        message: Self::Msg,
        children: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::Start(spec) => Self::start(&me, children, spec).await,
        }
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        children: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(child, _, _) => {
                self.ended(&me, children, child.get_id(), None).await
            }
            SupervisionEvent::ActorFailed(child, error) => {
                self.ended(&me, children, child.get_id(), Some(error.to_string()))
                    .await
            }
            _ => Ok(()),
        }
    }

    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        children: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        children.stopping = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use tokio::sync::Notify;

    struct Fragile {
        starts: Arc<AtomicUsize>,
        started: Arc<Notify>,
    }

    impl Actor for Fragile {
        type Msg = ();
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, me: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
            if self.starts.fetch_add(1, Ordering::SeqCst) < 2 {
                me.cast(())?;
            }
            self.started.notify_one();
            Ok(())
        }

        async fn handle(
            &self,
            _: ActorRef<()>,
            (): (),
            (): &mut (),
        ) -> Result<(), ActorProcessingErr> {
            panic!("fragile");
        }
    }

    fn fragile(starts: &Arc<AtomicUsize>, started: &Arc<Notify>) -> ChildSpec {
        let (starts, started) = (Arc::clone(starts), Arc::clone(started));
        ChildSpec {
            name: "fragile".into(),
            restart: Restart::OnFailure,
            spawn: Box::new(move |parent| {
                let actor = Fragile {
                    starts: Arc::clone(&starts),
                    started: Arc::clone(&started),
                };
                Box::pin(async move {
                    let (actor, _) = Actor::spawn_linked(None, actor, (), parent).await?;
                    Ok(actor.get_cell())
                })
            }),
        }
    }

    #[tokio::test]
    async fn a_child_that_panics_is_started_again() {
        let (starts, started) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (restarts, told) = (Restarts::default(), Arc::new(AtomicUsize::new(0)));
        let telling = Arc::clone(&told);
        restarts.listen(move |restarted| {
            assert_eq!(
                (restarted.supervisor, &*restarted.child),
                ("root", "fragile")
            );
            telling.fetch_add(1, Ordering::SeqCst);
        });
        let root = Supervisor {
            name: "root",
            restarts_max: 5,
            window_ms: 60_000,
            restarts: restarts.clone(),
        };
        let (root, _task) = Actor::spawn(None, root, vec![fragile(&starts, &started)])
            .await
            .expect("spawns");
        while starts.load(Ordering::SeqCst) < 3 {
            started.notified().await;
        }
        assert_eq!((restarts.total(), told.load(Ordering::SeqCst)), (2, 2));
        assert!(
            restarts
                .last()
                .is_some_and(|last| last.reason.contains("fragile"))
        );
        root.stop(None);
    }

    #[tokio::test]
    async fn too_many_restarts_fail_the_supervisor() {
        let (starts, started) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let root = Supervisor {
            name: "root",
            restarts_max: 1,
            window_ms: 60_000,
            restarts: Restarts::default(),
        };
        let (_root, task) = Actor::spawn(None, root, vec![fragile(&starts, &started)])
            .await
            .expect("spawns");
        task.await.expect("the supervisor's task ends");
        assert_eq!(starts.load(Ordering::SeqCst), 2);
    }
}
