//! A segment: one immutable file of device blocks, sorted by bucket, device and time.
//!
//! The layout is in `docs/formats/segment.md`.

mod format;
mod reader;
mod writer;

pub(super) use format::{BlockEntry, file_name, is_file_name};
pub(super) use reader::{Entries, Segment};
pub(super) use writer::{Pushed, Writer};
