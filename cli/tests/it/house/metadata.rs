//! The part of `cargo metadata` that the checks look at.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::OnceLock;

use serde::Deserialize;

use super::root;

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) workspace_members: Vec<String>,
    pub(crate) resolve: Resolve,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) id: String,
    pub(crate) license: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) manifest_path: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None` for a normal one, else `dev` or `build`.
    pub(crate) kind: Option<String>,
    /// The name in the code, where it is not the package's.
    pub(crate) rename: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Resolve {
    pub(crate) nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) deps: Vec<NodeDep>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct NodeDep {
    pub(crate) pkg: String,
    pub(crate) dep_kinds: Vec<DepKind>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct DepKind {
    pub(crate) kind: Option<String>,
}

impl Metadata {
    /// Asks cargo once per test run; without network first, since every build has fetched what the lock file names.
    pub(crate) fn read() -> &'static Self {
        static READ: OnceLock<Metadata> = OnceLock::new();
        READ.get_or_init(|| {
            let json = ask_cargo(&["--offline"])
                .or_else(|_| ask_cargo(&[]))
                .expect("cargo describes the workspace");
            serde_json::from_slice(&json).expect("cargo's metadata has its documented form")
        })
    }

    /// The workspace's own packages.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
    }

    /// Every package that the one named `name` links into a program, itself excluded; what only tests use is left out.
    pub(crate) fn linked(&self, name: &str) -> Vec<&Package> {
        let nodes: BTreeMap<&str, &Node> = self
            .resolve
            .nodes
            .iter()
            .map(|node| (node.id.as_str(), node))
            .collect();
        let mut open: Vec<&str> = self
            .packages
            .iter()
            .filter(|package| package.name == name)
            .map(|package| package.id.as_str())
            .collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            let deps = nodes
                .get(id)
                .map(|node| node.deps.as_slice())
                .unwrap_or_default();
            for dep in deps.iter().filter(|dep| dep.is_normal()) {
                if seen.insert(dep.pkg.as_str()) {
                    open.push(&dep.pkg);
                }
            }
        }
        self.packages
            .iter()
            .filter(|package| seen.contains(package.id.as_str()))
            .collect()
    }
}

impl Metadata {
    /// Adds a normal edge, for checks that must be seen biting.
    pub(crate) fn link(&mut self, from: &str, to: &str) {
        if self.packages.iter().all(|package| package.id != to) {
            self.packages.push(Package {
                name: to.to_owned(),
                id: to.to_owned(),
                ..Package::default()
            });
        }
        let dep = NodeDep {
            pkg: to.to_owned(),
            dep_kinds: vec![DepKind { kind: None }],
        };
        match self.resolve.nodes.iter_mut().find(|node| node.id == from) {
            Some(node) => node.deps.push(dep),
            None => self.resolve.nodes.push(Node {
                id: from.to_owned(),
                deps: vec![dep],
            }),
        }
    }
}

impl NodeDep {
    fn is_normal(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.is_none())
    }
}

fn ask_cargo(more: &[&str]) -> Result<Vec<u8>, String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(more)
        .current_dir(root())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
