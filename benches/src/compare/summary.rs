//! Medians and spread over the runs of one broker in one case.

use std::collections::BTreeMap;

use crate::load::Outcome;

/// One broker's runs of one case.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Values of each figure, in the order of the runs.
    pub figures: BTreeMap<&'static str, Vec<f64>>,
    /// What went wrong, with the number of the run.
    pub troubles: Vec<String>,
}

impl Summary {
    pub(super) fn add(&mut self, outcome: &Outcome, run: u32) {
        for (name, value) in &outcome.figures {
            self.figures.entry(name).or_default().push(*value);
        }
        let troubles = outcome.violations.iter();
        self.troubles
            .extend(troubles.map(|text| format!("run {run}: {text}")));
    }

    /// Returns the median of a figure; `None` when no run gave it.
    #[must_use]
    pub fn median(&self, figure: &str) -> Option<f64> {
        let values = self.figures.get(figure)?;
        median(values)
    }

    /// Returns the difference of the greatest and the least value, as a share of the median.
    #[must_use]
    pub fn spread(&self, figure: &str) -> Option<f64> {
        let values = self.figures.get(figure)?;
        let median = median(values)?;
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (median != 0.0).then(|| (greatest - least) / median)
    }
}

/// Returns the middle value, or the mean of the two in the middle.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}
