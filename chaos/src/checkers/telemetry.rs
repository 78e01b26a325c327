//! Every acknowledged point is in the store exactly once.

use std::path::Path;

use benches::demo::{self, Report};

use super::Verdict;

/// Compares a ledger of the workload's fleet with what nodes answer, or with the stores in the folders of stopped nodes,
/// whose rows must have been sealed. Blocks.
///
/// Answers are united by (device, time, metric), so only folders show what is stored twice.
#[must_use]
pub fn telemetry(ledger: &Path, at: &demo::Kept<'_>) -> Verdict {
    verdict(demo::compare(ledger, at))
}

fn verdict(compared: Result<Report, demo::Error>) -> Verdict {
    let mut verdict = Verdict::new("telemetry");
    match compared {
        Ok(report) => {
            verdict.checked = report.acked;
            verdict.count = report.lost + report.duplicates;
            let words = report
                .violations
                .iter()
                .map(|one| format!("{} at {}: {}", one.device, one.time, one.detail));
            verdict.violations = words.take(super::VIOLATIONS_SHOWN_MAX).collect();
        }
        Err(error) => verdict.find(|| error.to_string()),
    }
    verdict.expect_some(1);
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_comparison_counts_becomes_the_verdict() {
        let report = Report {
            acked: 40,
            lost: 2,
            duplicates: 1,
            ..Report::default()
        };
        let found = verdict(Ok(report));
        assert_eq!((found.checked, found.count), (40, 3));
        assert_eq!(
            verdict(Ok(Report::default())).count,
            1,
            "nothing was checked"
        );
        let error = demo::Error::Failed("no ledger".to_owned());
        assert!(verdict(Err(error)).count > 0);
    }
}
