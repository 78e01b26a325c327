//! `cargo xtask`: the words that people and CI use to check this repository.

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    tidewire_xtask::words::obey(&words)
}
