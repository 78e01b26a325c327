//! The words of `cargo xtask`.

use std::process::ExitCode;

use crate::test;

const USAGE: &str = "\
usage: cargo xtask test [--quick | --all]

  test           checks the tools, then formats, lints and tests the workspace
    --quick      installs nothing and skips what needs programs from outside
    --all        includes the slow tests, those marked #[ignore]
                 The last line is `N passed, N failed, N skipped`; the exit code is 0 only with 0 failed.";

/// 2 is for usage, as everywhere in this repository; 1 for a failed check.
const EXIT_USAGE: u8 = 2;

/// Does what the words say and returns the program's exit code.
#[must_use]
pub fn obey(words: &[&str]) -> ExitCode {
    match words {
        ["test"] => test(test::Scope::Normal),
        ["test", "--quick"] => test(test::Scope::Quick),
        ["test", "--all"] => test(test::Scope::All),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        other => {
            eprintln!("xtask: cannot read the words {other:?}\n{USAGE}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn test(scope: test::Scope) -> ExitCode {
    match test::test(scope) {
        Ok(tally) if tally.failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(missing) => {
            eprintln!("xtask: {missing}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}
