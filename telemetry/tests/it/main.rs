//! Integration tests of the crate's public face.

mod block;
mod corpus;
mod density;
mod fuzz_block;
mod fuzz_json;
mod head;
mod json;
