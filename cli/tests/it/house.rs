//! What holds for the repository as a whole: layers, licences, bounds and documents.
//!
//! Each check is a function from what it looks at to the violations it found, so that a second test can show it biting.

mod layers;
mod licences;
mod metadata;
mod text;
pub(crate) mod tree;

use std::path::Path;

/// The workspace's folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the cli crate is a folder of the workspace")
}

/// Fails with one line per violation.
pub(crate) fn none(violations: &[String]) {
    assert!(
        violations.is_empty(),
        "{} violations:\n{}",
        violations.len(),
        violations.join("\n")
    );
}

/// Fails unless exactly one violation is found and it names `what`.
pub(crate) fn one(violations: &[String], what: &str) {
    assert!(
        matches!(violations, [only] if only.contains(what)),
        "one violation naming {what:?} was expected: {violations:?}"
    );
}
