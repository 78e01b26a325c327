//! Tests that cannot run here say so, and the test command counts them.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// Reports the running test as skipped: on standard error, and to `cargo xtask test` through the file it names.
pub(crate) fn skip(group: &str, reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(path) = env::var_os("TIDEWIRE_SKIP_FILE") {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("the skip file can be opened");
        // One write per line, since tests of several processes append.
        file.write_all(format!("{group}\t{reason}\t{test}\n").as_bytes())
            .expect("the skip file can be written");
    }
}

/// A program from outside, or `None` after the test was reported as skipped.
pub(crate) fn outside(group: &str, program: &str, package: &str) -> Option<Command> {
    if env::var_os("TIDEWIRE_TEST_QUICK").is_some() {
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

/// The Python that has the MQTT client, or `None` after the test was reported as skipped.
pub(crate) fn python(group: &str) -> Option<Command> {
    if env::var_os("TIDEWIRE_TEST_QUICK").is_some() {
        skip(group, "--quick");
        return None;
    }
    match env::var_os("TIDEWIRE_TEST_VENV") {
        Some(venv) => Some(Command::new(PathBuf::from(venv).join("bin/python"))),
        None => {
            let reason = env::var("TIDEWIRE_TEST_NO_VENV");
            let reason = reason
                .as_deref()
                .unwrap_or("no TIDEWIRE_TEST_VENV; run cargo xtask test");
            skip(group, reason);
            None
        }
    }
}
