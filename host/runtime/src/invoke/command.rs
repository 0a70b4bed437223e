//! Calls a WASI command: it reads the input from standard input and writes the output to standard
//! output; its exit status tells success from failure.

use taskforge_domain::{Failure, Shape};
use wasmtime::Store;
use wasmtime_wasi::{I32Exit, p2::bindings::CommandPre};

use super::text;
use crate::{contract::handler, host::HostState};

/// How much of the end of its standard output may say why a command failed, in bytes: a report and
/// the trace after it.
const LAST_WORDS: usize = 64 << 10;

/// Instantiates the command and runs it to its end.
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
    // `exit` returns as an error, even with status 0.
    if let Some(I32Exit(0)) = error.downcast_ref() {
        return Ok(text(stdout.take(), Shape::Command));
    }
    let printed = stdout.take();
    let tail = &printed[printed.len().saturating_sub(LAST_WORDS)..];
    store.data_mut().log.lock().printed(tail);
    Err(error)
}
