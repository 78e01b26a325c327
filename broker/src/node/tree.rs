//! The supervision tree of a node.

use std::sync::{Arc, OnceLock, Weak};

use bridge::Telemetry;
use cluster::control::{Control, ControlKind, ControlParts};
use ractor::{Actor, ActorCell, ActorRef};
use runtime::{ChildSpec, Clock, Restart, Restarts, Supervisor, SupervisorMessage, ractor};
use tokio::net::TcpListener;

use super::StartError;
use crate::admission::Rates;
use crate::control::Reporter;
use crate::counters::Counters;
use crate::environment::OnFatal;
use crate::exits::{ConnectionSupervisor, Seat};
use crate::io::{Shared, Threads};
use crate::listener::Listener;
use crate::membership::{Entered, Running};
use crate::memory::Plan;
use crate::peers::{Inbox, InboxMessage, Parts, Peers};
use crate::routes::{NodeOf, Routes, RoutesMessage, Snapshot};
use crate::shard::{ShardHost, Shards};

/// Different filters of a node's clean sessions: more than `mqtt.subscriptions_limit` of a million
/// connections.
const LOCAL_FILTERS_MAX: usize = 1 << 32;

pub(super) async fn supervisor(
    name: &'static str,
    children: Vec<ChildSpec>,
    parent: Option<ActorCell>,
    restarts: &Restarts,
) -> Result<ActorRef<SupervisorMessage>, StartError> {
    let supervisor = Supervisor {
        name,
        restarts_max: 10,
        window_ms: 60_000,
        restarts: restarts.clone(),
    };
    let spawned = match parent {
        Some(parent) => Actor::spawn_linked(None, supervisor, children, parent).await,
        None => Actor::spawn(None, supervisor, children).await,
    };
    let (supervisor, _) = spawned.map_err(|error| StartError::Spawn {
        what: "a supervisor",
        error: error.to_string(),
    })?;
    Ok(supervisor)
}

/// What the actors that hold state find each other by.
#[derive(Clone)]
pub(super) struct Wiring {
    pub(super) memory: Plan,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) on_fatal: OnFatal,
    pub(super) threads: Threads,
    pub(super) shards: Shards,
    pub(super) peers: Peers,
    pub(super) snapshot: Snapshot,
    pub(super) routes: Arc<OnceLock<ActorRef<RoutesMessage>>>,
}

/// The actors that hold state: none of them can be started again without losing what was
/// promised, so the end of one is the end of the process.
pub(super) fn state_children(entered: &Entered, wiring: &Wiring) -> Vec<ChildSpec> {
    let mut children = vec![routes_spec(entered, wiring)];
    for shard in 0..wiring.shards.len() {
        let group = entered.shards.get(&shard).cloned();
        let (epoch, epochs) = (entered.epoch, entered.member.epochs());
        let wiring = wiring.clone();
        let spawn = move |parent| {
            let host = ShardHost {
                shard,
                group: group.clone(),
                epoch,
                epochs: epochs.borrow().clone(),
                clock: Arc::clone(&wiring.clock),
                threads: wiring.threads.clone(),
                shards: wiring.shards.clone(),
                peers: wiring.peers.clone(),
                routes: Arc::clone(&wiring.routes),
                memory: wiring.memory,
                on_fatal: Arc::clone(&wiring.on_fatal),
            };
            spawn_linked(host, parent)
        };
        children.push(ChildSpec {
            name: format!("shard-{shard}"),
            restart: Restart::EndProcess,
            spawn: Box::new(spawn),
        });
    }
    children
}

pub(super) fn routes_spec(entered: &Entered, wiring: &Wiring) -> ChildSpec {
    let (group, epoch) = (entered.routes.clone(), entered.epoch);
    let (epochs, meta) = (entered.member.epochs(), entered.meta.clone());
    let applied = entered.routes_applied.clone();
    let node_of: NodeOf = Arc::new(move |epoch| {
        let node = meta.with(|machine| machine.meta().node_of(epoch));
        node.unwrap_or_default()
    });
    let wiring = wiring.clone();
    let spawn = move |parent| {
        let routes = Routes {
            group: group.clone(),
            epoch,
            epochs: epochs.clone(),
            node_of: Arc::clone(&node_of),
            applied: applied.clone(),
            filters_max: LOCAL_FILTERS_MAX,
            clock: Arc::clone(&wiring.clock),
            snapshot: Arc::clone(&wiring.snapshot),
            threads: wiring.threads.clone(),
            shards: wiring.shards.clone(),
            peers: wiring.peers.clone(),
            me: Arc::clone(&wiring.routes),
        };
        spawn_linked(routes, parent)
    };
    ChildSpec {
        name: "routes".into(),
        restart: Restart::EndProcess,
        spawn: Box::new(spawn),
    }
}

