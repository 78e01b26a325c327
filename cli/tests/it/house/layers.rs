//! Dependencies point downward only, and heavy libraries stay in the crates that own them.

use std::collections::BTreeSet;

use super::metadata::{Metadata, Package};
use super::{none, one, root};

/// Every crate there is or will be, with its layer; a dependency goes to a strictly lower one.
const LAYERS: [(&str, u8); 18] = [
    ("mqtt", 0),
    ("telemetry", 0),
    ("fleet", 0),
    ("runtime", 0),
    ("session", 1),
    ("storage", 1),
    ("admin", 1),
    // Which promise is broken on purpose: nothing, but in a build with the feature `faults`.
    ("defects", 0),
    ("cluster-core", 1),
    ("cluster", 2),
    ("bridge", 2),
    ("broker", 3),
    ("edge", 3),
    ("benches", 4),
    // Above the benches: its nodes, ports and charts are theirs.
    ("chaos", 5),
    ("cli", 6),
    // Outside the layers: it uses none of them and serves only tests.
    ("xtask", 0),
    // The packages of the fuzz targets, built apart.
    ("fuzz", 6),
];

/// Rules as values: no clock, no I/O, no runtime, and nothing that brings one along.
const PURE: [&str; 6] = [
    "mqtt",
    "telemetry",
    "fleet",
    "session",
    "cluster-core",
    "defects",
];

/// Crates of the same layer that a crate's tests may use although its code may not.
const TESTS_BESIDE: [(&str, &[&str]); 1] = [
    // The simulation drives sessions through the cluster's streams and logs.
    ("cluster-core", &["session"]),
];

/// What the edge gateway is made of; it must not compile a Raft library, a broker or a Kafka client.
const EDGE_MAY_USE: [&str; 8] = [
    "defects",
    "mqtt",
    "session",
    "telemetry",
    "fleet",
    "storage",
    "runtime",
    "admin",
];

/// Whose tests may use xtask: those that kill and restart a real Kafka or drive programs from outside. Code may not, or
/// the test command would become a part of the program.
const XTASK_TESTERS: [&str; 3] = ["bridge", "benches", "cli"];

/// Heavy libraries and the crates whose code may name them; tests may not borrow them either.
const HEAVY: [(&str, &[&str]); 24] = [
    (
        "tokio",
        &[
            "runtime", "cluster", "bridge", "broker", "edge", "chaos", "benches", "cli",
        ],
    ),
    (
        "tokio-util",
        &[
            "runtime", "cluster", "bridge", "broker", "edge", "chaos", "benches", "cli",
        ],
    ),
    (
        "ractor",
        &["runtime", "cluster", "bridge", "broker", "edge"],
    ),
    ("ractor_cluster", &["cluster"]),
    ("openraft", &["cluster"]),
    ("openraft-multi", &["cluster"]),
    // Not heavy, and pure: the one library that a pure crate owns.
    ("hashring", &["cluster-core"]),
    ("rustls", &["cluster", "broker"]),
    ("tokio-rustls", &["cluster", "broker", "edge", "benches"]),
    ("redb", &["storage"]),
    ("rkyv", &["storage", "cluster"]),
    // The demo's ledger checks its own lines, so that a torn one is seen.
    ("crc32c", &["storage", "cluster", "benches"]),
    ("lz4_flex", &["storage"]),
    ("parquet", &["storage"]),
    ("object_store", &["storage", "bridge"]),
    ("rdkafka", &["bridge"]),
    ("tokio-postgres", &["bridge"]),
    ("axum", &["broker"]),
    ("argon2", &["broker"]),
    ("clap", &["cli", "edge"]),
    // The demo and its progress display live in `benches`.
    ("indicatif", &["cli", "benches"]),
    // Blocking HTTP of the tools.
    ("ureq", &["admin", "benches"]),
    // The second implementation: what the simulated devices speak, and `mqtt` tests itself against.
    ("mqttbytes", &["benches"]),
    // For tests alone.
    ("proptest", &[]),
];

/// Libraries that a crate's tests may use although its code may not.
const TEST_ONLY: [(&str, &[&str]); 2] = [
    ("mqttbytes", &["mqtt"]),
    (
        "proptest",
        &[
            "mqtt",
            "telemetry",
            "fleet",
            "session",
            "storage",
            "cluster",
            "cluster-core",
            "runtime",
        ],
    ),
];

