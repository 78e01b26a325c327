//! Figures over time, in panels one below the other with a common axis.

use std::path::Path;

use super::canvas::{BLACK, COLOURS, Canvas, GREY, LETTER, MARGIN, WIDTH};

/// Figures of one unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// Heading, with the unit.
    pub title: String,
    /// Lines in it; the greatest value of all is its upper end, 0 its lower.
    pub series: Vec<Series>,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Seconds and value, in the order of time.
    pub points: Vec<(f64, f64)>,
}

pub(super) const LINE: usize = 26;
pub(super) const PLOT_HEIGHT: usize = 150;
/// Room for the numbers left of a plot.
pub(super) const PLOT_AT: usize = MARGIN + 8 * LETTER;
pub(super) const PLOT_WIDTH: usize = WIDTH - PLOT_AT - 2 * MARGIN;
/// Heading, plot, seconds, and a gap.
pub(super) const PANEL_HEIGHT: usize = 2 * LINE + PLOT_HEIGHT + LINE;

/// Writes a chart.
///
/// # Errors
/// When the file cannot be written.
pub fn write_panels(path: &Path, title: &str, panels: &[Panel]) -> std::io::Result<()> {
    let mut canvas = Canvas::new(2 * MARGIN + 2 * LINE + panels.len() * PANEL_HEIGHT);
    canvas.text(MARGIN, MARGIN, title, BLACK);
    let all = panels.iter().flat_map(|panel| &panel.series);
    let end = greatest(all.flat_map(|series| &series.points).map(|point| point.0));
    for (place, panel) in panels.iter().enumerate() {
        draw(
            &mut canvas,
            MARGIN + 2 * LINE + place * PANEL_HEIGHT,
            panel,
            end,
        );
    }
    canvas.write(path)
}

pub(super) fn draw(canvas: &mut Canvas, top: usize, panel: &Panel, end: f64) {
    canvas.text(MARGIN, top, &panel.title, GREY);
    let mut names_at = MARGIN + (panel.title.chars().count() + 2) * LETTER;
    let (plot_top, bottom) = (top + LINE, top + LINE + PLOT_HEIGHT);
    canvas.fill(PLOT_AT, bottom, PLOT_WIDTH, 1, GREY);
    canvas.fill(PLOT_AT, plot_top, 1, PLOT_HEIGHT, GREY);
    let points = panel.series.iter().flat_map(|series| &series.points);
    let most = greatest(points.map(|point| point.1));
    canvas.text(MARGIN, plot_top, &short(most), BLACK);
    canvas.text(MARGIN, bottom - LETTER, "0", BLACK);
    let seconds = format!("{end:.0} s");
    let right = WIDTH - MARGIN - seconds.chars().count() * LETTER;
    canvas.text(PLOT_AT, bottom + 6, "0", BLACK);
    canvas.text(right, bottom + 6, &seconds, BLACK);
    let place = |(at, value): (f64, f64)| {
        let share = |part: f64, whole: f64| (part / whole).clamp(0.0, 1.0);
        let x = PLOT_AT + (share(at, end) * PLOT_WIDTH as f64) as usize;
        let y = bottom - (share(value, most) * PLOT_HEIGHT as f64) as usize;
        (x, y)
    };
    for (series, colour) in panel.series.iter().zip(COLOURS.iter().cycle()) {
        canvas.text(names_at, top, &series.name, *colour);
        names_at += (series.name.chars().count() + 2) * LETTER;
        for pair in series.points.windows(2) {
            canvas.line(place(pair[0]), place(pair[1]), *colour);
        }
    }
}

/// Above 0 in any case, so that it can be divided by.
pub(super) fn greatest(values: impl Iterator<Item = f64>) -> f64 {
    let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
    if most > 0.0 { most } else { 1.0 }
}

fn short(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{:.2}M", value / 1e6),
        _ if value >= 1e4 => format!("{:.1}k", value / 1e3),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Series {
        Series {
            name: "one".into(),
            points: points.to_vec(),
        }
    }

    /// The places in the palette, line by line.
    fn drawn(panels: &[Panel]) -> Vec<Vec<u8>> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("chart.png");
        write_panels(&path, "title", panels).expect("written");
        let file = std::io::BufReader::new(std::fs::File::open(path).expect("there"));
        let mut reader = png::Decoder::new(file).read_info().expect("a picture");
        let mut pixels = vec![0; WIDTH * reader.info().height as usize];
        reader.next_frame(&mut pixels).expect("whole");
        pixels.chunks(WIDTH).map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn a_line_goes_from_the_lower_left_to_the_upper_right_of_its_panel() {
        let panel = Panel {
            title: "rate".into(),
            series: vec![series(&[(0.0, 0.0), (10.0, 500.0)])],
        };
        let rows = drawn(&[panel]);
        let top = MARGIN + 2 * LINE + LINE;
        let is_line = |x: usize, y: usize| rows[y][x] == COLOURS[0];
        assert!(is_line(PLOT_AT, top + PLOT_HEIGHT));
        assert!(is_line(PLOT_AT + PLOT_WIDTH / 2, top + PLOT_HEIGHT / 2));
        assert!(is_line(PLOT_AT + PLOT_WIDTH, top));
        assert!(!is_line(PLOT_AT + PLOT_WIDTH, top + PLOT_HEIGHT));
    }

    #[test]
    fn a_panel_without_a_point_or_with_zeros_alone_is_drawn() {
        let panels = [&[][..], &[(0.0, 0.0), (1.0, 0.0)]].map(|points| Panel {
            title: "nothing".into(),
            series: vec![series(points)],
        });
        assert!(!drawn(&panels).is_empty());
    }
}
