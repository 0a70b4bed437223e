//! The two ways to ask a process to end, and how long that may take.

use std::{process::ExitCode, time::Duration};

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

/// What an ending may take beyond its grace period: to hand back what was not done, to flush, and to close.
const CLOSING: Duration = Duration::from_secs(5);

impl Signals {
    /// Waits for an ending that has begun, but not for longer than its grace period and [`CLOSING`], nor beyond a second
    /// signal: a database that hangs keeps no process alive. What is cut off is put right as after a crash.
    pub(crate) async fn end(&mut self, grace: Duration, stopped: impl Future<Output = ()>) -> ExitCode {
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
                    "the process did not end in time and is cut off; what it held lapses"
                );
                ExitCode::FAILURE
            }
        }
    }
}

/// What a process that was ended at once by a second signal exits with.
pub(crate) const INTERRUPTED: u8 = 130;
