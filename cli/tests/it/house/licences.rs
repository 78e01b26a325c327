//! Third-party packages: their licences, and one version of each direct one.

use std::collections::{BTreeMap, BTreeSet};

use super::metadata::{Metadata, Package};
use super::{none, one};

/// Licences under which both of ours can be given on; all ask for no more than the text and the copyright line.
const ALLOWED: [&str; 9] = [
    "MIT",
    "Apache-2.0",
    // The exception only adds permissions.
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    // The tables of the Unicode character database.
    "Unicode-3.0",
    "Unicode-DFS-2016",
];

/// Packages under another licence, each with the reason why it may stay.
const EXCEPTIONS: [(&str, &str); 3] = [
    // Copyleft by file: it binds whoever changes the package's own files, and we link them unchanged.
    ("imbl", "MPL-2.0+"),
    ("imbl-sized-chunks", "MPL-2.0+"),
    ("bitmaps", "MPL-2.0+"),
];

#[test]
fn every_package_has_an_allowed_licence() {
    none(&foreign_licences(Metadata::read()));
}

#[test]
fn a_licence_outside_the_list_is_found() {
    one(
        &foreign_licences(&with_licence("GPL-3.0-only")),
        "GPL-3.0-only",
    );
    one(
        &foreign_licences(&with_licence("MIT AND LGPL-2.1-or-later")),
        "LGPL-2.1-or-later",
    );
    one(
        &foreign_licences(&with_licence("(MIT OR Apache-2.0) AND OpenSSL")),
        "OpenSSL",
    );
    one(
        &foreign_licences(&Metadata {
            packages: vec![Package::default()],
            ..Metadata::default()
        }),
        "no licence",
    );
    for licence in [
        "MIT/Apache-2.0",
        "GPL-2.0 OR MIT",
        "(MIT OR GPL-2.0) AND Unicode-3.0",
    ] {
        none(&foreign_licences(&with_licence(licence)));
    }
}

#[test]
fn each_direct_dependency_has_one_version() {
    none(&doubled_dependencies(Metadata::read()));
}

#[test]
fn a_second_version_of_a_direct_dependency_is_found() {
    let mut metadata = Metadata::read().clone();
    let mut second = metadata
        .packages
        .iter()
        .find(|package| package.name == "bytes")
        .expect("mqtt uses it")
        .clone();
    second.id.push_str("-second");
    second.version = "0.1.0".to_owned();
    let cli = metadata
        .members()
        .find(|package| package.name == "tidewire-cli");
    let cli = cli.expect("this test belongs to it").id.clone();
    metadata.link(&cli, &second.id);
    metadata.packages.retain(|package| package.id != second.id);
    metadata.packages.push(second);

    one(&doubled_dependencies(&metadata), "bytes");
}

fn foreign_licences(metadata: &Metadata) -> Vec<String> {
    let mut violations = Vec::new();
    for package in &metadata.packages {
        match package.license.as_deref() {
            None => violations.push(format!("{}: no licence", package.name)),
            Some(licence) if EXCEPTIONS.contains(&(package.name.as_str(), licence)) => {}
            Some(licence) if Expression::of(licence).allowed() => {}
            Some(licence) => violations.push(format!("{}: {licence}", package.name)),
        }
    }
    violations
}

/// Direct dependencies that may be linked in two versions, and why.
const DOUBLED: [(&str, &str); 1] = [(
    "rand",
    "openraft is at 0.10, whose trait names differ; ours follows in a change of its own",
)];

fn doubled_dependencies(metadata: &Metadata) -> Vec<String> {
    let direct: BTreeSet<&str> = metadata
        .members()
        .flat_map(|package| {
            package
                .dependencies
                .iter()
                .map(|dependency| dependency.name.as_str())
        })
        .collect();
    // A second version that only tests link costs nobody anything.
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in metadata.linked("tidewire-cli") {
        if direct.contains(package.name.as_str()) {
            versions
                .entry(&package.name)
                .or_default()
                .insert(&package.version);
        }
    }
    let is_known = |name: &str| DOUBLED.iter().any(|(known, _)| *known == name);
    versions.retain(|name, versions| versions.len() > 1 && !is_known(name));
    versions
        .iter()
        .map(|(name, versions)| format!("{name}: {versions:?}"))
        .collect()
}

/// An SPDX licence expression, read word by word: `AND` binds tighter than `OR`.
struct Expression {
    words: Vec<String>,
    next: usize,
}

impl Expression {
    fn of(text: &str) -> Self {
        // Older packages write a slash where SPDX has OR; WITH belongs to the licence before it.
        let spaced = text
            .replace('/', " OR ")
            .replace('(', " ( ")
            .replace(')', " ) ")
            .replace(" WITH ", "_WITH_");
        let words = spaced
            .split_whitespace()
            .map(|word| word.replace("_WITH_", " WITH "))
            .collect();
        Self { words, next: 0 }
    }

    /// Whether some choice of the alternatives needs allowed licences only.
    fn allowed(&mut self) -> bool {
        let allowed = self.any();
        allowed && self.next == self.words.len()
    }

    fn any(&mut self) -> bool {
        let mut allowed = self.all();
        while self.take("OR") {
            allowed |= self.all();
        }
        allowed
    }

    fn all(&mut self) -> bool {
        let mut allowed = self.single();
        while self.take("AND") {
            allowed &= self.single();
        }
        allowed
    }

    fn single(&mut self) -> bool {
        if self.take("(") {
            let allowed = self.any();
            return self.take(")") && allowed;
        }
        let word = self.words.get(self.next).map(String::as_str);
        self.next += 1;
        word.is_some_and(|word| ALLOWED.contains(&word))
    }

    fn take(&mut self, word: &str) -> bool {
        let there = self.words.get(self.next).is_some_and(|next| next == word);
        self.next += usize::from(there);
        there
    }
}

fn with_licence(licence: &str) -> Metadata {
    let package = Package {
        name: "foreign".to_owned(),
        license: Some(licence.to_owned()),
        ..Package::default()
    };
    Metadata {
        packages: vec![package],
        ..Metadata::default()
    }
}
