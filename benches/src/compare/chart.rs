//! Bar charts as PNG, with letters of a bitmap font: nothing of the system is needed.

use std::path::Path;

use font8x8::legacy::BASIC_LEGACY;

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

const WIDTH: usize = 1_000;
const MARGIN: usize = 16;
/// Pixels of a dot of the font.
const SCALE: usize = 2;
const LETTER: usize = 8 * SCALE;
const BAR: usize = 20;
const LINE: usize = 26;
const BARS_AT: usize = 210;
const BARS_WIDTH: usize = 560;

/// White, black, grey, then the bars' colours.
const PALETTE: [[u8; 3]; 9] = [
    [255, 255, 255],
    [30, 30, 30],
    [110, 110, 110],
    [0, 114, 178],
    [230, 159, 0],
    [170, 170, 170],
    [0, 158, 115],
    [204, 121, 167],
    [86, 180, 233],
];
const BLACK: u8 = 1;
const GREY: u8 = 2;
const COLOURS: usize = PALETTE.len() - 3;

/// Writes a chart.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, title: &str, groups: &[Group]) -> std::io::Result<()> {
    let lines: usize = groups.iter().map(|group| group.bars.len() + 2).sum();
    let height = 2 * MARGIN + 2 * LINE + lines * LINE;
    let mut canvas = Canvas {
        height,
        pixels: vec![0; WIDTH * height],
    };
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
            canvas.fill(BARS_AT, top, width, BAR, 3 + (bar.colour % COLOURS) as u8);
            canvas.text(BARS_AT + width + 8, top + 2, &bar.text, BLACK);
            top += LINE;
        }
        top += LINE;
    }
    canvas.write(path)
}

struct Canvas {
    height: usize,
    /// Places in the palette, line by line.
    pixels: Vec<u8>,
}

impl Canvas {
    /// What lies outside is left out.
    fn fill(&mut self, left: usize, top: usize, width: usize, height: usize, colour: u8) {
        let right = (left + width).min(WIDTH);
        for row in top..(top + height).min(self.height) {
            if left < right {
                self.pixels[row * WIDTH + left..row * WIDTH + right].fill(colour);
            }
        }
    }

    fn text(&mut self, left: usize, top: usize, text: &str, colour: u8) {
        for (at, letter) in text.chars().enumerate() {
            let glyph = BASIC_LEGACY
                .get(letter as usize)
                .unwrap_or(&BASIC_LEGACY[b'?' as usize]);
            for (row, bits) in glyph.iter().enumerate() {
                for column in (0..8).filter(|column| bits >> column & 1 == 1) {
                    let x = left + at * LETTER + column * SCALE;
                    self.fill(x, top + row * SCALE, SCALE, SCALE, colour);
                }
            }
        }
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let file = std::io::BufWriter::new(std::fs::File::create(path)?);
        let mut encoder = png::Encoder::new(file, WIDTH as u32, self.height as u32);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_palette(PALETTE.concat());
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(())
    }
}
