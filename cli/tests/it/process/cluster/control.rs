//! What nodes say about themselves, asked through any of them.

use admin::cluster::{MemberReport, Members};

use super::client::Client;
use super::nodes::{Cluster, NODES, Nodes};
use crate::process::node::{run, tidewire};
use crate::process::sessions::DEFAULTS;
use crate::process::wait::until;

#[test]
fn every_node_tells_what_all_nodes_say_about_themselves() {
    let cluster = Cluster::new(DEFAULTS);
    let mut nodes = cluster.start();
    let _clients: Vec<_> = cluster.mqtt()[..2]
        .iter()
        .map(|address| Client::connect(*address, &format!("c{address}"), false))
        .collect();
    for at in 0..NODES {
        let members = until("every member's word", || all_speak(&nodes, at));
        let clients = members.iter().map(|member| {
            let report = member.report.as_ref().expect("it speaks");
            assert_eq!(report.node.node, member.node);
            assert!(report.ready && report.resident_bytes > Some(1 << 20));
            report.connections
        });
        assert_eq!(
            clients.collect::<Vec<_>>(),
            [1, 1, 0],
            "asked node {}",
            at + 1
        );
    }

    nodes.kill_9(1);
    let (code, out, error) = until("the dead node's silence", || {
        let asked = ctl(&nodes, 0);
        (asked.0 == Some(3)).then_some(asked)
    });
    assert!(error.contains("node 2 says nothing"), "{code:?} {error}");
    assert_eq!(out.lines().count(), NODES + 1, "{out}");

    // Both the one that opens sessions with it and the one it opens one with find it again.
    nodes.start(1);
    for at in 0..NODES {
        until("every member's word again", || all_speak(&nodes, at));
    }
    assert_eq!(ctl(&nodes, 2).0, Some(0));
}

fn ctl(nodes: &Nodes<'_>, at: usize) -> (Option<i32>, String, String) {
    let admin = nodes.admin(at).to_string();
    run(tidewire().args(["ctl", "--admin", &admin, "cluster", "members"]))
}

/// The members, if each one speaks.
fn all_speak(nodes: &Nodes<'_>, at: usize) -> Option<Vec<MemberReport>> {
    let members: Members = serde_json::from_str(&nodes.node(at).get("/v1/cluster/members"))
        .expect("the answer is JSON");
    let members = members.members;
    let all = members.iter().all(|member| member.report.is_some());
    all.then_some(members)
}
