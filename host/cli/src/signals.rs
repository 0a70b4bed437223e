//! The two ways to ask a process to end, and how long that may take.

use std::{fmt, process::ExitCode, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and Ctrl-C, heard from the moment on in which this is made.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What an ending may take beyond its grace period: to hand back what was not done, to flush, and
/// to close.
const CLOSING: Duration = Duration::from_secs(5);

impl Signals {
    /// Waits for an ending that has begun, but not for longer than its grace period and
    /// [`CLOSING`], nor beyond a second signal: a database that hangs keeps no process alive. What
    /// is cut off is put right as after a crash.
    pub(crate) async fn end(
        &mut self,
        grace: Duration,
        stopped: impl Future<Output = ()>,
    ) -> ExitCode {
        let longest = grace.saturating_add(CLOSING);
        match tokio::time::timeout(longest, async {
            tokio::select! {
                () = stopped => ExitCode::SUCCESS,
                () = self.next() => ExitCode::from(INTERRUPTED),
            }
        })
        .await
        {
            Ok(code) => code,
            Err(_) => {
                tracing::error!(
                    ?longest,
                    "the process did not end in time and is cut off; its tasks lapse"
                );
                ExitCode::FAILURE
            }
        }
    }
}

/// What a process that was ended at once by a second signal exits with, and a command that was
/// interrupted while it waited.
pub(crate) const INTERRUPTED: u8 = 130;

/// A command was interrupted while it waited for something that may go on without it. The text says
/// what becomes of that, and how to go on.
#[derive(Debug)]
pub(crate) struct Interrupted(String);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted: {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// Waits for something, until a signal ends the waiting with [`Interrupted`].
///
/// # Errors
/// Those of what is waited for.
pub(crate) async fn interruptible<T>(
    done: impl Future<Output = anyhow::Result<T>>,
    how_to_go_on: impl FnOnce() -> String,
) -> anyhow::Result<T> {
    let mut signals = Signals::new()?;
    tokio::select! {
        done = done => done,
        () = signals.next() => Err(Interrupted(how_to_go_on()).into()),
    }
}
