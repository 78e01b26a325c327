//! Memory stays within its budget.

use super::view::seconds;
use super::{Observed, Verdict};

pub(super) fn check(observed: &Observed) -> Verdict {
    let mut verdict = Verdict::new("memory");
    let Some(budget) = observed.memory_budget_bytes else {
        return verdict;
    };
    for sample in &observed.memory {
        verdict.check(sample.bytes <= budget, || {
            format!(
                "node {} had {} bytes at {}, beyond its budget of {budget}",
                sample.node,
                sample.bytes,
                seconds(sample.at_us)
            )
        });
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::MemorySample;

    #[test]
    fn a_node_beyond_its_budget_is_named() {
        let mut observed = Observed::default();
        for (node, bytes) in [(1, 99), (2, 100), (3, 101)] {
            observed.memory.push(MemorySample {
                at_us: 5,
                node,
                bytes,
            });
        }
        assert_eq!(check(&observed).checked, 0, "nobody gave a budget");
        observed.memory_budget_bytes = Some(100);
        let verdict = check(&observed);
        assert_eq!((verdict.checked, verdict.count), (3, 1));
        assert!(verdict.violations[0].contains("node 3"), "{verdict:?}");
    }
}
