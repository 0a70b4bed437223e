//! Calling a WASI command: the input on standard input, the output on standard output, the exit
//! status as the verdict.

use taskforge_domain::{Failure, Shape};
use wasmtime::Store;
use wasmtime_wasi::{I32Exit, p2::bindings::CommandPre};

use super::text;
use crate::{contract::handler, host::HostState};

/// As much of its standard output as may say why a command failed, in bytes: the report, and a
/// trace after it.
const LAST_WORDS: usize = 64 << 10;

/// Instantiates it and runs it to its end.
pub(super) async fn call(
    code: &CommandPre<HostState>,
    store: &mut Store<HostState>,
    task: handler::Task<'_>,
) -> wasmtime::Result<Result<String, Failure>> {
    let variables = [
        ("TASKFORGE_TASK_ID", task.id.to_owned()),
        ("TASKFORGE_ATTEMPT", task.attempt.to_string()),
        ("TASKFORGE_MAX_ATTEMPTS", task.max_attempts.to_string()),
        ("TASKFORGE_DEADLINE", task.deadline.to_string()),
    ];
    let stdout = store.data_mut().serve_command(task.input, &variables)?;
    let command = code.instantiate_async(&mut *store).await?;
    let error = match command.wasi_cli_run().call_run(&mut *store).await {
        Ok(Ok(())) => return Ok(text(stdout.take(), Shape::Command)),
        Ok(Err(())) => I32Exit(1).into(),
        Err(error) => error,
    };
    // A program that calls `exit` comes back as an error, with status 0 as well.
    if let Some(I32Exit(0)) = error.downcast_ref() {
        return Ok(text(stdout.take(), Shape::Command));
    }
    let printed = stdout.take();
    let tail = &printed[printed.len().saturating_sub(LAST_WORDS)..];
    store.data_mut().log.lock().printed(tail);
    Err(error)
}
