//! The files of the repository.

use std::fs;
use std::path::{Path, PathBuf};

use super::root;

/// What is no source: build results and data folders, as in `.gitignore`, and git's own folder, which is a
/// file in a second worktree.
const NOT_OURS: [&str; 3] = ["target", ".git", "tidewire-data"];

/// A file's path from the workspace's folder, and its text; bytes that are no text are replaced.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Lines with their numbers.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }
}

/// All files, in the order of their paths.
pub(crate) fn files() -> Vec<File> {
    files_below(root())
        .iter()
        .map(|path| {
            let bytes = fs::read(path).expect("a listed file can be read");
            let name = path.strip_prefix(root()).expect("the walk began there");
            File::new(
                &name.display().to_string(),
                &String::from_utf8_lossy(&bytes),
            )
        })
        .collect()
}

/// The paths of all files below `dir`, sorted.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a folder of the repository can be listed") {
            let entry = entry.expect("a folder of the repository can be listed");
            let kind = entry.file_type().expect("the kind stands in the listing");
            if NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
}
