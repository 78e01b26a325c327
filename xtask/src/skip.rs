//! Tests that cannot run here say so, and the test command counts them.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Reports the running test as skipped: on standard error, and to `cargo xtask test` through the file it names.
///
/// # Panics
/// When that file cannot be written, since the test would count as passed.
pub fn skip(group: &str, reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(path) = env::var_os("TIDEWIRE_SKIP_FILE") {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("the skip file can be opened");
        // A tab or a line end inside would shift the columns.
        let reason = reason.replace(['\t', '\n', '\r'], " ");
        // One write per line, since tests of several processes append.
        file.write_all(format!("{group}\t{reason}\t{test}\n").as_bytes())
            .expect("the skip file can be written");
    }
}

/// A program from outside, or `None` after the test was reported as skipped.
#[must_use]
pub fn outside(group: &str, program: &str, package: &str) -> Option<Command> {
    if quick() {
        skip(group, "--quick");
        return None;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
        return Some(Command::new(program));
    }
    skip(group, &format!("no {program}; install {package}"));
    None
}

/// The Python that has the package imported as `module`, or `None` after the test was reported as skipped.
#[must_use]
pub fn python(group: &str, module: &str) -> Option<Command> {
    match python_with(module) {
        Ok(python) => Some(python),
        Err(reason) => {
            skip(group, &reason);
            None
        }
    }
}

/// Whether nothing from outside may be used, as `cargo xtask test --quick` says.
pub(crate) fn quick() -> bool {
    env::var_os("TIDEWIRE_TEST_QUICK").is_some()
}

fn python_with(module: &str) -> Result<Command, String> {
    if quick() {
        return Err("--quick".to_owned());
    }
    let Some(venv) = env::var_os("TIDEWIRE_TEST_VENV") else {
        let reason = env::var("TIDEWIRE_TEST_NO_VENV");
        return Err(
            reason.unwrap_or_else(|_| "no TIDEWIRE_TEST_VENV; run cargo xtask test".to_owned())
        );
    };
    let python = PathBuf::from(venv).join("bin/python");
    if imports(&mut Command::new(&python), module) {
        Ok(Command::new(python))
    } else {
        Err(format!(
            "no Python package {module}; run cargo xtask test where pip can install it"
        ))
    }
}

/// Whether `python` finds the package; why not is of no use to the caller, who reports its absence.
pub(crate) fn imports(python: &mut Command, module: &str) -> bool {
    python
        .args(["-c", &format!("import {module}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
