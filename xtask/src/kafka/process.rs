//! Processes by their numbers: signals, and whether a number still means what it meant.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
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

/// Whether process `pid` is there and one of its arguments is `argument`.
///
/// A number is given again after its process has ended, so only the command line tells whose it is. A process has none
/// for a moment after its start, and from the first moment of its end.
pub(super) fn has_argument(pid: u32, argument: &OsStr) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        line.split(|byte| *byte == 0)
            .any(|word| word == argument.as_bytes())
    })
}

/// Whether process `pid` is there and has not ended; one that is only waited for has, its files and ports are free.
pub(super) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        // The name before the state is in parentheses and may hold some itself.
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        !state.starts_with(['Z', 'X'])
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::time::Duration;

    use super::super::wait;
    use super::*;

    #[test]
    fn the_command_line_tells_whose_number_it_is() {
        let mut sleeper = Command::new("sleep").arg("601").spawn().unwrap();
        let pid = sleeper.id();

        let shows = |argument: &str| {
            let look = || Ok(has_argument(pid, OsStr::new(argument)).then_some(()));
            wait::until(Duration::from_secs(60), look)
                .unwrap()
                .is_some()
        };
        assert!(shows("601"));
        assert!(!has_argument(pid, OsStr::new("60")));

        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(!has_argument(pid, OsStr::new("601")));
    }

    #[test]
    fn a_signalled_process_ends_and_is_not_alive_even_before_it_is_waited_for() {
        let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = sleeper.id();
        assert!(is_alive(pid));

        signal(pid, "TERM").unwrap();

        let ended = || Ok((!is_alive(pid)).then_some(()));
        assert_eq!(wait::until(Duration::from_secs(60), ended), Ok(Some(())));
        assert_eq!(sleeper.wait().unwrap().signal(), Some(15));
        assert!(!is_alive(pid));
        assert!(signal(pid, "TERM").unwrap_err().contains("TERM"));
    }
}
