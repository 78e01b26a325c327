//! Integration tests of the crate's public face.

mod corpus;
mod fuzz_link;
mod fuzz_member;
mod fuzz_raft;
mod member_corpus;
mod sim;
mod simulation;
