//! The cluster behind HAProxy, with the configuration that `ctl lb haproxy` prints.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use admin::session::Sessions;
use xtask::{ports, skip};

use super::client::Client;
use super::nodes::{Cluster, Nodes, ctl};
use crate::process::node::run;
use crate::process::sessions::DEFAULTS;
use crate::process::wait::until;
use crate::process::wire::{V5, Wire};

/// Clients, of which each node is to get some.
const CLIENTS: usize = 30;

/// HAProxy in the foreground, killed when dropped.
struct HaProxy(Child);

impl Drop for HaProxy {
    fn drop(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("a killed child can be waited for");
    }
}

#[test]
fn haproxy_leads_a_client_to_the_same_node_as_long_as_that_serves() {
    let Some(mut check) = skip::outside("load balancer", "haproxy", "haproxy") else {
        return;
    };
    let cluster = Cluster::new(DEFAULTS);
    let mut nodes = cluster.start();
    let port = &ports::reserve(1).expect("a port")[0];
    let listen = format!("127.0.0.1:{}", port.number);
    let (code, config, error) = ctl(&nodes, 1, &["lb", "haproxy", "--listen", &listen]);
    assert_eq!(code, Some(0), "{error}");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, &config).expect("the folder can be written");
    let (code, out, error) = run(check.arg("-c").arg("-f").arg(&file));
    assert_eq!(code, Some(0), "{config}\n{out}{error}");
    let child = Command::new("haproxy")
        .args(["-db", "-f"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it was found above");
    let _haproxy = HaProxy(child);
    let address = listen.parse().expect("an address");
    until("HAProxy to listen", || {
        std::net::TcpStream::connect(&*listen).ok()
    });

    let clients: Vec<Client> = connect(address);
    let first = homes(&nodes);
    for node in 1..=3 {
        let count = first.iter().filter(|home| **home == Some(node)).count();
        assert!(count > 0, "node {node} gets nobody of {first:?}");
    }
    clients.into_iter().for_each(Client::disconnect);
    let clients = connect(address);
    assert_eq!(homes(&nodes), first, "everybody comes home again");
    drop(clients);

    nodes.kill_9(2);
    until("the clients of the dead node to be at another", || {
        // Until HAProxy has missed it, it leads clients nowhere.
        let wires = ids().map(|id| Wire::connect(address, V5, &id).ok());
        let _wires: Vec<Wire> = wires.collect::<Option<_>>()?;
        let homes = homes_now(&nodes)?;
        let mut moved = homes
            .iter()
            .zip(&first)
            .filter(|(home, before)| home != before);
        let is_away = |home: &Option<u32>| home.is_none_or(|node| node == 3);
        (!homes.iter().any(is_away) && moved.all(|(_, before)| *before == Some(3))).then_some(())
    });
}

fn ids() -> impl Iterator<Item = String> {
    (0..CLIENTS).map(|at| format!("car-{at:02}"))
}

fn connect(address: SocketAddr) -> Vec<Client> {
    ids()
        .map(|id| Client::connect(address, &id, true))
        .collect()
}

/// The node of each client, once the shards know all.
fn homes(nodes: &Nodes<'_>) -> Vec<Option<u32>> {
    until("all clients to be connected", || homes_now(nodes))
}

fn homes_now(nodes: &Nodes<'_>) -> Option<Vec<Option<u32>>> {
    let words = [
        "client", "list", "--prefix", "car-", "--limit", "100", "--output", "json",
    ];
    // With the dead node goes what it says of its connections: the list is not whole then.
    let (_, out, _) = ctl(nodes, 0, &words);
    let list: Sessions = serde_json::from_str(&out).ok()?;
    let homes: Vec<Option<u32>> = list.sessions.iter().map(|one| one.node).collect();
    (homes.len() == CLIENTS).then_some(homes)
}
