//! `tidewire ctl lb`: load balancers before the cluster.

use std::fmt::Write as _;
use std::net::SocketAddr;

use admin::cluster::{MemberReport, Members};
use clap::Subcommand;
use serde::Serialize;

use super::{Done, End, Node, degraded};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// A configuration of HAProxy (2.6 or later) that leads each MQTT client id to one node; 3 if a
    /// member is left out.
    Haproxy {
        /// Where clients connect.
        #[arg(long, value_name = "ADDR", default_value = "*:1883")]
        listen: String,
    },
}

/// What is printed with `--output json`.
#[derive(Debug, Serialize)]
struct Written {
    /// The file.
    config: String,
    /// Members that are not in it.
    missing: Vec<String>,
}

pub(super) fn run(node: &Node, verb: &Verb) -> Done {
    let Verb::Haproxy { listen } = verb;
    let members = node.client.members()?;
    let (servers, missing) = servers(&members);
    let written = Written {
        config: haproxy(listen, &servers),
        missing,
    };
    match node.print(&written, |written| written.config.clone())? {
        End::Good => degraded(written.missing),
        End::Degraded => Ok(End::Degraded),
    }
}

/// A node, as clients and checks reach it.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    node: u32,
    mqtt: SocketAddr,
    admin: SocketAddr,
}

/// The members that say where they listen, and words about the others.
fn servers(members: &Members) -> (Vec<Server>, Vec<String>) {
    let (mut servers, mut missing) = (Vec::new(), Vec::new());
    for member in &members.members {
        match server(member) {
            Ok(server) => servers.push(server),
            Err(why) => missing.push(format!("node {} is left out: {why}", member.node)),
        }
    }
    (servers, missing)
}

fn server(member: &MemberReport) -> Result<Server, String> {
    let Some(report) = &member.report else {
        let why = member.silent.clone();
        return Err(why.unwrap_or_else(|| "it says nothing".to_owned()));
    };
    Ok(Server {
        node: member.node,
        mqtt: reached(member, &report.node.mqtt)?,
        admin: reached(member, &report.node.admin)?,
    })
}

/// Where a member is reached that says to listen there.
pub(super) fn reached(member: &MemberReport, listens: &str) -> Result<SocketAddr, String> {
    let mut address: SocketAddr = listens
        .parse()
        .map_err(|error| format!("it listens at {listens:?}: {error}"))?;
    if address.ip().is_unspecified() {
        // Where the other nodes reach it, this one does too.
        let host: SocketAddr = member.address.parse().map_err(|_| {
            format!(
                "it listens everywhere, and {:?} is no address",
                member.address
            )
        })?;
        address.set_ip(host.ip());
    }
    Ok(address)
}

fn haproxy(listen: &str, servers: &[Server]) -> String {
    let mut config = format!(
        "# HAProxy 2.6 or later before Tidewire: a client id goes to the same node as long as that serves, so\n\
         # that a client that comes again finds its session where it was.\n\
         # By `tidewire ctl lb haproxy`; write it anew when nodes join or leave.\n\
         # It takes as many connections as `ulimit -n` allows, two files each.\n\
         # To the nodes all clients have its address: say connects_per_s_per_source = 0 in their [mqtt.admission].\n\
         \n\
         defaults\n\
         \x20   mode tcp\n\
         \x20   timeout connect 5s\n\
         \x20   # Nodes end who is silent for longer than his keep alive; this is for who has none.\n\
         \x20   timeout client 24h\n\
         \x20   timeout server 24h\n\
         \n\
         frontend mqtt\n\
         \x20   bind {listen}\n\
         \x20   # A CONNECT has to come, whole, before a node is chosen.\n\
         \x20   tcp-request inspect-delay 10s\n\
         \x20   tcp-request content reject unless {{ req.payload(0,0),mqtt_is_valid }}\n\
         \x20   # By a variable: HAProxy 2.6 hashes no expression over the payload itself.\n\
         \x20   tcp-request content set-var(txn.client) req.payload(0,0),mqtt_field_value(connect,client_identifier)\n\
         \x20   default_backend tidewire\n\
         \n\
         backend tidewire\n\
         \x20   # Who sends no client id goes to the nodes in turn.\n\
         \x20   balance hash var(txn.client)\n\
         \x20   hash-type consistent\n\
         \x20   option redispatch\n\
         \x20   # A node that has no lease, or stops, says 503.\n\
         \x20   option httpchk GET /health/ready\n\
         \x20   http-check expect status 200\n\
         \x20   default-server check inter 1s fall 2 rise 2\n"
    );
    for Server { node, mqtt, admin } in servers {
        let (host, port) = (admin.ip(), admin.port());
        writeln!(
            config,
            "    server node-{node} {mqtt} addr {host} port {port}"
        )
        .expect("a String takes everything");
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use admin::cluster::NodeReport;
    use admin::node::NodeInfo;

    fn member(node: u32, mqtt: &str, address: &str) -> MemberReport {
        let info = NodeInfo {
            node,
            version: "1".into(),
            mqtt: mqtt.into(),
            admin: "0.0.0.0:8080".into(),
            shards: 1,
            buckets: 1,
            device_templates: Vec::new(),
            telemetry: false,
        };
        let report = NodeReport {
            node: info,
            uptime_s: 1,
            wall_ms: 1,
            ready: true,
            connections: 0,
            unstored_records: None,
            resident_bytes: None,
            restarts: 0,
            last_restart: None,
        };
        MemberReport {
            node,
            address: address.into(),
            report: Some(report),
            ..MemberReport::default()
        }
    }

    #[test]
    fn a_node_that_listens_everywhere_is_reached_where_other_nodes_reach_it() {
        let silent = MemberReport {
            node: 4,
            silent: Some("late".into()),
            ..MemberReport::default()
        };
        let members = Members {
            members: vec![
                member(1, "10.0.0.1:1883", "10.9.0.1:7000"),
                member(2, "0.0.0.0:1883", "10.9.0.2:7000"),
                member(3, "0.0.0.0:1883", "broker-3.example:7000"),
                silent,
            ],
        };
        let (servers, missing) = servers(&members);
        let mqtt: Vec<String> = servers.iter().map(|one| one.mqtt.to_string()).collect();
        assert_eq!(mqtt, ["10.0.0.1:1883", "10.9.0.2:1883"]);
        assert_eq!(servers[0].admin.to_string(), "10.9.0.1:8080");
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(missing[1].ends_with("left out: late"), "{missing:?}");
        let config = haproxy("*:1883", &servers);
        assert!(config.contains("\n    server node-2 10.9.0.2:1883 addr 10.9.0.2 port 8080\n"));
        assert!(config.contains("\n    bind *:1883\n"), "{config}");
    }
}
