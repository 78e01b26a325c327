//! The signals that stop a process.

use tokio::signal::unix::{SignalKind, signal};

/// Which signal asked the process to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM.
    Terminate,
    /// SIGINT, Ctrl-C.
    Interrupt,
}

/// Waits for SIGTERM or SIGINT. Once called, these signals no longer end the process by
/// themselves. Cancel-safe.
///
/// # Errors
/// When the operating system refuses to install a handler.
pub async fn stop_signal() -> std::io::Result<StopSignal> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(StopSignal::Terminate),
        _ = interrupt.recv() => Ok(StopSignal::Interrupt),
    }
}
