//! What a Prometheus reads of a node: the text format, and that the numbers of moves and copies follow
//! what happens.

use std::collections::{BTreeMap, BTreeSet};

use super::client::Client;
use super::nodes::{Cluster, NODES, Nodes};
use super::scale::ctl;
use crate::process::sessions::DEFAULTS;
use crate::process::wait::until;

/// Kinds of metrics that a node has.
const KINDS: [&str; 2] = ["counter", "gauge"];

#[test]
fn a_scrape_is_well_formed_and_says_what_moves_and_what_was_copied() {
    let cluster = Cluster::new(DEFAULTS);
    let mut nodes = cluster.start();
    let mut client = Client::connect(cluster.places[0].mqtt, "scraped", true);
    client.subscribe("scraped", 1);
    client.publish("scraped", 1, "once");

    let scrapes: Vec<Samples> = (0..NODES).map(|at| scrape(&nodes, at)).collect();
    let sum = |name: &str| scrapes.iter().map(|samples| samples[name]).sum::<f64>();
    // Every node got a replica of each group.
    assert!(sum(r#"tidewire_cluster_moves_total{step="ended"}"#) >= 32.0);
    let [sent, received] = ["sent", "received"].map(|direction| {
        sum(&format!(
            r#"tidewire_cluster_log_bytes_total{{direction="{direction}"}}"#
        ))
    });
    assert!(sent > 0.0 && received > 0.0, "{sent} {received}");
    for samples in &scrapes {
        assert_eq!(samples["tidewire_cluster_shards_moving"], 0.0);
        assert_eq!(samples["tidewire_cluster_draining"], 0.0);
        let received = r#"tidewire_cluster_log_bytes_total{direction="received"}"#;
        // The founder received a vote at most, if it leads everything.
        assert!(samples[received] >= 0.0);
        assert!(samples.contains_key(r#"tidewire_cluster_snapshot_bytes_total{direction="sent"}"#));
    }

    let (code, out, err) = ctl(&nodes, &["drain", "3"]);
    assert_eq!(code, Some(0), "{out}{err}");
    until("the drain to be seen", || {
        let [at_first, at_last] = [0, 2].map(|at| scrape(&nodes, at));
        let is_seen = at_first["tidewire_cluster_members_draining"] == 1.0
            && at_first["tidewire_cluster_shards_moving"] > 0.0
            && at_first["tidewire_cluster_draining"] == 0.0
            && at_last["tidewire_cluster_draining"] == 1.0;
        is_seen.then_some(())
    });
    let (code, out, err) = ctl(&nodes, &["drain", "3", "--wait", "2m"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(nodes.stop(2).success());
    until("the moves to be over", || {
        (scrape(&nodes, 0)["tidewire_cluster_shards_moving"] == 0.0).then_some(())
    });
}

/// Samples by name and labels, as they stand in the text.
type Samples = BTreeMap<String, f64>;

/// Reads the whole text: each sample belongs to the metric whose help and type stand right above it,
/// and comes once.
fn scrape(nodes: &Nodes<'_>, at: usize) -> Samples {
    let text = nodes.node(at).get("/metrics");
    let (mut samples, mut names) = (Samples::new(), BTreeSet::new());
    let (mut helped, mut typed) = (None, None);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a metric has help");
            assert!(!help.is_empty() && names.insert(name.to_owned()), "{line}");
            assert!(name.starts_with("tidewire_"), "{line}");
            (helped, typed) = (Some(name), None);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a metric has a type");
            assert!(helped == Some(name) && KINDS.contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            typed = Some(name);
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            let name = series.split('{').next().expect("the part before");
            assert_eq!(typed, Some(name), "{line}");
            let value = value.parse().expect("a value is a number");
            let former = samples.insert(series.to_owned(), value);
            assert!(former.is_none(), "twice: {line}");
        }
    }
    assert!(!samples.is_empty());
    samples
}
