//! Steps of time: rows summed up for `--step`.

use std::collections::BTreeMap;

use crate::row::{MetricName, Row};

/// The values of one metric within one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aggregate {
    /// How many values; at least 1.
    pub count: u64,
    /// The lowest value; NaN only when all are.
    pub min: f64,
    /// The highest value; NaN only when all are.
    pub max: f64,
    /// The sum, added in the order of time; [`Aggregate::avg`] divides it.
    pub sum: f64,
    /// The value of the earliest row.
    pub first: f64,
    /// The value of the latest row.
    pub last: f64,
}

impl Aggregate {
    fn of(value: f64) -> Self {
        Self {
            count: 1,
            min: value,
            max: value,
            sum: value,
            first: value,
            last: value,
        }
    }

    fn add(&mut self, value: f64) {
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += value;
        self.last = value;
    }

    /// The arithmetic mean.
    pub fn avg(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// One step with at least one point.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRow {
    /// The step's beginning, milliseconds since the Unix epoch, a multiple of the step.
    pub ts_ms: i64,
    /// What it holds, in ascending order of the names.
    pub metrics: BTreeMap<MetricName, Aggregate>,
}

/// Sums up rows of ascending time by steps; steps without a row are left out.
#[derive(Debug)]
pub struct Steps<I: Iterator<Item = Row>> {
    rows: std::iter::Peekable<I>,
    step_ms: i64,
}

impl<I: Iterator<Item = Row>> Steps<I> {
    /// Divides time into steps of `step_ms` milliseconds that begin at multiples of it.
    ///
    /// # Panics
    /// When `step_ms` is not positive: who parses it checks it.
    pub fn new(rows: impl IntoIterator<IntoIter = I>, step_ms: i64) -> Self {
        assert!(step_ms > 0, "step of {step_ms} ms is not positive");
        Self {
            rows: rows.into_iter().peekable(),
            step_ms,
        }
    }
}

impl<I: Iterator<Item = Row>> Iterator for Steps<I> {
    type Item = StepRow;

    fn next(&mut self) -> Option<StepRow> {
        let step_ms = self.step_ms;
        let step_of = |row: &Row| row.ts_ms.div_euclid(step_ms);
        let step = step_of(self.rows.peek()?);
        let mut metrics = BTreeMap::<MetricName, Aggregate>::new();
        while let Some(row) = self.rows.next_if(|row| step_of(row) == step) {
            for (name, value) in row.metrics() {
                match metrics.get_mut(name) {
                    Some(aggregate) => aggregate.add(value),
                    None => {
                        metrics.insert(name.clone(), Aggregate::of(value));
                    }
                }
            }
        }
        // The step that holds i64::MIN may begin before it.
        let ts_ms = step.saturating_mul(step_ms);
        Some(StepRow { ts_ms, metrics })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ts_ms: i64, metric: &str, value: f64) -> Row {
        let name = MetricName::parse(metric).expect("a valid name");
        Row::from_pairs(ts_ms, [(name, value)]).expect("one metric")
    }

    #[test]
    fn a_step_sums_up_the_rows_from_its_beginning_to_the_next() {
        let rows = [
            row(60_000, "a", 3.0),
            row(60_500, "a", 1.0),
            row(119_999, "a", 5.0),
            row(120_000, "a", 9.0),
        ];
        let steps: Vec<_> = Steps::new(rows, 60_000).collect();
        assert_eq!(steps.len(), 2);
        assert_eq!(steps[0].ts_ms, 60_000);
        let a = steps[0].metrics["a"];
        assert_eq!(
            (a.count, a.min, a.max, a.avg(), a.first, a.last),
            (3, 1.0, 5.0, 3.0, 3.0, 5.0)
        );
        assert_eq!(steps[1].metrics["a"].count, 1);
    }

    #[test]
    fn steps_before_the_epoch_begin_at_multiples_too_and_gaps_give_none() {
        let rows = [row(-1, "a", 1.0), row(200, "b", 2.0)];
        let steps: Vec<_> = Steps::new(rows, 100).map(|step| step.ts_ms).collect();
        assert_eq!(steps, [-100, 200]);
    }

    #[test]
    fn nan_counts_but_spoils_neither_lowest_nor_highest() {
        let rows = [row(0, "a", f64::NAN), row(1, "a", 2.0)];
        let step = Steps::new(rows, 100).next().expect("one step");
        let a = step.metrics["a"];
        assert_eq!((a.count, a.min, a.max, a.last), (2, 2.0, 2.0, 2.0));
        assert!(a.avg().is_nan());
    }

    #[test]
    fn the_extremes_of_time_do_not_overflow() {
        let rows = [row(i64::MIN, "a", 1.0), row(i64::MAX, "a", 1.0)];
        let steps: Vec<_> = Steps::new(rows, 1000).map(|step| step.ts_ms).collect();
        assert_eq!(steps, [i64::MIN, i64::MAX / 1000 * 1000]);
    }
}
