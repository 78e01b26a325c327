//! Bars under headings.

use std::path::Path;

use super::canvas::{BLACK, COLOURS, Canvas, GREY, MARGIN};

/// Bars under a heading; their lengths are relative to the longest among them.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Heading.
    pub title: String,
    /// Bars from top to bottom.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Name left of it.
    pub name: String,
    /// Length.
    pub value: f64,
    /// Words right of it.
    pub text: String,
    /// Which of the colours, in turn.
    pub colour: usize,
}

const BAR: usize = 20;
const LINE: usize = 26;
const BARS_AT: usize = 210;
const BARS_WIDTH: usize = 560;

/// Writes a chart.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, title: &str, groups: &[Group]) -> std::io::Result<()> {
    let lines: usize = groups.iter().map(|group| group.bars.len() + 2).sum();
    let height = 2 * MARGIN + 2 * LINE + lines * LINE;
    let mut canvas = Canvas::new(height);
    canvas.text(MARGIN, MARGIN, title, BLACK);
    let mut top = MARGIN + 2 * LINE;
    for group in groups {
        canvas.text(MARGIN, top, &group.title, GREY);
        top += LINE;
        let longest = group.bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
        for bar in &group.bars {
            let share = if longest > 0.0 {
                (bar.value / longest).clamp(0.0, 1.0)
            } else {
                0.0
            };
            // A pixel at least, so that a bar is seen.
            let width = ((share * BARS_WIDTH as f64).round() as usize).max(1);
            canvas.text(MARGIN, top + 2, &bar.name, BLACK);
            canvas.fill(
                BARS_AT,
                top,
                width,
                BAR,
                COLOURS[bar.colour % COLOURS.len()],
            );
            canvas.text(BARS_AT + width + 8, top + 2, &bar.text, BLACK);
            top += LINE;
        }
        top += LINE;
    }
    canvas.write(path)
}
