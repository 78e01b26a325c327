//! Integration tests of the crate's public face.

mod block;
mod density;
mod head;
mod json;
