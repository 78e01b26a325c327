//! How a cluster is, whom it can miss, and where memory goes.

use admin::health::{Health, SafeToStop, State};
use admin::memory::Memory;

use super::nodes::{Cluster, NODES, ctl, json};
use crate::process::sessions::DEFAULTS;
use crate::process::wait::until;

#[test]
fn a_cluster_says_whether_it_is_well_and_whom_it_can_miss() {
    let cluster = Cluster::new(DEFAULTS);
    let mut nodes = cluster.start();
    for at in 0..NODES {
        until("a cluster that is well", || {
            let (code, out, _) = ctl(&nodes, at, &["cluster", "health"]);
            (code == Some(0) && out == "healthy\n").then_some(())
        });
        let answer: SafeToStop = json(&nodes, at, &["cluster", "safe-to-stop"]);
        assert_eq!(
            (answer.node as usize, answer.safe),
            (at + 1, true),
            "{answer:?}"
        );
    }
    // What is found of the machine is not for the test to know, and may change from look to look.
    until("a cluster of which the doctor finds nothing", || {
        let (_, out, _) = ctl(&nodes, 0, &["--output", "json", "doctor"]);
        let health: Health = serde_json::from_str(&out).expect("the answer is JSON");
        assert!(health.checks.len() > 10, "{out}");
        let bad = health
            .checks
            .iter()
            .filter(|check| check.state != State::Good);
        assert!(bad.clone().all(|check| !check.todo.is_empty()), "{out}");
        let (code, ..) = ctl(&nodes, 1, &["doctor"]);
        let expected = if bad.clone().count() == 0 { 0 } else { 3 };
        let is_well = bad.clone().all(|check| !check.of_cluster);
        (is_well && code == Some(expected)).then_some(())
    });

    nodes.kill_9(1);
    until("the dead node to be found", || {
        let (code, out, _) = ctl(&nodes, 0, &["cluster", "health"]);
        (code == Some(3) && out.contains("node 2")).then_some(())
    });
    until("nobody else to be missed", || {
        let (code, out, _) = ctl(&nodes, 0, &["cluster", "safe-to-stop", "3"]);
        let says = |why| out.contains(why);
        let is_said =
            says("node 2 is away already") && says("1 of 3 voters are left, 2 are needed");
        (code == Some(3) && is_said).then_some(())
    });
    let (code, _, error) = ctl(&nodes, 0, &["cluster", "safe-to-stop", "9"]);
    assert!(code == Some(1) && error.contains("no node 9"), "{error}");

    nodes.start(1);
    until("a cluster that is well again", || {
        (ctl(&nodes, 2, &["cluster", "safe-to-stop", "1"]).0 == Some(0)).then_some(())
    });
}

#[test]
fn a_node_says_where_its_memory_goes() {
    let cluster = Cluster::new("memory_bytes_limit = 1_000_000_000\n");
    let nodes = cluster.start();
    let memory: Memory = json(&nodes, 2, &["node", "memory"]);
    assert_eq!(
        (memory.node, memory.limit_bytes, memory.is_configured),
        (3, 1_000_000_000, true)
    );
    let part = |name: &str| {
        let part = memory.parts.iter().find(|part| part.part == name);
        part.unwrap_or_else(|| panic!("{name}: {memory:?}"))
    };
    let under_way = part("messages under way to shards");
    assert!(under_way.used_bytes.is_some() && under_way.limit_bytes > Some(1 << 20));
    let planned: u64 = memory
        .parts
        .iter()
        .filter_map(|part| part.limit_bytes)
        .sum();
    assert!(planned < memory.limit_bytes, "{memory:?}");
    let (code, out, _) = ctl(&nodes, 0, &["node", "memory"]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.lines().count() > memory.parts.len(), "{out}");
}
