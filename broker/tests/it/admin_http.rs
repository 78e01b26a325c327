//! The admin HTTP.

use std::collections::BTreeSet;

use crate::harness::{config, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_metrics_are_served() {
    let mut config = config();
    config.no_telemetry = false;
    let node = start(config).await;
    assert_eq!(node.get("/health/live").await.0, 200);
    assert_eq!(node.get("/health/ready").await.0, 200);
    let (status, text) = node.get("/metrics").await;
    assert_eq!(status, 200);
    let mut declared = BTreeSet::new();
    let mut lines = text.lines().peekable();
    while let Some(help) = lines.next() {
        let name = help
            .strip_prefix("# HELP ")
            .and_then(|rest| rest.split(' ').next());
        let name = name.unwrap_or_else(|| panic!("no HELP: {help}"));
        assert!(declared.insert(name.to_owned()), "{name} twice");
        let kind = lines
            .next()
            .and_then(|l| l.strip_prefix(&format!("# TYPE {name} ")));
        assert!(
            matches!(kind, Some("counter" | "gauge")),
            "{name}: {kind:?}"
        );
        assert_eq!(name.ends_with("_total"), kind == Some("counter"), "{name}");
        // What is by node has as many samples as there are.
        let is_sample = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '{']))
        };
        while let Some(sample) = lines.next_if(is_sample) {
            let value = sample.rsplit(' ').next();
            value.and_then(|v| v.parse::<f64>().ok()).expect("a number");
        }
    }
    assert!(declared.contains("tidewire_broker_routes"));
    let lag = "tidewire_telemetry_owner_lag_records{owner=\"1\"} 0\n";
    assert!(text.contains(lag), "a lone node has all buckets: {text}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_cannot_be_answered_names_the_value() {
    let mut config = config();
    config.no_telemetry = false;
    let node = start(config).await;
    for (query, named) in [
        ("from=yesterdayish", "yesterdayish"),
        ("step=7parsecs", "7parsecs"),
        ("limit=many", "many"),
        ("metrik=battery", "metrik"),
    ] {
        let (status, body) = node.get(&format!("/v1/query/car?{query}")).await;
        assert_eq!(status, 400, "{body}");
        assert!(body.contains(named), "{body}");
    }
    node.stop().await;
}
