//! Storage against a disk that fails: one binary, one module per subject.

mod crash;
mod fs;
mod journal;
mod log;
mod raft;
mod raft_crash;
mod raft_meddle;
mod state;
mod state_full;
mod write_amplification;
