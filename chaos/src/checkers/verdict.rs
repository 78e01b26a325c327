//! What one checker found.

use serde::Serialize;

/// Violations that a verdict names one by one; beyond it they are only counted.
pub const VIOLATIONS_SHOWN_MAX: usize = 20;

/// Is what one checker found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Which.
    pub checker: &'static str,
    /// How many cases it decided.
    pub checked: u64,
    /// How many of them, or beside them, are violations.
    pub count: u64,
    /// The first of them, at most [`VIOLATIONS_SHOWN_MAX`].
    pub violations: Vec<String>,
    /// Cases that are none because a counted policy of the nodes explains them.
    pub excused: u64,
}

impl Verdict {
    pub(super) fn new(checker: &'static str) -> Self {
        Self {
            checker,
            checked: 0,
            count: 0,
            violations: Vec::new(),
            excused: 0,
        }
    }

    /// Returns true when nothing was found.
    #[must_use]
    pub fn is_green(&self) -> bool {
        self.count == 0
    }

    /// Counts a case.
    pub(super) fn check(&mut self, is_good: bool, words: impl FnOnce() -> String) {
        self.checked += 1;
        if !is_good {
            self.find(words);
        }
    }

    /// Counts a violation.
    pub(super) fn find(&mut self, words: impl FnOnce() -> String) {
        self.count += 1;
        if self.violations.len() < VIOLATIONS_SHOWN_MAX {
            self.violations.push(words());
        }
    }

    /// Takes so many missing messages as explained by what nodes have counted as dropped.
    pub(super) fn excuse(&mut self, dropped: u64) {
        if self.count <= dropped {
            self.excused = self.count;
            self.count = 0;
            self.violations.clear();
        }
    }

    pub(super) fn expect_some(&mut self, clients: usize) {
        if self.checked == 0 && clients > 0 {
            self.find(|| {
                format!("nothing was checked, although {clients} clients were there for it")
            });
        }
    }
}
