//! Where cargo builds.

use std::env;
use std::path::{Path, PathBuf};

/// The target folder, as seen from the running program: xtask itself or a test.
pub(crate) fn folder() -> PathBuf {
    let program = env::current_exe().expect("Linux tells every process its own path");
    above(&program)
        .expect("cargo puts programs into target/<profile>")
        .to_owned()
}

/// `target` of `target/<profile>/program` and of `target/<profile>/deps/test`.
fn above(program: &Path) -> Option<&Path> {
    let dir = program.parent()?;
    let profile = if dir.ends_with("deps") {
        dir.parent()?
    } else {
        dir
    };
    profile.parent()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_folder_is_the_same_for_programs_and_tests() {
        for program in ["/x/target/debug/tool", "/x/target/debug/deps/it-0123"] {
            assert_eq!(above(Path::new(program)), Some(Path::new("/x/target")));
        }
    }
}