#[test]
fn dependencies_between_our_crates_point_downward_only() {
    none(&upward_edges(Metadata::read()));
}

#[test]
fn a_dependency_upward_sideways_or_on_an_unknown_crate_is_found() {
    one(
        &upward_edges(&workspace(&[("session", &["broker"])])),
        "session (L1) -> broker (L3)",
    );
    one(
        &upward_edges(&workspace(&[("bridge", &["cluster"])])),
        "bridge (L2) -> cluster (L2)",
    );
    one(
        &upward_edges(&workspace(&[("cluster-core", &["session"])])),
        "cluster-core (L1) -> session (L1)",
    );
    one(
        &upward_edges(&workspace(&[("session", &["dev:storage"])])),
        "session",
    );
    none(&upward_edges(&workspace(&[(
        "cluster-core",
        &["dev:session"],
    )])));
    one(&upward_edges(&workspace(&[("helpers", &[])])), "helpers");
    one(&upward_edges(&workspace(&[("xtask", &["serde"])])), "xtask");
    one(&upward_edges(&workspace(&[("edge", &["bridge"])])), "edge");
    one(
        &upward_edges(&workspace(&[("bridge", &["xtask"])])),
        "bridge -> xtask",
    );
    one(
        &upward_edges(&workspace(&[("storage", &["dev:xtask"])])),
        "storage -> xtask",
    );
    one(
        &upward_edges(&workspace(&[("xtask", &["dev:serde"])])),
        "xtask: has dependencies",
    );
    none(&upward_edges(&workspace(&[("bridge", &["dev:xtask"])])));
}

#[test]
fn heavy_libraries_stay_in_the_crates_that_own_them() {
    none(&misplaced_libraries(Metadata::read()));
}

#[test]
fn a_heavy_library_in_the_wrong_crate_is_found() {
    one(
        &misplaced_libraries(&workspace(&[("storage", &["tokio"])])),
        "storage -> tokio",
    );
    one(
        &misplaced_libraries(&workspace(&[("broker", &["mqttbytes"])])),
        "broker -> mqttbytes",
    );
    one(
        &misplaced_libraries(&workspace(&[("mqtt", &["dev:redb"])])),
        "mqtt -> redb",
    );
    none(&misplaced_libraries(&workspace(&[
        ("mqtt", &["dev:mqttbytes"]),
        ("benches", &["mqttbytes"]),
    ])));
}

#[test]
fn pure_crates_link_nothing_heavy_through_others_either() {
    none(&impure_links(Metadata::read()));
}

#[test]
fn a_runtime_behind_a_pure_crate_is_found() {
    let mut metadata = workspace(&[("session", &["harmless"])]);
    metadata.link("harmless", "tokio");

    one(&impure_links(&metadata), "session links tokio");
}

#[test]
fn every_dependency_of_a_crate_is_named_in_its_code() {
    none(&unused_dependencies(Metadata::read()));
}

fn upward_edges(metadata: &Metadata) -> Vec<String> {
    let mut violations = Vec::new();
    for package in metadata.members() {
        let folder = folder(&package.name);
        let Some(layer) = layer(folder) else {
            violations.push(format!(
                "{}: not a crate of the design; add it to LAYERS with its reason",
                package.name
            ));
            continue;
        };
        if folder == "xtask" && !package.dependencies.is_empty() {
            violations.push(
                "xtask: has dependencies, but must build in seconds on a bare machine".to_owned(),
            );
        }
        for (to, kind) in ours(package) {
            let beside = owners(&TESTS_BESIDE, folder).is_some_and(|crates| crates.contains(&to));
            if kind == Some("dev") && beside {
                continue;
            }
            match layer_of_target(folder, to, kind) {
                Some(below) if below < layer => {}
                Some(below) => violations.push(format!("{folder} (L{layer}) -> {to} (L{below})")),
                None => violations.push(format!("{folder} -> {to}: not allowed for {folder}")),
            }
        }
    }
    violations
}

fn misplaced_libraries(metadata: &Metadata) -> Vec<String> {
    let mut violations = Vec::new();
    for package in metadata.members() {
        let folder = folder(&package.name);
        for dependency in &package.dependencies {
            let owner =
                owners(&HEAVY, &dependency.name).is_none_or(|owners| owners.contains(&folder));
            let tester = dependency.kind.as_deref() == Some("dev")
                && owners(&TEST_ONLY, &dependency.name)
                    .is_some_and(|owners| owners.contains(&folder));
            if !owner && !tester {
                violations.push(format!(
                    "{folder} -> {}: owned by other crates",
                    dependency.name
                ));
            }
        }
    }
    violations
}