pub(super) type Spawning =
    std::pin::Pin<Box<dyn Future<Output = Result<ActorCell, ractor::SpawnErr>> + Send>>;

pub(super) fn spawn_linked<A: Actor<Arguments = ()>>(actor: A, parent: ActorCell) -> Spawning {
    Box::pin(async move {
        let (actor, _) = Actor::spawn_linked(None, actor, (), parent).await?;
        Ok(actor.get_cell())
    })
}

/// A supervisor for the connections of each io thread, and where the thread finds it.
pub(super) fn connection_supervisors(counters: &[Arc<Counters>]) -> (Box<[Seat]>, Vec<ChildSpec>) {
    let of = |(thread, counters): (usize, &Arc<Counters>)| {
        let (seat, counters) = (Seat::default(), Arc::clone(counters));
        let taken = Arc::clone(&seat);
        let spawn = move |parent| {
            let (counters, seat) = (Arc::clone(&counters), Arc::clone(&taken));
            spawn_linked(ConnectionSupervisor { counters, seat }, parent)
        };
        let name = format!("connections-{thread}");
        (
            seat,
            ChildSpec {
                name,
                restart: Restart::Always,
                spawn: Box::new(spawn),
            },
        )
    };
    let (seats, children): (Vec<_>, Vec<_>) = counters.iter().enumerate().map(of).unzip();
    (seats.into(), children)
}

pub(super) fn listener(
    socket: Arc<TcpListener>,
    shared: &Arc<Shared>,
    rates: Rates,
    counters: &[Arc<Counters>],
) -> ChildSpec {
    let (shared, counters) = (Arc::clone(shared), counters.to_vec());
    let accepted = Arc::default();
    let spawn = move |parent| {
        let listener = Listener {
            socket: Arc::clone(&socket),
            threads: shared.threads.clone(),
            counters: counters.clone(),
            accepted: Arc::clone(&accepted),
            clock: Arc::clone(&shared.clock),
            rates,
            refusals: Arc::clone(&shared.refusals),
        };
        spawn_linked(listener, parent)
    };
    ChildSpec {
        name: "mqtt-listener".into(),
        restart: Restart::Always,
        spawn: Box::new(spawn),
    }
}

/// Starts the inbox of the other nodes' letters, and the actor that does what the membership asks
/// for: like those that hold state, they start once.
pub(super) async fn start_membership(
    entered: Entered,
    shared: &Arc<Shared>,
    telemetry: Weak<Telemetry>,
    on_fatal: OnFatal,
    root: &ActorRef<SupervisorMessage>,
    restarts: &Restarts,
) -> Result<Running, StartError> {
    let slot = Arc::new(OnceLock::new());
    let (epoch, epochs) = (entered.epoch, entered.member.epochs());
    let (told, taken) = (Arc::clone(&slot), Arc::clone(shared));
    let inbox = move |parent| {
        let inbox = Inbox {
            epoch,
            epochs: epochs.borrow().clone(),
            shared: Arc::clone(&taken),
            me: Arc::clone(&told),
        };
        spawn_linked(inbox, parent)
    };
    let child = |name: &str, spawn| ChildSpec {
        name: name.into(),
        restart: Restart::EndProcess,
        spawn,
    };
    let children = vec![child("inbox", Box::new(inbox))];
    supervisor("letters", children, Some(root.get_cell()), restarts).await?;
    let inbox: &ActorRef<InboxMessage> = slot.get().expect("the inbox has started");
    entered.exchange.begin(Parts {
        shards: shared.shards.clone(),
        routes: shared.routes.clone(),
        inbox: inbox.clone(),
        telemetry,
        defects: shared.defects.clone(),
    });
    let (membership, running) = entered.follow(Arc::clone(shared), inbox.clone(), on_fatal);
    let spawn = Box::new(move |parent| spawn_linked(membership.clone(), parent));
    let children = vec![child("membership", spawn)];
    supervisor("cluster", children, Some(root.get_cell()), restarts).await?;
    Ok(running)
}

/// Starts the control plane, under a supervisor of its own if it is an actor.
pub(super) async fn start_control(
    entered: &Entered,
    kind: ControlKind,
    reporter: Arc<Reporter>,
    clock: &Arc<dyn Clock>,
    root: &ActorRef<SupervisorMessage>,
    restarts: &Restarts,
) -> Result<Control, StartError> {
    let parts = ControlParts {
        cluster: entered.cluster,
        node: entered.node,
        links: entered.links.clone(),
        clock: Arc::clone(clock),
        service: reporter,
    };
    let (control, child) = Control::new(kind, parts);
    if let Some(child) = child {
        supervisor("control", vec![child], Some(root.get_cell()), restarts).await?;
    }
    let is_first = entered.control.set(control.clone()).is_ok();
    assert!(is_first, "a node has one control plane");
    Ok(control)
}
