//! Integration tests of the crate's public face.
