//! A picture of few colours, with letters of a bitmap font: nothing of the system is needed.

use std::path::Path;

use font8x8::legacy::BASIC_LEGACY;

pub(super) const WIDTH: usize = 1_000;
pub(super) const MARGIN: usize = 16;
/// Pixels of a dot of the font.
const SCALE: usize = 2;
pub(super) const LETTER: usize = 8 * SCALE;

/// White, black, grey, the colours of bars and lines, and that of what lies behind them.
const PALETTE: [[u8; 3]; 10] = [
    [255, 255, 255],
    [30, 30, 30],
    [110, 110, 110],
    [0, 114, 178],
    [230, 159, 0],
    [170, 170, 170],
    [0, 158, 115],
    [204, 121, 167],
    [86, 180, 233],
    [250, 222, 216],
];
pub(super) const BLACK: u8 = 1;
pub(super) const GREY: u8 = 2;
/// What tells bars and lines apart.
pub(super) const COLOURS: [u8; PALETTE.len() - 4] = [3, 4, 5, 6, 7, 8];
/// What lies behind lines.
pub(super) const PALE: u8 = 9;

pub(super) struct Canvas {
    height: usize,
    /// Places in the palette, line by line.
    pixels: Vec<u8>,
}

impl Canvas {
    pub(super) fn new(height: usize) -> Self {
        Self {
            height,
            pixels: vec![0; WIDTH * height],
        }
    }

    /// What lies outside is left out.
    pub(super) fn fill(
        &mut self,
        left: usize,
        top: usize,
        width: usize,
        height: usize,
        colour: u8,
    ) {
        let right = (left + width).min(WIDTH);
        for row in top..(top + height).min(self.height) {
            if left < right {
                self.pixels[row * WIDTH + left..row * WIDTH + right].fill(colour);
            }
        }
    }

    pub(super) fn text(&mut self, left: usize, top: usize, text: &str, colour: u8) {
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

    /// A line of three pixels from one point to another.
    pub(super) fn line(&mut self, from: (usize, usize), to: (usize, usize), colour: u8) {
        let steps = from.0.abs_diff(to.0).max(from.1.abs_diff(to.1)).max(1);
        let between = |from: usize, to: usize, step: usize| {
            let share = step as f64 / steps as f64;
            (from as f64 + (to as f64 - from as f64) * share).round() as usize
        };
        for step in 0..=steps {
            let (x, y) = (between(from.0, to.0, step), between(from.1, to.1, step));
            self.fill(x.saturating_sub(1), y.saturating_sub(1), 3, 3, colour);
        }
    }

    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
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
