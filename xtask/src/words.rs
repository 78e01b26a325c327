//! The words of `cargo xtask`.

use std::process::ExitCode;

use crate::kafka::laptop;
use crate::target;
use crate::test;

const USAGE: &str = "\
usage: cargo xtask test [--quick | --all]
       cargo xtask kafka up [--brokers 1|3] | down | status

  test           checks the tools, then formats, lints and tests the workspace
    --quick      installs nothing and skips what needs programs from outside
    --all        includes the slow tests, those marked #[ignore]
                 The last line is `N passed, N failed, N skipped`; the exit code is 0 only with 0 failed.

  kafka up       starts Apache Kafka on free ports of 127.0.0.1 and prints its bootstrap address; starts again what
                 was killed since
  kafka down     ends it and removes its data
  kafka status   prints the bootstrap address and each broker's state; the exit code is 0 only if all run";

/// 2 is for usage, as everywhere in this repository; 1 for a failed check.
const EXIT_USAGE: u8 = 2;

/// Does what the words say and returns the program's exit code.
#[must_use]
pub fn obey(words: &[&str]) -> ExitCode {
    match words {
        ["test"] => test(test::Scope::Normal),
        ["test", "--quick"] => test(test::Scope::Quick),
        ["test", "--all"] => test(test::Scope::All),
        ["kafka", "up"] => done(laptop::up(&target::folder(), None)),
        ["kafka", "up", "--brokers", "1"] => done(laptop::up(&target::folder(), Some(1))),
        ["kafka", "up", "--brokers", "3"] => done(laptop::up(&target::folder(), Some(3))),
        ["kafka", "down"] => done(laptop::down(&target::folder())),
        ["kafka", "status"] => done(laptop::status(&target::folder())),
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

fn done(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("xtask: {reason}");
            ExitCode::FAILURE
        }
    }
}
