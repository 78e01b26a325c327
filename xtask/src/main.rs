//! `cargo xtask`: the words that people and CI use to check this repository.
//!
//! This crate has no dependencies, so that it builds in seconds on a bare machine and can say what is missing there.

mod run;
mod tally;
mod test;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask test [--quick | --all]

  test           checks the tools, then formats, lints and tests the workspace
    --quick      installs nothing and skips what needs programs from outside
    --all        includes the slow tests, those marked #[ignore]

The last line is `N passed, N failed, N skipped`; the exit code is 0 only with 0 failed.";

/// 2 is for usage, as everywhere in this repository; 1 for a failed check.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let scope = match words.as_slice() {
        ["test"] => test::Scope::Normal,
        ["test", "--quick"] => test::Scope::Quick,
        ["test", "--all"] => test::Scope::All,
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprintln!("xtask: cannot read the words {other:?}\n{USAGE}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match test::test(scope) {
        Ok(tally) if tally.failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(missing) => {
            eprintln!("xtask: {missing}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}
