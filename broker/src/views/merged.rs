//! Parts of a list, each in order, as one.

use std::cmp::Ordering;

/// Rows of several sources in one order, at most a limit of them. Whatever lies up to `end` is
/// there whole.
#[derive(Debug)]
pub(crate) struct Merged<T> {
    rows: Vec<T>,
    /// Up to which key all rows are there; all rows without one.
    end: Option<String>,
    limit: usize,
    key: fn(&T) -> &str,
    order: fn(&str, &str) -> Ordering,
}

impl<T> Merged<T> {
    /// No rows yet.
    pub(crate) fn new(
        limit: usize,
        key: fn(&T) -> &str,
        order: fn(&str, &str) -> Ordering,
    ) -> Self {
        Self {
            rows: Vec::new(),
            end: None,
            limit,
            key,
            order,
        }
    }

    /// Takes the rows of a source: all that it has up to `next`, or all.
    pub(crate) fn add(&mut self, rows: Vec<T>, next: Option<String>) {
        let (key, order) = (self.key, self.order);
        self.rows.extend(rows);
        self.rows.sort_by(|a, b| order(key(a), key(b)));
        let is_earlier = |next: &String, end: &String| order(next, end).is_lt();
        if let Some(next) = next
            && self.end.as_ref().is_none_or(|end| is_earlier(&next, end))
        {
            self.end = Some(next);
        }
        if let Some(end) = &self.end {
            self.rows.retain(|row| order(key(row), end).is_le());
        }
        if self.rows.len() > self.limit {
            self.rows.truncate(self.limit);
            self.end = self.rows.last().map(|last| key(last).to_owned());
        }
    }

    /// The rows, and behind which key to go on.
    pub(crate) fn finish(self) -> (Vec<T>, Option<String>) {
        (self.rows, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(limit: usize) -> Merged<&'static str> {
        Merged::new(limit, |row| row, str::cmp)
    }

    #[test]
    fn rows_of_all_sources_stand_in_one_order() {
        let mut all = merged(9);
        all.add(vec!["b", "d"], None);
        all.add(vec!["a", "c"], None);
        assert_eq!(all.finish(), (vec!["a", "b", "c", "d"], None));
    }

    #[test]
    fn nothing_is_shown_behind_where_a_source_stopped_looking() {
        let mut all = merged(9);
        all.add(vec!["b", "d"], Some("d".into()));
        all.add(vec!["a"], Some("c".into()));
        all.add(vec!["bb", "z"], None);
        assert_eq!(all.finish(), (vec!["a", "b", "bb"], Some("c".into())));
    }

    #[test]
    fn more_rows_than_wanted_are_left_for_the_next_page() {
        let mut all = merged(2);
        all.add(vec!["c", "d"], None);
        all.add(vec!["a", "e"], None);
        all.add(vec!["b"], Some("x".into()));
        assert_eq!(all.finish(), (vec!["a", "b"], Some("b".into())));
        let mut all = merged(2);
        all.add(vec!["a", "b"], None);
        assert_eq!(all.finish(), (vec!["a", "b"], None));
    }
}
