//! Child processes: those whose exit alone counts, and those whose lines are read while they are shown.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

/// Runs to the end and tells whether the exit code was 0; what cannot be started says so and counts as failed.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    match command.stdin(Stdio::null()).status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!(
                "xtask: cannot run {}: {error}",
                command.get_program().display()
            );
            false
        }
    }
}

/// Like [`succeeds`], passing standard output through and giving each of its lines to `read`.
pub(crate) fn succeeds_reading(command: &mut Command, mut read: impl FnMut(&str)) -> bool {
    let mut child = match command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!(
                "xtask: cannot run {}: {error}",
                command.get_program().display()
            );
            return false;
        }
    };
    let mut lines = BufReader::new(child.stdout.take().expect("stdout was piped above"));
    let mut line = Vec::new();
    let mut complete = true;
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                read(text.trim_end());
                // A closed pipe of ours must not stop the tests: their exit code still counts.
                let mut stdout = std::io::stdout().lock();
                let shown = stdout.write_all(&line).and_then(|()| stdout.flush());
                if let Err(error) = shown {
                    eprintln!("xtask: cannot show a line: {error}");
                }
            }
            Err(error) => {
                eprintln!("xtask: cannot read the output: {error}");
                complete = false;
                break;
            }
        }
    }
    // Closing the pipe lets a child that still writes end, so that the wait below cannot hang.
    drop(lines);
    match child.wait() {
        Ok(status) => status.success() && complete,
        Err(error) => {
            eprintln!("xtask: cannot wait for the tests: {error}");
            false
        }
    }
}
