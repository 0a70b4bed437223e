//! Calling a WASI command: the input on standard input, the output on standard output, the exit status as the verdict.

use taskforge_domain::{Failure, FailureKind};
use wasmtime::Store;
use wasmtime_wasi::{I32Exit, p2::bindings::CommandPre};

use super::text;
use crate::{contract::handler, host::HostState, verdict::message};

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
    if status != 0 {
        return Ok(Err(failed(store.data(), status)));
    }
    Ok(text(stdout.take()))
}

/// What a program says last on standard error is why it gave up.
fn failed(state: &HostState, status: i32) -> Failure {
    let mut log = state.log.lock();
    log.flush();
    let said = log.last_error_line().filter(|line| !line.trim().is_empty());
    let why = said.map_or_else(|| format!("the command exited with status {status}"), message);
    Failure::new(FailureKind::Exited, why)
}
