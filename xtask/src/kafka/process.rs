//! Processes by their numbers.

use std::process::{Command, Stdio};

/// Sends a signal by its name, such as `TERM`; the shell's own `kill` is there even where `/bin/kill` is not.
pub(super) fn signal(pid: u32, name: &str) -> Result<(), String> {
    let output = Command::new("sh")
        .args(["-c", r#"kill -"$0" "$1""#, name, &pid.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run sh: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        Err(format!("cannot send {name} to {pid}: {}", text.trim()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_signal_reaches_its_process_and_an_ended_one_is_an_error() {
        let mut sleeper = Command::new("sleep").arg("601").spawn().unwrap();
        let pid = sleeper.id();

        signal(pid, "TERM").unwrap();
        assert_eq!(sleeper.wait().unwrap().signal(), Some(15));

        assert!(signal(pid, "TERM").unwrap_err().contains("TERM"));
    }
}
