//! Counting: the result lines of cargo's test runner, and the tests that skipped themselves.

use std::collections::BTreeMap;
use std::fmt;

/// How many tests and checks ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// Adds one check that is no cargo test.
    pub(crate) fn check(&mut self, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }

    /// Adds what a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …` says; other lines say nothing.
    pub(crate) fn read(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        for part in result.split([';', '.']) {
            let Some((count, kind)) = part.trim().split_once(' ') else {
                continue;
            };
            let Ok(count) = count.parse::<u64>() else {
                continue;
            };
            match kind {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.skipped += count,
                _ => {}
            }
        }
    }

    /// Moves tests that skipped themselves from the passed, among which cargo counts them, to the skipped.
    pub(crate) fn skip(&mut self, count: u64) {
        assert!(
            count <= self.passed,
            "{count} tests skipped themselves, but only {} passed",
            self.passed
        );
        self.passed -= count;
        self.skipped += count;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// The tests that could not run here, by group and reason.
#[derive(Debug, Default)]
pub(crate) struct Skips(BTreeMap<(String, String), u64>);

impl Skips {
    /// Reads the file to which tests append `group<tab>reason<tab>test`.
    pub(crate) fn parse(text: &str) -> Self {
        let mut skips = Self::default();
        for line in text.lines() {
            let mut columns = line.split('\t');
            let group = columns.next().unwrap_or_default();
            let reason = columns.next().unwrap_or("no reason given");
            *skips
                .0
                .entry((group.to_owned(), reason.to_owned()))
                .or_default() += 1;
        }
        skips
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.values().sum()
    }
}

impl fmt::Display for Skips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((group, reason), count) in &self.0 {
            let tests = if *count == 1 { "test" } else { "tests" };
            writeln!(f, "SKIPPED {group} ({count} {tests}): {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_add_up_and_other_lines_say_nothing() {
        let mut tally = Tally::default();

        for line in [
            "running 5 tests",
            "test a ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s",
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.25s",
        ] {
            tally.read(line);
        }

        assert_eq!(
            tally,
            Tally {
                passed: 13,
                failed: 2,
                skipped: 1
            }
        );
    }

    #[test]
    fn the_closing_line_has_the_form_that_scripts_read() {
        let tally = Tally {
            passed: 4,
            failed: 0,
            skipped: 2,
        };

        assert_eq!(tally.to_string(), "4 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn tests_that_skipped_themselves_are_not_counted_as_passed() {
        let skips = Skips::parse(
            "paho\tno venv\ta\nstock clients\tno mosquitto_pub\tb\npaho\tno venv\tc\n",
        );
        let mut tally = Tally {
            passed: 5,
            failed: 0,
            skipped: 1,
        };

        tally.skip(skips.count());

        assert_eq!(
            tally,
            Tally {
                passed: 2,
                failed: 0,
                skipped: 4
            }
        );
        assert_eq!(
            skips.to_string(),
            "SKIPPED paho (2 tests): no venv\nSKIPPED stock clients (1 test): no mosquitto_pub\n"
        );
    }
}
