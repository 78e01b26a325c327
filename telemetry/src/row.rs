//! Rows: one moment of one device with many metrics.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name of a metric: UTF-8, 1 to 128 bytes.
///
/// Ordered by its bytes. Cloning costs a reference count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MetricName(Arc<str>);

impl MetricName {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// Checks and copies a name.
    ///
    /// # Errors
    /// [`MetricNameError`] when it is empty or longer than [`MetricName::BYTES_MAX`].
    pub fn parse(name: &str) -> Result<Self, MetricNameError> {
        match name.len() {
            0 => Err(MetricNameError::Empty),
            1..=Self::BYTES_MAX => Ok(Self(Arc::from(name))),
            len => Err(MetricNameError::TooLong(len)),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for MetricName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Why text is no metric name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetricNameError {
    /// There is none.
    #[error("metric name is empty")]
    Empty,
    /// More than [`MetricName::BYTES_MAX`].
    #[error("metric name of {0} bytes exceeds 128")]
    TooLong(usize),
}

/// The metric names of a row: distinct, in ascending order, shared by all rows that have the same.
///
/// Cloning costs a reference count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Schema(Arc<[MetricName]>);

impl Schema {
    /// Makes a schema of names in any order; repeated names count once.
    pub fn new(mut names: Vec<MetricName>) -> Self {
        names.sort_unstable();
        names.dedup();
        Self(names.into())
    }

    /// The names, distinct and ascending.
    pub fn names(&self) -> &[MetricName] {
        &self.0
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no name.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Finds the place of a name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.0.binary_search_by(|n| n.as_str().cmp(name)).ok()
    }

    /// Whether both are the same object in memory, which implies that they are equal.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The names of both; shares the memory of `self` when it already has all of them.
    pub fn union(&self, other: &Self) -> Self {
        if self.is_same(other)
            || other
                .names()
                .iter()
                .all(|n| self.position(n.as_str()).is_some())
        {
            return self.clone();
        }
        let mut names = Vec::with_capacity(self.len() + other.len());
        names.extend_from_slice(self.names());
        names.extend_from_slice(other.names());
        Self::new(names)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// One moment of one device.
///
/// Two rows are equal when their bits are: NaN equals itself, `-0.0` differs from `0.0`.
#[derive(Clone)]
pub struct Row {
    /// Event time, milliseconds since the Unix epoch; the whole range of `i64` is valid.
    pub ts_ms: i64,
    schema: Schema,
    values: Box<[f64]>,
}

impl Row {
    /// Makes a row of a schema and one value for each of its names.
    ///
    /// # Panics
    /// When the two have different lengths.
    pub fn new(ts_ms: i64, schema: Schema, values: impl Into<Box<[f64]>>) -> Self {
        let values = values.into();
        assert_eq!(schema.len(), values.len(), "each name has one value");
        Self {
            ts_ms,
            schema,
            values,
        }
    }

    /// Makes a row of pairs in any order.
    ///
    /// # Errors
    /// [`RepeatedMetric`] with the name that occurs more than once.
    pub fn from_pairs(
        ts_ms: i64,
        pairs: impl IntoIterator<Item = (MetricName, f64)>,
    ) -> Result<Self, RepeatedMetric> {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(RepeatedMetric(pair[0].0.clone()));
        }
        let values = pairs.iter().map(|pair| pair.1).collect::<Box<[f64]>>();
        let names = pairs.into_iter().map(|pair| pair.0).collect::<Arc<[_]>>();
        Ok(Self::new(ts_ms, Schema(names), values))
    }

    /// The metric names, shared with other rows.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The values, in the order of the schema's names.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The metrics in ascending order of their names.
    pub fn metrics(&self) -> impl ExactSizeIterator<Item = (&MetricName, f64)> {
        self.schema.names().iter().zip(self.values.iter().copied())
    }

    /// The value of one metric.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.schema.position(name).map(|at| self.values[at])
    }

    /// How many metrics the row has.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether the row has no metric.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Keeps only the metrics for which `wanted` says true.
    #[must_use]
    pub fn select(&self, wanted: impl Fn(&str) -> bool) -> Self {
        let kept = self.metrics().filter(|(name, _)| wanted(name.as_str()));
        let (names, values): (Vec<_>, Vec<_>) = kept.map(|(n, v)| (n.clone(), v)).unzip();
        Self::new(self.ts_ms, Schema(names.into()), values)
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.ts_ms == other.ts_ms
            && self.schema == other.schema
            && self
                .values
                .iter()
                .zip(&other.values)
                .all(|(a, b)| a.to_bits() == b.to_bits())
    }
}

impl Eq for Row {}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.ts_ms)?;
        f.debug_map().entries(self.metrics()).finish()
    }
}

/// A metric that occurs more than once where it may occur once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metric {0} occurs more than once")]
pub struct RepeatedMetric(pub MetricName);

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> MetricName {
        MetricName::parse(text).expect("a valid name")
    }

    #[test]
    fn a_name_has_between_1_and_128_bytes() {
        assert_eq!(MetricName::parse(""), Err(MetricNameError::Empty));
        assert!(MetricName::parse(&"m".repeat(128)).is_ok());
        assert_eq!(
            MetricName::parse(&"m".repeat(129)),
            Err(MetricNameError::TooLong(129))
        );
    }

    #[test]
    fn pairs_in_any_order_make_a_row_sorted_by_name() {
        let row = Row::from_pairs(7, [(name("b"), 2.0), (name("a"), 1.0)]).expect("distinct");
        let metrics: Vec<_> = row.metrics().map(|(n, v)| (n.as_str(), v)).collect();
        assert_eq!(metrics, [("a", 1.0), ("b", 2.0)]);
        assert_eq!(row.get("b"), Some(2.0));
        assert_eq!(row.get("c"), None);
    }

    #[test]
    fn a_repeated_name_is_refused() {
        let row = Row::from_pairs(7, [(name("a"), 2.0), (name("a"), 2.0)]);
        assert_eq!(row, Err(RepeatedMetric(name("a"))));
    }

    #[test]
    fn rows_are_compared_by_their_bits() {
        let row = |value| Row::from_pairs(7, [(name("a"), value)]).expect("distinct");
        assert_eq!(row(f64::NAN), row(f64::NAN));
        assert_ne!(row(0.0), row(-0.0));
        assert_ne!(row(f64::NAN), row(f64::from_bits(f64::NAN.to_bits() | 1)));
    }

    #[test]
    fn a_union_that_adds_nothing_shares_memory() {
        let ab = Schema::new(vec![name("b"), name("a"), name("b")]);
        let b = Schema::new(vec![name("b")]);
        assert!(ab.union(&b).is_same(&ab));
        assert_eq!(b.union(&ab), ab);
    }
}
