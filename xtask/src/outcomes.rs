//! What stands far above the last line of a run, told again at its end: tests that failed and binaries that died.

use std::fmt;

/// Failed tests that are named; further ones are counted.
const NAMED_MAX: usize = 50;

/// Reads the lines of cargo's test runner.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    failed: Vec<String>,
    more: usize,
    /// Tests of the binary that runs, and how many of them have ended.
    running: Option<(u64, u64)>,
    died: Vec<(u64, u64)>,
}

impl Outcomes {
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("running ") {
            self.end();
            let count = rest.split(' ').next().and_then(|n| n.parse().ok());
            self.running = count.map(|count| (count, 0));
        } else if line.starts_with("test result: ") {
            self.running = None;
        } else if let Some(test) = line.strip_prefix("test ")
            && let Some((name, outcome)) = test.rsplit_once(" ... ")
        {
            if let Some((_, ended)) = &mut self.running {
                *ended += 1;
            }
            if outcome == "FAILED" {
                match self.failed.len() < NAMED_MAX {
                    true => self.failed.push(name.to_owned()),
                    false => self.more += 1,
                }
            }
        }
    }

    /// The runner has ended: a binary without a result line has died.
    pub(crate) fn end(&mut self) {
        self.died.extend(self.running.take());
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.failed {
            writeln!(f, "failed: {name}")?;
        }
        if self.more > 0 {
            writeln!(f, "failed: {} more", self.more)?;
        }
        for (count, ended) in &self.died {
            writeln!(f, "died: a test binary, after {ended} of its {count} tests")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_tests_and_binaries_that_died_are_told() {
        let mut outcomes = Outcomes::default();
        for line in [
            "running 2 tests",
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored",
            "running 3 tests",
            "test d ... ok",
            "running 1 test",
            "test e has been running for over 60 seconds",
            "test e ... ok",
            "test result: ok. 1 passed; 0 failed; 0 ignored",
            "running 7 tests",
        ] {
            outcomes.read(line);
        }
        outcomes.end();

        assert_eq!(
            outcomes.to_string(),
            "failed: a::c\n\
             died: a test binary, after 1 of its 3 tests\n\
             died: a test binary, after 0 of its 7 tests\n"
        );
    }
}
