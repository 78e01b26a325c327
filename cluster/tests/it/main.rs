//! Integration tests of the crate's public face.

mod corpus;
mod fuzz_link;