fn impure_links(metadata: &Metadata) -> Vec<String> {
    let mut violations = Vec::new();
    for pure in PURE {
        let linked = metadata.linked(&format!("tidewire-{pure}"));
        for (heavy, owners) in HEAVY {
            if !owners.contains(&pure) && linked.iter().any(|package| package.name == heavy) {
                violations.push(format!("{pure} links {heavy}"));
            }
        }
    }
    violations
}

fn unused_dependencies(metadata: &Metadata) -> Vec<String> {
    let mut violations = Vec::new();
    for package in metadata.members() {
        let dir = std::path::Path::new(&package.manifest_path)
            .parent()
            .expect("a manifest lies in a folder");
        let code: String = super::tree::files_below(dir)
            .iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
            .map(|path| std::fs::read_to_string(path).expect("a listed source file can be read"))
            .collect();
        let words: BTreeSet<&str> = code
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .collect();
        for dependency in &package.dependencies {
            let name = dependency
                .rename
                .as_deref()
                .unwrap_or(&dependency.name)
                .replace('-', "_");
            if !words.contains(name.as_str()) {
                violations.push(format!(
                    "{}: its code never names {name}",
                    folder(&package.name)
                ));
            }
        }
    }
    violations
}

fn folder(package: &str) -> &str {
    package.strip_prefix("tidewire-").unwrap_or(package)
}

/// Our own crates among the dependencies, each with its kind.
fn ours(package: &Package) -> impl Iterator<Item = (&str, Option<&str>)> {
    package.dependencies.iter().filter_map(|dependency| {
        let name = dependency.name.strip_prefix("tidewire-")?;
        Some((name, dependency.kind.as_deref()))
    })
}

fn layer(folder: &str) -> Option<u8> {
    LAYERS
        .iter()
        .find(|(name, _)| *name == folder)
        .map(|(_, layer)| *layer)
}

/// The layer of `to` as seen from `from`, unless a rule beyond the layers forbids the edge.
fn layer_of_target(from: &str, to: &str, kind: Option<&str>) -> Option<u8> {
    let to_a_shell = PURE.contains(&from) && !PURE.contains(&to) && layer(to) < layer(from);
    let beyond_edge = from == "edge" && !EDGE_MAY_USE.contains(&to);
    let to_xtask = to == "xtask" && !(kind == Some("dev") && XTASK_TESTERS.contains(&from));
    if to_xtask || to_a_shell || beyond_edge {
        None
    } else {
        layer(to)
    }
}

fn owners(
    table: &[(&str, &'static [&'static str])],
    library: &str,
) -> Option<&'static [&'static str]> {
    table
        .iter()
        .find(|(name, _)| *name == library)
        .map(|(_, owners)| *owners)
}

/// A made-up workspace of `crates` with their dependencies; `dev:` marks those of tests.
fn workspace(crates: &[(&str, &[&str])]) -> Metadata {
    use super::metadata::Dependency;

    let mut metadata = Metadata::default();
    for (name, dependencies) in crates {
        let package = Package {
            name: format!("tidewire-{name}"),
            id: format!("tidewire-{name}"),
            manifest_path: root().join(name).join("Cargo.toml").display().to_string(),
            ..Package::default()
        };
        metadata.workspace_members.push(package.id.clone());
        metadata.packages.push(package);
        for dependency in *dependencies {
            let (kind, target) = match dependency.strip_prefix("dev:") {
                Some(target) => (Some("dev".to_owned()), target),
                None => (None, *dependency),
            };
            let target = if layer(target).is_some() {
                format!("tidewire-{target}")
            } else {
                target.to_owned()
            };
            if kind.is_none() {
                metadata.link(&format!("tidewire-{name}"), &target);
            }
            let package = metadata
                .packages
                .iter_mut()
                .find(|package| package.name == format!("tidewire-{name}"));
            let dependencies = &mut package.expect("pushed above").dependencies;
            dependencies.push(Dependency {
                name: target,
                kind,
                rename: None,
            });
        }
    }
    metadata
}
