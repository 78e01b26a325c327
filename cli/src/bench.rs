//! `tidewire bench`: one module for each word.

mod density;
mod pipeline;

use clap::Subcommand;

use crate::not_built;

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Bytes and time per stored point, beside Gorilla and zstd.
    Density(density::Density),
    /// The telemetry line: JSON at QoS 1, fsynced log, store; the node on one core.
    Pipeline(pipeline::Pipeline),
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Measures; the exit code.
pub(crate) fn run(bench: &Bench) -> u8 {
    match bench {
        Bench::Density(density) => density::run(density),
        Bench::Pipeline(pipeline) => pipeline::run(pipeline),
        Bench::Other(words) => not_built::refuse("bench", words),
    }
}
