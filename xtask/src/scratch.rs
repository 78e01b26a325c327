//! Folders of unit tests.

use std::fs;
use std::path::PathBuf;

use crate::target;

/// An empty folder of that name below the target folder, what an earlier run left in it removed.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = target::folder().join("tmp/xtask-unit").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}
