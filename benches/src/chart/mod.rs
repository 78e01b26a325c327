//! Charts as PNG.

mod bars;
mod canvas;
mod lines;
mod timeline;

pub use bars::{Bar, Group, write};
pub use lines::{Panel, Series, write_panels};
pub use timeline::{Band, Lane, Timeline};
