//! Figures over time with what happened meanwhile: bands behind the lines, lanes below them.

use std::path::Path;

use super::canvas::{BLACK, COLOURS, Canvas, MARGIN, PALE};
use super::lines::{LINE, PANEL_HEIGHT, PLOT_AT, PLOT_HEIGHT, PLOT_WIDTH, Panel, draw, greatest};

/// A time in which something happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// Its first second.
    pub from: f64,
    /// Its last.
    pub to: f64,
}

/// When something was there.
#[derive(Clone, Debug, PartialEq)]
pub struct Lane {
    /// Its name.
    pub name: String,
    /// First and last second of each time.
    pub spans: Vec<(f64, f64)>,
}

/// A chart of panels with a common axis, bands behind all of them and lanes below.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// Heading.
    pub title: String,
    /// Panels from top to bottom.
    pub panels: Vec<Panel>,
    /// What is marked in each of them.
    pub bands: Vec<Band>,
    /// Lanes from top to bottom.
    pub lanes: Vec<Lane>,
}

/// Pixels of a lane.
const LANE: usize = 16;
/// Which of the colours a lane has.
const LANE_COLOUR: usize = 3;

impl Timeline {
    /// Writes the chart.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let top = MARGIN + 2 * LINE;
        let lanes_at = top + self.panels.len() * PANEL_HEIGHT;
        let mut canvas = Canvas::new(lanes_at + self.lanes.len() * LINE + MARGIN);
        canvas.text(MARGIN, MARGIN, &self.title, BLACK);
        let points = self.panels.iter().flat_map(|panel| &panel.series);
        let of_points = points
            .flat_map(|series| &series.points)
            .map(|point| point.0);
        let of_lanes = self
            .lanes
            .iter()
            .flat_map(|lane| &lane.spans)
            .map(|span| span.1);
        let end = greatest(of_points.chain(of_lanes));
        for (place, panel) in self.panels.iter().enumerate() {
            let panel_top = top + place * PANEL_HEIGHT;
            for band in &self.bands {
                let (left, width) = stretch(band.from, band.to, end);
                canvas.fill(left, panel_top + LINE, width, PLOT_HEIGHT, PALE);
            }
            draw(&mut canvas, panel_top, panel, end);
        }
        for (place, lane) in self.lanes.iter().enumerate() {
            let lane_top = lanes_at + place * LINE;
            canvas.text(MARGIN, lane_top, &lane.name, BLACK);
            for (from, to) in &lane.spans {
                let (left, width) = stretch(*from, *to, end);
                canvas.fill(left, lane_top, width, LANE, COLOURS[LANE_COLOUR]);
            }
        }
        canvas.write(path)
    }
}

/// Where a time begins, and how wide it is: a pixel at least, so that it is seen.
fn stretch(from: f64, to: f64, end: f64) -> (usize, usize) {
    let x = |seconds: f64| PLOT_AT + ((seconds / end).clamp(0.0, 1.0) * PLOT_WIDTH as f64) as usize;
    (x(from), (x(to) - x(from).min(x(to))).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::Series;

    #[test]
    fn a_band_lies_behind_the_line_and_a_lane_where_it_was_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("chart.png");
        let timeline = Timeline {
            title: "title".into(),
            panels: vec![Panel {
                title: "rate".into(),
                series: vec![Series {
                    name: "one".into(),
                    points: vec![(0.0, 5.0), (10.0, 5.0)],
                }],
            }],
            bands: vec![Band { from: 4.0, to: 6.0 }],
            lanes: vec![Lane {
                name: "node 1".into(),
                spans: vec![(0.0, 5.0)],
            }],
        };
        timeline.write(&path).expect("written");
        let file = std::io::BufReader::new(std::fs::File::open(path).expect("there"));
        let mut reader = png::Decoder::new(file).read_info().expect("a picture");
        let info = reader.info();
        let (width, height) = (info.width as usize, info.height as usize);
        let mut pixels = vec![0; width * height];
        reader.next_frame(&mut pixels).expect("whole");
        let at = |x: usize, y: usize| pixels[y * width + x];
        let middle = MARGIN + 2 * LINE + LINE + PLOT_HEIGHT / 2;
        assert_eq!(at(PLOT_AT + PLOT_WIDTH / 2, middle), PALE);
        assert_ne!(at(PLOT_AT + PLOT_WIDTH / 4, middle), PALE);
        let lane = MARGIN + 2 * LINE + PANEL_HEIGHT + LANE / 2;
        assert_eq!(at(PLOT_AT + PLOT_WIDTH / 4, lane), COLOURS[LANE_COLOUR]);
        assert_ne!(at(PLOT_AT + PLOT_WIDTH * 3 / 4, lane), COLOURS[LANE_COLOUR]);
    }
}
