//! Persistent clients that never acknowledge: each connection brings the same queued message again.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::process::cluster::client::Client as Publisher;
use crate::process::sessions::packet::{self, Connect, DISCONNECT, Publish};
use crate::process::wait::pause_for;
use crate::process::wire::Wire;

/// Before the next node is tried.
const PAUSE: Duration = Duration::from_millis(20);

/// The clients, spread over the nodes.
pub(super) struct Fleet {
    clients: Vec<Client>,
}

struct Client {
    home: usize,
    shared: Arc<Shared>,
    /// Ends with its connection once the fleet is dropped.
    _thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    is_over: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The connection, to be closed by others.
    wire: Option<Wire>,
    /// The client is to go to its home node next.
    goes_home: bool,
    /// Its connections so far.
    connections: Vec<Connection>,
}

struct Connection {
    node: usize,
    connected: Instant,
    /// When the queued message came.
    message: Option<Instant>,
}

/// How long after a kill a client was there again.
pub(super) struct Times {
    pub(super) connected: Duration,
    pub(super) delivered: Duration,
}

impl Fleet {
    /// Lets the clients subscribe at the nodes in turn, queues a message for each, and waits until
    /// all have it.
    pub(super) fn start(nodes: &[SocketAddr], count: usize) -> Self {
        let names: Vec<String> = (0..count).map(|number| format!("fleet{number}")).collect();
        for (number, name) in names.iter().enumerate() {
            let mut client = Publisher::connect(nodes[number % nodes.len()], name, true);
            client.subscribe(&format!("fleet/{name}"), 1);
            client.disconnect();
        }
        let mut publisher = Publisher::connect(nodes[0], "fleet", false);
        for name in &names {
            publisher.publish(&format!("fleet/{name}"), 1, "queued");
        }
        let start = |(number, name): (usize, String)| {
            let shared = Arc::new(Shared::default());
            let (home, mine) = (number % nodes.len(), Arc::clone(&shared));
            let nodes = nodes.to_vec();
            let thread = thread::spawn(move || live(&mine, &name, &nodes, home));
            Client {
                home,
                shared,
                _thread: thread,
            }
        };
        Self {
            clients: names.into_iter().enumerate().map(start).collect(),
        }
    }

    /// The node at which a client wants to be.
    pub(super) fn home(&self, client: usize) -> usize {
        self.clients[client].home
    }

    /// Has everybody who is elsewhere go home.
    pub(super) fn send_home(&self) {
        for client in &self.clients {
            let mut state = client.shared.lock();
            let is_elsewhere = state.last().is_some_and(|last| last.node != client.home);
            if let (true, Some(wire)) = (is_elsewhere, &state.wire) {
                wire.close();
                state.goes_home = true;
            }
        }
    }

    /// Whether everybody is at home and has the message.
    pub(super) fn is_at_home(&self) -> bool {
        self.clients.iter().all(|client| {
            let state = client.shared.lock();
            let last = state.last();
            last.is_some_and(|last| last.node == client.home && last.message.is_some())
        })
    }

    /// How often each client has connected.
    pub(super) fn connections(&self) -> Vec<usize> {
        let count = |client: &Client| client.shared.lock().connections.len();
        self.clients.iter().map(count).collect()
    }

    /// Whether all clients of a node have the message from another since it was killed.
    pub(super) fn is_served(&self, victim: usize, killed: Instant) -> bool {
        let clients = self.clients.iter().filter(|client| client.home == victim);
        self.times(victim, killed).len() == clients.count()
    }

    /// How long after the kill the node's clients were there again, of those that are.
    pub(super) fn times(&self, victim: usize, killed: Instant) -> Vec<Times> {
        let clients = self.clients.iter().filter(|client| client.home == victim);
        let times = clients.filter_map(|client| {
            let state = client.shared.lock();
            let mut later = state
                .connections
                .iter()
                .filter(|one| one.connected > killed);
            let served = later.find_map(|one| Some((one.connected, one.message?)));
            served.map(|(connected, message)| Times {
                connected: connected - killed,
                delivered: message - killed,
            })
        });
        times.collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for client in &self.clients {
            client.shared.is_over.store(true, Ordering::Relaxed);
            if let Some(wire) = &client.shared.lock().wire {
                wire.close();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn last(&self) -> Option<&Connection> {
        self.connections.last()
    }
}

/// Connects to one node after the other, from its home on, until it is told to end.
fn live(shared: &Shared, name: &str, nodes: &[SocketAddr], home: usize) {
    let mut turn = home;
    while !shared.is_over.load(Ordering::Relaxed) {
        let at = turn % nodes.len();
        // Whatever ends a connection, the next one is what counts.
        drop(visit(shared, name, at, nodes[at]));
        let mut state = shared.lock();
        state.wire = None;
        turn = if std::mem::take(&mut state.goes_home) {
            home
        } else {
            turn + 1
        };
        drop(state);
        pause_for(PAUSE);
    }
}

/// Takes what comes until the connection ends.
fn visit(shared: &Shared, name: &str, node: usize, address: SocketAddr) -> io::Result<()> {
    let mut wire = Wire::open(address)?;
    shared.lock().wire = Some(wire.try_clone()?);
    let connect = Connect {
        id: name,
        expiry_s: 3_600,
        receive_maximum: 10,
        will: None,
    };
    wire.send(&connect.encode())?;
    assert!(
        packet::session_present(&wire.read()?)?,
        "{name} has a session"
    );
    shared.lock().connections.push(Connection {
        node,
        connected: Instant::now(),
        message: None,
    });
    loop {
        let packet = match wire.read() {
            // Nothing comes for long while nothing happens.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            packet => packet?,
        };
        if packet.first == DISCONNECT {
            return Ok(());
        }
        let publish = Publish::decode(&packet).expect("nothing else comes");
        assert_eq!(publish.payload, "queued", "{name}");
        let mut state = shared.lock();
        let last = state.connections.last_mut().expect("it was pushed above");
        last.message.get_or_insert_with(Instant::now);
    }
}
