//! Charts as PNG.

mod bars;
mod canvas;
mod lines;

pub use bars::{Bar, Group, write};
pub use lines::{Panel, Series, write_panels};
