//! `cargo xtask test`: tools, format, lints, tests, in this order.

use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::kafka::{self, Jars};
use crate::outcomes::Outcomes;
use crate::run;
use crate::tally::{Skips, Tally};
use crate::target;
use crate::tools;

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Nothing is installed; tests that need programs from outside skip themselves.
    Quick,
    /// What CI runs.
    Normal,
    /// Also the slow tests, those marked `#[ignore]`.
    All,
}

/// Runs everything in `scope` and prints the closing line.
///
/// # Errors
/// When the build tools are absent; nothing was run then.
pub(crate) fn test(scope: Scope) -> Result<Tally, tools::Missing> {
    tools::ensure_build(scope != Scope::Quick)?;
    let target = target::folder();
    let skip_file = target.join("skipped-tests.tsv");
    let mut tests = cargo();
    tests
        .args(["test", "--workspace", "--locked", "--no-fail-fast"])
        .env("TIDEWIRE_SKIP_FILE", &skip_file);
    outside_programs(scope, &target, &mut tests);
    if scope == Scope::All {
        tests.args(["--", "--include-ignored"]);
    }

    let mut tally = Tally::default();
    step(
        &mut tally,
        "format",
        cargo().args(["fmt", "--all", "--check"]),
    );
    step(
        &mut tally,
        "lints",
        cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
    );
    let skips = run_tests(&mut tally, &mut tests, &skip_file);
    print!("{skips}");
    println!("{tally}");
    Ok(tally)
}

/// Installs what the process tests drive, and tells the tests where it is or that they shall do without.
fn outside_programs(scope: Scope, target: &Path, tests: &mut Command) {
    if scope == Scope::Quick {
        tests.env("TIDEWIRE_TEST_QUICK", "1");
        return;
    }
    match Jars::ensure(target, true) {
        Ok(jars) => tests.env(kafka::JARS_VARIABLE, jars.libs()),
        Err(reason) => tests.env(kafka::NO_KAFKA_VARIABLE, reason),
    };
    tools::ensure_clients();
    match tools::ensure_venv(target) {
        Ok(venv) => {
            tests.env("TIDEWIRE_TEST_VENV", venv);
        }
        Err(reason) => {
            tests.env("TIDEWIRE_TEST_NO_VENV", reason);
        }
    }
}

fn step(tally: &mut Tally, name: &str, command: &mut Command) {
    let passed = run::succeeds(command);
    println!("{name}: {}", if passed { "ok" } else { "FAILED" });
    tally.check(passed);
}

fn run_tests(tally: &mut Tally, tests: &mut Command, skip_file: &Path) -> Skips {
    if let Err(error) = forget(skip_file) {
        println!(
            "tests: FAILED, cannot remove {}: {error}",
            skip_file.display()
        );
        tally.check(false);
        return Skips::default();
    }
    let failed_before = tally.failed;
    let mut outcomes = Outcomes::default();
    let passed = run::succeeds_reading(tests, |line| {
        tally.read(line);
        outcomes.read(line);
    });
    outcomes.end();
    print!("{outcomes}");
    // A crate that does not compile and a test binary that dies print no result line.
    if !passed && tally.failed == failed_before {
        println!("tests: FAILED without a result");
        tally.check(false);
    }
    let skips = match fs::read_to_string(skip_file) {
        Ok(text) => Skips::parse(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Skips::default(),
        Err(error) => {
            println!(
                "tests: FAILED, cannot read {}: {error}",
                skip_file.display()
            );
            tally.check(false);
            return Skips::default();
        }
    };
    // A skipped test of a binary that died later has no result line either, so it cannot be taken off.
    tally.skip(skips.count().min(tally.passed));
    skips
}

fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Runs in the workspace's folder, wherever `cargo xtask` was called.
fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    cargo
}
