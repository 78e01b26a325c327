//! What ends a broker whose test was killed.
//!
//! `PR_SET_PDEATHSIG` would do it too, but fires when the *thread* that started the child ends, and tests share
//! clusters between threads.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Waits for the end of its standard input, which comes when the process that holds the other end is gone.
const SCRIPT: &str = r#"read -r _; kill -KILL "$0""#;

/// A shell that kills another child of this process once this process has ended, however that came.
///
/// The other child must be waited for before this value is dropped: until then its number belongs to nobody else.
#[derive(Debug)]
pub(super) struct Watchdog(Child);

impl Watchdog {
    pub(super) fn over(pid: u32) -> Result<Self, String> {
        Command::new("sh")
            .args(["-c", SCRIPT, &pid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C for the tests must not end the watchdog before its work.
            .process_group(0)
            .spawn()
            .map(Self)
            .map_err(|error| format!("cannot start sh, which watches over a broker: {error}"))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // `wait` closes the pipe first, so the shell must be dead before it.
        let ended = self.0.kill().and_then(|()| self.0.wait());
        if let Err(error) = ended {
            eprintln!("cannot end the watchdog {}: {error}", self.0.id());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::time::Duration;

    use super::super::wait;
    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().unwrap()
    }

    #[test]
    fn the_end_of_this_process_kills_the_watched_one() {
        let mut sleeper = sleeper();
        let mut watchdog = Watchdog::over(sleeper.id()).unwrap();

        // What the kernel does with all pipes of a killed process.
        drop(watchdog.0.stdin.take());

        let ended = wait::until(Duration::from_secs(60), || Ok(sleeper.try_wait().unwrap()));
        let ended = ended.unwrap().expect("the watchdog ends it");
        assert_eq!(ended.signal(), Some(9));
    }

    #[test]
    fn a_dropped_watchdog_kills_nobody() {
        let mut sleeper = sleeper();
        let watchdog = Watchdog::over(sleeper.id()).unwrap();

        drop(watchdog);

        assert_eq!(sleeper.try_wait().unwrap(), None);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
}
