//! Clients with topics of their own, by templates.

use mqtt::{Filter, Templates, Topic};

use super::client::{Client, Spec};
use super::cluster::{SPECS, run_nodes};
use super::conns::shard_of;
use super::{Defect, Report};

const fn spec(id: &'static str, filter: &'static [&'static str]) -> Spec {
    Spec {
        id,
        publishes: false,
        filters: filter,
        has_will: false,
        expiry_s: 100_000,
        cleans: false,
    }
}

/// One needs no row for its filter, the other one does for the same, and for a wider one.
pub(crate) const OWNERS: [Spec; 2] = [
    spec("own-i", &["cmd/own-i/#"]),
    spec("spy-k", &["cmd/own-i/#", "cmd/+/x"]),
];

/// The session of a clean one has a row although the filter is its own.
pub(crate) const CLEAN_OWNER: Spec = Spec {
    expiry_s: 0,
    cleans: true,
    ..spec("own-j", &["cmd/own-j/#"])
};

/// Runs one seed of several nodes, with clients that have topics of their own.
pub(crate) fn run_cluster_owned(seed: u64, defect: Defect) -> Report {
    let specs = [&SPECS[..], &OWNERS, &[CLEAN_OWNER]].concat();
    run_nodes(seed, defect, &specs, templates())
}

/// Those of [`OWNERS`], and one of retained topics.
pub(crate) fn templates() -> Templates {
    Templates::parse(["cmd/{client_id}/#", "r/{client_id}"]).expect("two templates")
}

/// What a client publishes next: of the one owner or the other, if there are templates.
pub(crate) fn topic(templates: &Templates, client: &Client) -> String {
    let owners = ["cmd/own-i/x", "cmd/own-j/x"];
    let owned = owners[client.sent.len() % 2];
    let topic = if templates.is_empty() {
        "u/only"
    } else {
        owned
    };
    topic.to_owned()
}

/// Whether a client's subscription has no row.
pub(crate) fn is_owned(templates: &Templates, spec: &Spec, filter: &Filter) -> bool {
    spec.expiry_s > 0 && templates.owner_of_filter(filter) == Some(spec.id)
}

/// The shard that keeps the retained message of a topic.
pub(crate) fn home(templates: &Templates, topic: &Topic, shards: usize) -> usize {
    shard_of(templates.owner(topic).unwrap_or(topic), shards)
}
