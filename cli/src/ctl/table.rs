//! Tables for people.

use std::fmt::Write as _;

/// Says at which side of a column its cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Is a table with a line of heads.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Side)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, a cell for each column.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len(), "a cell for each column");
        self.rows
            .push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    /// Writes the table; nothing when it has no rows.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if self.rows.is_empty() {
            return text;
        }
        let heads: Vec<String> = self
            .columns
            .iter()
            .map(|(head, _)| (*head).to_owned())
            .collect();
        let widths: Vec<usize> = (0..heads.len())
            .map(|at| {
                let cells = self.rows.iter().chain([&heads]);
                cells.map(|row| row[at].chars().count()).max().unwrap_or(0)
            })
            .collect();
        for row in [&heads].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, (_, side)), width) in row.iter().zip(&self.columns).zip(&widths) {
                match side {
                    Side::Left => write!(line, "{cell:<width$}  "),
                    Side::Right => write!(line, "{cell:>width$}  "),
                }
                .expect("a String takes everything");
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// Is names and what is said of each, one a line.
#[derive(Debug, Default)]
pub(super) struct Facts(Vec<(&'static str, String)>);

impl Facts {
    pub(super) fn add(&mut self, name: &'static str, fact: &str) {
        self.0.push((name, plain(fact)));
    }

    pub(super) fn text(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let line = |(name, fact): &(&str, String)| format!("{name:<width$}  {fact}\n");
        self.0.iter().map(line).collect()
    }
}

/// A span of time, by its two largest units.
pub(super) fn span(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m{rest:02}s"),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// A size in bytes, rounded to a unit of which there are less than ten thousand.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes;
    let mut at = 0;
    while size >= 10_000 && at + 1 < units.len() {
        size = (size + 512) >> 10;
        at += 1;
    }
    format!("{size} {}", units[at])
}

/// Escapes what would steer a terminal: devices and Kafka choose these bytes.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for one in text.chars() {
        if one.is_control() || is_invisible(one) {
            out.extend(one.escape_default());
        } else {
            out.push(one);
        }
    }
    out
}

/// Marks that turn the direction of text, and those of no width.
fn is_invisible(one: char) -> bool {
    matches!(one, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Cuts a text to so many characters.
pub(super) fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&[
            ("NAME", Side::Left),
            ("N", Side::Right),
            ("WHY", Side::Left),
        ]);
        table.row(["a".into(), "100".into(), String::new()]);
        table.row(["größer".into(), "1".into(), "x".into()]);
        assert_eq!(
            table.text(),
            "NAME      N  WHY\na       100\ngrößer    1  x\n"
        );
        assert_eq!(Table::new(&[("NAME", Side::Left)]).text(), "");
    }

    #[test]
    fn nothing_in_a_cell_steers_the_terminal() {
        let mut table = Table::new(&[("A", Side::Left)]);
        table.row(["\u{1b}[2J\r\n\u{9b}31m\u{202e}é".into()]);
        assert_eq!(table.text(), "A\n\\u{1b}[2J\\r\\n\\u{9b}31m\\u{202e}é\n");
    }

    #[test]
    fn spans_and_sizes_are_said_in_units_that_fit() {
        let spans = [0, 59, 61, 3_661, 90_000].map(span);
        assert_eq!(spans, ["0s", "59s", "1m01s", "1h01m", "1d01h"]);
        let sizes = [0, 9_999, 10_000, 5 << 20, 1 << 40].map(bytes);
        assert_eq!(sizes, ["0 B", "9999 B", "10 KiB", "5120 KiB", "1024 GiB"]);
    }

    #[test]
    fn a_cut_falls_between_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöü", 2), "äö…");
    }
}
