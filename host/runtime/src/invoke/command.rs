//! Calling a WASI command: the input on standard input, the output on standard output, the exit status as the verdict.

use taskforge_domain::{Failure, Shape};
use wasmtime::Store;
use wasmtime_wasi::{I32Exit, p2::bindings::CommandPre};

use super::text;
use crate::{contract::handler, host::HostState};

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
    let status = match command.wasi_cli_run().call_run(&mut *store).await {
        Ok(Ok(())) => 0,
        Ok(Err(())) => 1,
        // A program that calls `exit` comes back as an error, with status 0 as well.
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => exit.0,
            None => return Err(error),
        },
    };
    match status {
        0 => Ok(text(stdout.take(), Shape::Command)),
        status => Err(I32Exit(status).into()),
    }
}
